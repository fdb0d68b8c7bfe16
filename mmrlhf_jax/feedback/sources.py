"""What there is to judge: answers with their prompt and picture, from a file, as items of a kind.

Every file becomes groups: some answers to one prompt about one picture. What is asked about a group depends
on the kind alone, so that each kind works with each file.
"""

import csv
import dataclasses
import io
import itertools
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from mmrlhf_jax.data.images import decode_image, encode_webp
from mmrlhf_jax.data.preferences import read_preferences
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import MAX_LISTED, MAX_TEXT, Item, Kind, attention_check, is_unicode

MAX_SIDE = 1600  # pixels of a picture on the page
LOSSLESS_SIDE = 256  # a picture up to this size is kept pixel by pixel
PREFERENCE_SIZE = 512  # pixels that a preference file's pictures are fitted into, on white
FEW_CHECKS = 20

_ANSWERS = ("answers", "responses", "completions", "completion", "response", "answer", "caption", "text")
_PICTURES = ("image", "picture", "file_name", "filename", "path")
_SOUNDS = ("audio", "sound")


@dataclasses.dataclass(frozen=True)
class Group:
    """Some answers to one prompt.

    Attributes:
      picture: id in the store, or None.
      sound: id in the store, or None.
      extras: carried to the export; `sources` there names where each answer came from.
    """

    prompt: str
    answers: tuple[str, ...]
    picture: str | None = None
    sound: str | None = None
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_items(
    groups: Sequence[Group], kind: Kind, *, raters: int, overlap: float, checks: bool, seed: int
) -> list[Item]:
    """The items of one kind that can be asked about `groups`, and attention checks.

    A comparison is made of each two different answers of a group, which is a and which b drawn at random;
    lists are whole groups; ratings and corrections are of each answer.

    Args:
      raters: how many there are; with one, nothing overlaps.
      overlap: share of the items that a second rater judges too.

    Raises:
      UserError: the kind is unknown, or nothing can be asked about these groups.
    """
    if kind not in get_args(Kind):
        raise UserError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}")
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    for group in groups:
        answers = list(dict.fromkeys(answer for answer in group.answers if answer.strip()))
        shown: list[tuple[str, ...]] = [(answer,) for answer in answers]
        if kind == "compare":
            both = itertools.combinations(answers, 2)
            shown = [pair if rng.random() < 0.5 else pair[::-1] for pair in both]
        elif kind == "list":
            shown = [tuple(answers[:MAX_LISTED])] if len(answers) > 1 else []
        for texts in shown:
            extras = dict(group.extras)
            if "sources" in extras:
                by_answer = dict(zip(group.answers, extras["sources"], strict=True))
                extras["sources"] = [by_answer[text] for text in texts]
            items.append(Item(kind, group.prompt, texts, group.picture, group.sound, extras=extras))
    if not items:
        raise UserError(f"there is nothing to {kind} here: that needs other answers, or more of them")
    twice = set(rng.permutation(len(items))[: round(overlap * len(items))].tolist()) if raters > 1 else set()
    items = [dataclasses.replace(item, wanted=1 + (i in twice)) for i, item in enumerate(items)]
    return [*items, *(attention_check(i) for i in range(FEW_CHECKS if checks else 0))]


def read_groups(path: Path, store: Store) -> list[Group]:
    """What a file holds, its pictures put into the store.

    - .parquet, or .jsonl with `chosen` and `rejected`: a preference file (`data.preferences`); the extras say
      which answer the file prefers.
    - .csv: a column of pictures (`image`, `file_name`, ...) and one of texts (`caption`, `text`, ...); the
      captions of a picture are one group.
    - .jsonl: `prompt` and `answers` (or `responses`, `completions`, ...), and if there are some, `image` and
      `audio` (WAV): paths beside the file.

    Raises:
      UserError: no such file, or one that cannot be used; the message names the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".csv":
        return _read_csv(path, store)
    if path.suffix == ".jsonl":
        rows = _json_lines(path)
        if not {"chosen", "rejected"} <= set(rows[0][1]):
            return _read_prompts(path, rows, store)
    return _read_pairs(path, store)


def add_picture(store: Store, picture: bytes | np.ndarray | Path, where: str) -> str:
    """Puts a picture into the store, made anew from its pixels: no metadata, nothing else, not too large."""
    array = decode_image(picture, size=None, source=where)
    if max(array.shape[:2]) > MAX_SIDE:
        image = Image.fromarray(array)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        array = np.asarray(image)
    quality = None if max(array.shape[:2]) <= LOSSLESS_SIDE else 90
    return store.add_media(encode_webp(array, quality=quality), "image/webp")


def add_sound(store: Store, path: Path, where: str) -> str:
    """Puts a WAV file into the store, made anew from its samples."""
    buffer = io.BytesIO()
    try:
        with wave.open(str(path), "rb") as source, wave.open(buffer, "wb") as target:
            target.setparams(source.getparams())
            target.writeframes(source.readframes(source.getnframes()))
    except (wave.Error, EOFError, OSError) as error:
        raise UserError(f"{where}: {path.name} is not a readable WAV file ({error})") from error
    return store.add_media(buffer.getvalue(), "audio/wav")


def beside(file: Path, name: str, where: str) -> Path:
    """The file `name` that lies beside `file` or below its folder.

    Raises:
      UserError: it lies elsewhere, is a URL, or is not there.
    """
    folder = file.parent.resolve()
    found = (folder / name).resolve() if name and "\0" not in name and "://" not in name else None
    if found is None or not found.is_relative_to(folder) or not found.is_file():
        raise UserError(f"{where}: {name[:80]!r} is not a file in {folder}; put it there and give its name")
    return found


def _read_pairs(path: Path, store: Store) -> list[Group]:
    preferences = read_preferences(path, PREFERENCE_SIZE)
    pictures = [add_picture(store, picture, str(path)) for picture in preferences.images_NxHxWxC]
    return [
        Group(
            preferences.prompts[p],
            (preferences.chosen[p], preferences.rejected[p]),
            pictures[preferences.image_index_P[p]],
            extras={"file_prefers": preferences.chosen[p]},
        )
        for p in range(len(preferences))
    ]


def _read_csv(path: Path, store: Store) -> list[Group]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{path}: there is no line below the header")
    picture_column, text_column = (_column(rows[0], names, str(path)) for names in (_PICTURES, _ANSWERS))
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if not row[picture_column] or not row[text_column]:
            raise UserError(f"{path}, line {number}: {picture_column} or {text_column} is empty")
        captions.setdefault(row[picture_column], []).append(row[text_column])
    return [
        Group("", tuple(texts), add_picture(store, beside(path, name, str(path)), f"{path}: {name}"))
        for name, texts in captions.items()
    ]


def _read_prompts(path: Path, rows: list[tuple[str, dict[str, Any]]], store: Store) -> list[Group]:
    groups: dict[tuple[str, str | None, str | None], list[str]] = {}
    for where, row in rows:
        answers = row[_column(row, _ANSWERS, where)]
        answers = [answers] if isinstance(answers, str) else answers
        prompt = row.get("prompt", "")
        texts = [prompt, *answers] if isinstance(answers, list) else [None]
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT and is_unicode(text) for text in texts):
            raise UserError(f"{where}: prompt and answers are texts of at most {MAX_TEXT} characters")
        image = next((row[name] for name in _PICTURES if isinstance(row.get(name), str)), None)
        audio = next((row[name] for name in _SOUNDS if isinstance(row.get(name), str)), None)
        picture = add_picture(store, beside(path, image, where), where) if image else None
        sound = add_sound(store, beside(path, audio, where), where) if audio else None
        groups.setdefault((prompt, picture, sound), []).extend(answers)
    return [Group(prompt, tuple(a), picture, sound) for (prompt, picture, sound), a in groups.items()]


def _json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); give one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: not an object; give one a line")
        rows.append((where, row))
    if not rows:
        raise UserError(f"{path}: there is nothing in this file")
    return rows


def _column(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise UserError(
            f"{where}: there is no column {' or '.join(names)}; it has {', '.join(map(str, row))}"
        )
    return found

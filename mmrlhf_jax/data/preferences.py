"""Preference files: for a picture and a prompt, the answer that people chose and the one they rejected.

The columns are TRL's: `prompt`, `chosen`, `rejected`, and `images` (a list of one) or `image`. Texts are
strings, or conversations: lists of {"role", "content"} whose content is a string or a list of parts, each
{"type": "text", "text": ...} or {"type": "image"}. Where the answers are pictures themselves, `images` holds
two: the chosen one and the rejected one. `tie` (true or false) marks pairs of which neither was preferred.
All further columns are carried through untouched.

Pictures are structs {"bytes", "path"} (the Image type of Hugging Face's datasets). In JSONL `bytes` is
base64, and a plain string is a path. Paths are relative to the file and stay under its folder: a preference
file from a stranger must not read other files of this machine, nor make it fetch anything.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.pictures import IMAGE_COLUMNS, Pictures, check_columns, record_pictures
from mmrlhf_jax.data.records import Row, merge_extras, read_rows, write_rows
from mmrlhf_jax.data.rows import Rows, check_rows
from mmrlhf_jax.data.texts import count_pictures, parse_text
from mmrlhf_jax.errors import UserError

TEXT_COLUMNS = ("prompt", "chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class PreferenceSet(Rows):
    """P preference pairs over N distinct pictures.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255; each distinct picture once.
      image_index_P: int32; the picture of each pair, a row of images_NxHxWxC.
      prompts: P texts; may be empty.
      chosen: P texts, the answers that were preferred.
      rejected: P texts.
      extras: further columns, P values each, as they were in the file.
      skipped: one message for each bad record that was left out when the file was read.
      rejected_image_index_P: int32; the picture of the rejected side where each side has its own, as the
        answers to a request for a picture have; image_index_P is then the chosen side's, and the texts of
        both may be equal. None: both sides are about the picture image_index_P.
      tie_P: bool; True where neither answer was preferred. None: no ties.
    """

    images_NxHxWxC: np.ndarray
    image_index_P: np.ndarray
    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    extras: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)
    rejected_image_index_P: np.ndarray | None = None
    tie_P: np.ndarray | None = None

    def __post_init__(self):
        own = {
            "prompts": self.prompts,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "rejected_image_index_P": self.rejected_image_index_P,
            "tie_P": self.tie_P,
        }
        check_rows(len(self), "pair", own, set())
        check_rows(len(self), "pair", self.extras, {*TEXT_COLUMNS, *IMAGE_COLUMNS, "tie"})

    def __len__(self) -> int:
        return len(self.image_index_P)


def read_preferences(path: str | Path, image_size: int, *, on_bad: str = "error") -> PreferenceSet:
    """Reads a .parquet or .jsonl preference file.

    Conversations become plain texts: the messages' texts, one a line. Each distinct picture (by its bytes) is
    decoded once and fitted into image_size x image_size on white.

    Args:
      path: the file.
      image_size: pixels.
      on_bad: what to do with a record that cannot be used: "error" raises, "skip" leaves it out and tells of
        it in the result's `skipped`.

    Raises:
      UserError: no readable file, a missing column, no usable record, or (on_bad="error") a bad record: a
        text that is none, two answers that are equal, a picture that is missing, damaged or outside of the
        folder, a line that is no JSON object. The message names the file, the line or row (from 1) and the
        column.
    """
    path = Path(path)
    pictures = Pictures(path.parent, image_size)
    records, skipped = read_rows(
        path,
        lambda row, where: _parse(row, where, pictures),
        noun="preference pair",
        on_bad=on_bad,
        check=lambda names, where: check_columns(names, TEXT_COLUMNS, where),
    )
    return join_pairs(records, pictures, skipped)


def write_preferences(path: str | Path, preferences: PreferenceSet) -> None:
    """Writes a .parquet or .jsonl file that `read_preferences`, TRL and datasets read.

    Pictures are embedded as lossless WebP, in the column `images`. The file appears only when it is whole.

    Raises:
      UserError: another ending, or a further column whose values such a file cannot hold.
    """
    sides = [preferences.image_index_P, preferences.rejected_image_index_P]
    columns: dict[str, list[Any]] = {
        "prompt": preferences.prompts,
        "chosen": preferences.chosen,
        "rejected": preferences.rejected,
    }
    if preferences.tie_P is not None:
        columns["tie"] = preferences.tie_P.tolist()
    index_PxK = np.stack([side for side in sides if side is not None], axis=1)
    write_rows(path, preferences.images_NxHxWxC, index_PxK, columns | preferences.extras)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record. `rejected_image` and `tie` are None where the file does not speak of such a thing."""

    image: int
    prompt: str
    chosen: str
    rejected: str
    extras: Row
    rejected_image: int | None = None
    tie: bool | None = None


def join_pairs(records: list[Pair], pictures: Pictures, skipped: list[str]) -> PreferenceSet:
    """The set of these records; a column that no record speaks of is None."""
    own_pictures = any(record.rejected_image is not None for record in records)
    ties = any(record.tie is not None for record in records)
    rejected = [r.image if r.rejected_image is None else r.rejected_image for r in records]
    return PreferenceSet(
        images_NxHxWxC=pictures.stack(),
        image_index_P=np.array([record.image for record in records], np.int32),
        prompts=[record.prompt for record in records],
        chosen=[record.chosen for record in records],
        rejected=[record.rejected for record in records],
        extras=merge_extras([record.extras for record in records]),
        skipped=skipped,
        rejected_image_index_P=np.array(rejected, np.int32) if own_pictures else None,
        tie_P=np.array([record.tie is True for record in records]) if ties else None,
    )


def _parse(row: Row, where: str, pictures: Pictures) -> Pair:
    column = check_columns(row, TEXT_COLUMNS, where)
    prompt, chosen, rejected = (
        parse_text(row[name], f"{where}, column {name}", prompt=name == "prompt") for name in TEXT_COLUMNS
    )
    tie = row.get("tie")
    if tie is not None and not isinstance(tie, bool):
        raise UserError(f"{where}, column tie: {repr(tie)[:60]} is neither true nor false")
    if count_pictures(row["prompt"]) > 1:
        raise UserError(f"{where}, column prompt: it asks about several pictures; one is supported")
    raw = record_pictures(row, column, where, at_most=2)
    if chosen == rejected and len(raw) == 1:
        raise UserError(f"{where}: columns chosen and rejected are equal ({chosen[:60]!r}); drop this pair")
    image, *other = (pictures.add(picture, f"{where}, column {column}") for picture in raw)
    if chosen == rejected and other == [image]:
        raise UserError(f"{where}: both answers are the same picture and the same text; drop this pair")
    extras = {name: value for name, value in row.items() if name not in (*TEXT_COLUMNS, column, "tie")}
    return Pair(image, prompt, chosen, rejected, extras, other[0] if other else None, tie)

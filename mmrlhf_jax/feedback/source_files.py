"""Files with something to judge: preferences, captions, prompts with answers or without."""

from collections.abc import Collection
from pathlib import Path

from mmrlhf_jax.data.pictures import check_columns
from mmrlhf_jax.data.preferences import TEXT_COLUMNS, parse_pair
from mmrlhf_jax.data.records import Row, read_rows
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.media import StoredPictures, add_sound, beside
from mmrlhf_jax.feedback.sources import Group
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import MAX_TEXT

ANSWERS = ("answers", "responses", "completions", "completion", "response", "answer", "caption", "text")
PICTURES = ("images", "image", "picture", "file_name", "filename", "path")
SOUNDS = ("audio", "sound")
PAIR = ("chosen", "rejected")
ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")


def read_groups(path: Path, store: Store) -> list[Group]:
    """What a file holds, its pictures and sounds put into the store.

    What it is follows from its columns, in parquet, JSON lines or a table:

    - `chosen` and `rejected`: a preference file (`data.preferences`); the extras say which the file prefers.
    - a picture (`images`, `image`, `file_name`, ...) and a text (`caption`, `completion`, ...) or several
      (`answers`, `responses`, ...), with a `prompt` or without: answers to one prompt about one picture are
      one group. `audio` is the path of a WAV file.
    - a picture or a `prompt` without any text: a group without answers, for a policy to write.

    Raises:
      UserError: no such file, or one that cannot be used; the message names the line.
    """
    pictures = StoredPictures(path.parent, store)
    parser = _Parser(pictures, store, path)
    parsed, _ = read_rows([path], parser.parse, noun="record", on_bad="error", check=_check, endings=ENDINGS)
    merged: dict[tuple[object, ...], Group] = {}
    for group in parsed:
        # A pair stays on its own, since its extras speak of it alone.
        what = (len(merged),) if group.extras else (group.prompt, group.picture, group.sound)
        answers = merged[what].answers if what in merged else ()
        merged[what] = Group(group.prompt, answers + group.answers, group.picture, group.sound, group.extras)
    return list(merged.values())


class _Parser:
    """Makes a group of a record."""

    def __init__(self, pictures: StoredPictures, store: Store, path: Path):
        self.pictures, self.store, self.path = pictures, store, path

    def parse(self, row: Row, where: str) -> Group:
        if set(PAIR) <= set(row):
            return self._pair(row, where)
        prompt = parse_text(row.get("prompt") or "", f"{where}, column prompt", prompt=True)
        column = next((name for name in ANSWERS if row.get(name) not in (None, "", [])), None)
        answers: tuple[str, ...] = ()
        if column is not None:
            given = (
                row[column] if isinstance(row[column], list) and not _is_chat(row[column]) else [row[column]]
            )
            answers = tuple(parse_text(text, f"{where}, column {column}") for text in given)
        if any(len(text) > MAX_TEXT for text in (prompt, *answers)):
            raise UserError(f"{where}: prompt and answers are texts of at most {MAX_TEXT} characters")
        group = Group(prompt, answers, self._picture(row, where), self._sound(row, where))
        if not answers and group.picture is None and not prompt:
            raise UserError(f"{where}: neither an answer nor anything to answer")
        return group

    def _pair(self, row: Row, where: str) -> Group:
        check_columns(row, TEXT_COLUMNS, where)
        pair = parse_pair(row, where, self.pictures)
        if pair.rejected_image is not None:
            raise UserError(f"{where}: its answers are pictures of their own, and the page compares texts")
        picture, answers = self.pictures.images[pair.image], (pair.chosen, pair.rejected)
        return Group(
            pair.prompt, answers, picture, extras={"file_prefers": None if pair.tie else pair.chosen}
        )

    def _picture(self, row: Row, where: str) -> str | None:
        column = _filled(row, PICTURES, where)
        if column is None:
            return None
        value = row[column][0] if isinstance(row[column], list) else row[column]
        return self.pictures.images[self.pictures.add(value, where, column)]

    def _sound(self, row: Row, where: str) -> str | None:
        column = _filled(row, SOUNDS, where)
        if column is None:
            return None
        return add_sound(self.store, beside(self.path, str(row[column]), where), where)


def _filled(row: Row, names: Collection[str], where: str) -> str | None:
    """The first of the columns `names` that the row has a value in."""
    found = next((name for name in names if row.get(name) is not None), None)
    if found is not None and row[found] in ("", []):
        raise UserError(f"{where}: column {found} is empty")
    return found


def _is_chat(value: list) -> bool:
    return any(isinstance(part, dict) for part in value)


def _check(names: Collection[str], where: str) -> None:
    """A table's columns: something must be there to look at."""
    if not names:
        raise UserError(f"{where}: there is nothing in this file")
    if not any(name in names for name in (*PAIR, *PICTURES, *SOUNDS, *ANSWERS, "prompt")):
        raise UserError(
            f"{where}: no column of answers ({', '.join(ANSWERS)}), pictures ({', '.join(PICTURES)}) or "
            f"prompts; it has {', '.join(map(str, names)) or 'none'}"
        )

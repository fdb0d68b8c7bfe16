"""Click logs: lists of answers about a picture as they were shown, and which of them people clicked.

Columns: `prompt`, `images` (a list of one) or `image`, `answers` (a list of texts), `clicked` (a list of true
or false, one for each answer), and, where known, `position` (a list of whole numbers, 0 for the place at the
top; by default the order of the list) and `dwell` (a list of seconds, null where not known). All further
columns are carried through untouched. Texts and pictures are as in preference files.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.pictures import IMAGE_COLUMNS, Pictures, check_columns, record_pictures
from mmrlhf_jax.data.record_writer import write_rows
from mmrlhf_jax.data.records import Row, merge_extras, read_rows
from mmrlhf_jax.data.rows import Rows, check_rows
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

COLUMNS = ("prompt", "answers", "clicked")
OPTIONAL_COLUMNS = ("position", "dwell")
_LONGEST = 1e9  # seconds; nobody looks at an answer for thirty years
_LAST_PLACE = 1_000_000


@dataclasses.dataclass(frozen=True)
class ClickLog(Rows):
    """L shown lists of at most K answers each, about N distinct pictures.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255; each distinct picture once.
      image_index_L: int32; the picture of each list, a row of images_NxHxWxC.
      prompts: L texts; may be empty.
      answers: L lists of 1 to K texts.
      position_LxK: int32; where each answer stood, 0 at the top; -1 beyond the end of a shorter list.
      clicked_LxK: bool; False beyond the end.
      dwell_LxK: float32; seconds that people stayed, NaN where not known. None: nowhere known.
      extras: further columns, L values each, as they were in the file.
      skipped: one message for each bad record that was left out when the file was read.
    """

    images_NxHxWxC: np.ndarray
    image_index_L: np.ndarray
    prompts: list[str]
    answers: list[list[str]]
    position_LxK: np.ndarray
    clicked_LxK: np.ndarray
    dwell_LxK: np.ndarray | None = None
    extras: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        own = {
            "prompts": self.prompts,
            "answers": self.answers,
            "position_LxK": self.position_LxK,
            "clicked_LxK": self.clicked_LxK,
            "dwell_LxK": self.dwell_LxK,
        }
        check_rows(len(self), "list", own, set())
        check_rows(len(self), "list", self.extras, {*COLUMNS, *OPTIONAL_COLUMNS, *IMAGE_COLUMNS})
        length_L = np.array([len(answers) for answers in self.answers], np.int64)
        shown_LxK = np.arange(self.position_LxK.shape[1]) < length_L[:, None]
        if not np.array_equal(shown_LxK, self.position_LxK >= 0) or (self.clicked_LxK & ~shown_LxK).any():
            raise ValueError(
                "position_LxK must be -1, and clicked_LxK False, beyond the end of each list alone"
            )

    def __len__(self) -> int:
        return len(self.image_index_L)


def read_clicks(path: str | Path, image_size: int, *, on_bad: str = "error") -> ClickLog:
    """Reads a .parquet or .jsonl click log; see `read_preferences` for the arguments.

    Raises:
      UserError: no readable file, a missing column, no usable record, or (on_bad="error") a bad record: a
        list that is empty or of another length than `answers`, two answers in one place, negative seconds, a
        text or a picture that is none.
    """
    path = Path(path)
    pictures = Pictures(path.parent, image_size)
    records, skipped = read_rows(
        [path],
        lambda row, where: _parse(row, where, pictures),
        noun="shown list",
        on_bad=on_bad,
        check=lambda names, where: check_columns(names, COLUMNS, where),
    )
    longest = max(len(record.answers) for record in records)
    timed = any(record.dwell is not None for record in records)
    return ClickLog(
        images_NxHxWxC=pictures.stack(),
        image_index_L=np.array([record.image for record in records], np.int32),
        prompts=[record.prompt for record in records],
        answers=[record.answers for record in records],
        position_LxK=_pad([record.position for record in records], longest, -1, np.int32),
        clicked_LxK=_pad([record.clicked for record in records], longest, False, np.bool_),
        dwell_LxK=_pad([r.dwell or [] for r in records], longest, math.nan, np.float32) if timed else None,
        extras=merge_extras([record.extras for record in records]),
        skipped=skipped,
    )


def write_clicks(path: str | Path, log: ClickLog) -> None:
    """Writes a .parquet or .jsonl file that `read_clicks` reads. See `write_preferences` for errors."""
    lengths = [len(answers) for answers in log.answers]

    def cut(values_LxK: np.ndarray) -> list[list[Any]]:
        return [values_K[:length].tolist() for values_K, length in zip(values_LxK, lengths, strict=True)]

    columns: dict[str, list[Any]] = {
        "prompt": log.prompts,
        "answers": log.answers,
        "clicked": cut(log.clicked_LxK),
        "position": cut(log.position_LxK),
    }
    if log.dwell_LxK is not None:
        seconds = cut(log.dwell_LxK)
        columns["dwell"] = [[None if math.isnan(second) else second for second in row] for row in seconds]
    write_rows(path, log.images_NxHxWxC, log.image_index_L[:, None], columns | log.extras)


@dataclasses.dataclass(frozen=True)
class _Record:
    image: int
    prompt: str
    answers: list[str]
    position: list[int]
    clicked: list[bool]
    dwell: list[float] | None
    extras: Row


def _parse(row: Row, where: str, pictures: Pictures) -> _Record:
    column = check_columns(row, COLUMNS, where)
    prompt = parse_text(row["prompt"], f"{where}, column prompt", prompt=True)
    texts = row["answers"]
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{where}, column answers: {repr(texts)[:60]} is no list of one text or more")
    answers = [parse_text(text, f"{where}, column answers") for text in texts]
    count = len(answers)
    clicked = _list(row["clicked"], count, f"{where}, column clicked")
    if not all(isinstance(click, bool) for click in clicked):
        raise UserError(f"{where}, column clicked: {repr(clicked)[:60]} is not all true or false")
    position = row.get("position")
    position = list(range(count)) if position is None else _list(position, count, f"{where}, column position")
    whole = all(
        isinstance(place, int) and not isinstance(place, bool) and 0 <= place <= _LAST_PLACE
        for place in position
    )
    if not whole or len(set(position)) < count:
        raise UserError(
            f"{where}, column position: {repr(position)[:60]} is not one place, from 0 up, for each answer"
        )
    dwell = row.get("dwell")
    if dwell is not None:
        dwell = [
            _seconds(second, f"{where}, column dwell")
            for second in _list(dwell, count, f"{where}, column dwell")
        ]
    (raw,) = record_pictures(row, column, where)
    image = pictures.add(raw, where, column)
    known = (*COLUMNS, *OPTIONAL_COLUMNS, column)
    extras = {name: value for name, value in row.items() if name not in known}
    return _Record(image, prompt, answers, position, clicked, dwell, extras)


def _list(value: Any, count: int, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise UserError(f"{where}: {repr(value)[:60]} is no list of {count} values, one for each answer")
    return value


def _seconds(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
        raise UserError(f"{where}: {repr(value)[:60]} is no number of seconds")
    return float(value)


def _pad(rows: list[list[Any]], length: int, fill: Any, dtype: type) -> np.ndarray:
    padded: np.ndarray = np.full((len(rows), length), fill, dtype)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded

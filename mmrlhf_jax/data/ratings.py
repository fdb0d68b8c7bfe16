"""Rating files: how good people found an answer about a picture, on one scale or several.

Columns: `prompt`, `completion`, `images` (a list of one) or `image`, `ratings` (an object: aspect → number,
or null where it was not rated) and `levels` (an object: aspect → [lowest, highest]), the same in all records.
All further columns are carried through untouched. Texts and pictures are as in preference files.
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

COLUMNS = ("prompt", "completion", "ratings", "levels")
_LARGEST = 1e30  # of a scale; float32 holds it
Levels = dict[str, tuple[float, float]]  # aspect → (lowest, highest)


@dataclasses.dataclass(frozen=True)
class RatingSet(Rows):
    """R rated answers about N distinct pictures.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255; each distinct picture once.
      image_index_R: int32; the picture of each answer, a row of images_NxHxWxC.
      prompts: R texts; may be empty.
      answers: R texts; empty where the picture itself is the answer to the prompt.
      ratings: aspect → (R,) float32, NaN where it was not rated. Higher is better.
      levels: aspect → (lowest, highest) of its scale.
      extras: further columns, R values each, as they were in the file.
      skipped: one message for each bad record that was left out when the file was read.
    """

    WHOLE = (*Rows.WHOLE, "levels")

    images_NxHxWxC: np.ndarray
    image_index_R: np.ndarray
    prompts: list[str]
    answers: list[str]
    ratings: dict[str, np.ndarray]
    levels: Levels
    extras: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        own = {"prompts": self.prompts, "answers": self.answers}
        check_rows(len(self), "answer", own | self.ratings, set())
        check_rows(len(self), "answer", self.extras, {*COLUMNS, *IMAGE_COLUMNS})
        if not self.ratings or set(self.ratings) != set(self.levels):
            raise ValueError(f"ratings of {sorted(self.ratings)} but levels of {sorted(self.levels)}")

    def __len__(self) -> int:
        return len(self.image_index_R)


def read_ratings(path: str | Path, image_size: int, *, on_bad: str = "error") -> RatingSet:
    """Reads a .parquet or .jsonl rating file; see `read_preferences` for the arguments.

    Raises:
      UserError: no readable file, a missing column, no usable record, or (on_bad="error") a bad record: a
        rating that is no number of its scale, levels unlike those before, a text or a picture that is none.
    """
    path = Path(path)
    pictures, levels = Pictures(path.parent, image_size), Levels()
    records, skipped = read_rows(
        [path],
        lambda row, where: _parse(row, where, pictures, levels),
        noun="rated answer",
        on_bad=on_bad,
        check=lambda names, where: check_columns(names, COLUMNS, where),
    )
    return join_ratings(records, levels, pictures, skipped)


def write_ratings(path: str | Path, ratings: RatingSet) -> None:
    """Writes a .parquet or .jsonl file that `read_ratings` reads. See `write_preferences` for errors."""
    by_aspect = {aspect: column.tolist() for aspect, column in ratings.ratings.items()}
    levels = {aspect: [float(level) for level in ends] for aspect, ends in ratings.levels.items()}
    columns: dict[str, list[Any]] = {
        "prompt": ratings.prompts,
        "completion": ratings.answers,
        "ratings": [
            {aspect: None if math.isnan(column[i]) else column[i] for aspect, column in by_aspect.items()}
            for i in range(len(ratings))
        ],
        "levels": [levels] * len(ratings),
    }
    write_rows(path, ratings.images_NxHxWxC, ratings.image_index_R[:, None], columns | ratings.extras)


@dataclasses.dataclass(frozen=True)
class RatedAnswer:
    """One record; aspects that are not in `ratings` were not rated."""

    image: int
    prompt: str
    answer: str
    ratings: dict[str, float]
    extras: Row


def join_ratings(
    records: list[RatedAnswer], levels: Levels, pictures: Pictures, skipped: list[str]
) -> RatingSet:
    """The set of these records."""
    return RatingSet(
        images_NxHxWxC=pictures.stack(),
        image_index_R=np.array([record.image for record in records], np.int32),
        prompts=[record.prompt for record in records],
        answers=[record.answer for record in records],
        ratings={
            aspect: np.array([record.ratings.get(aspect, math.nan) for record in records], np.float32)
            for aspect in levels
        },
        levels=dict(levels),
        extras=merge_extras([record.extras for record in records]),
        skipped=skipped,
    )


def check_rating(value: Any, ends: tuple[float, float], where: str) -> float:
    """`value` as a number of the scale `ends`. Raises UserError where it is none."""
    low, high = ends
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise UserError(f"{where}: {repr(value)[:60]} is no number from {low:g} to {high:g}")
    return float(value)


def _parse(row: Row, where: str, pictures: Pictures, levels: Levels) -> RatedAnswer:
    column = check_columns(row, COLUMNS, where)
    prompt = parse_text(row["prompt"], f"{where}, column prompt", prompt=True)
    answer = parse_text(row["completion"], f"{where}, column completion")
    own = _parse_levels(row["levels"], f"{where}, column levels")
    if levels and own != levels:
        raise UserError(f"{where}, column levels: {own} is not {levels}, as in the records before")
    ratings = row["ratings"]
    if not isinstance(ratings, dict) or set(ratings) - set(own):
        raise UserError(f"{where}, column ratings: an object with keys {sorted(own)} is needed")
    rated = {
        aspect: check_rating(value, own[aspect], f"{where}, column ratings, {aspect}")
        for aspect, value in ratings.items()
        if value is not None
    }
    (raw,) = record_pictures(row, column, where)
    image = pictures.add(raw, where, column)
    levels.update(own)
    extras = {name: value for name, value in row.items() if name not in (*COLUMNS, column)}
    return RatedAnswer(image, prompt, answer, rated, extras)


def _parse_levels(value: Any, where: str) -> Levels:
    levels = {}
    for aspect, ends in value.items() if isinstance(value, dict) else ():
        numbers = [
            float(end)
            for end in (ends if isinstance(ends, list) else ())
            if isinstance(end, (int, float)) and abs(end) <= _LARGEST
        ]
        if len(numbers) != 2 or numbers[0] >= numbers[1]:
            raise UserError(f"{where}: {aspect} has {repr(ends)[:60]}, give [lowest, highest]")
        levels[aspect] = (numbers[0], numbers[1])
    if not levels:
        raise UserError(f"{where}: {repr(value)[:60]} is no object: aspect → [lowest, highest]")
    return levels

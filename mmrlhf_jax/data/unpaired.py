"""Files of thumbs: answers that people found good or not, each by itself.

The columns are TRL's for unpaired preferences: `prompt`, `completion`, `label` (true or false), and `images`
(a list of one) or `image`. All further columns are carried through untouched. Texts and pictures are as in
preference files.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.pictures import IMAGE_COLUMNS, Pictures, check_columns, record_pictures
from mmrlhf_jax.data.records import Row, merge_extras, read_rows, write_rows
from mmrlhf_jax.data.rows import Rows, check_rows
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

COLUMNS = ("prompt", "completion", "label")


@dataclasses.dataclass(frozen=True)
class LabelledSet(Rows):
    """R answers about N distinct pictures, each with a thumb up or down.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255; each distinct picture once.
      image_index_R: int32; the picture of each answer, a row of images_NxHxWxC.
      prompts: R texts; may be empty.
      answers: R texts.
      label_R: bool; True for a good answer.
      extras: further columns, R values each, as they were in the file.
      skipped: one message for each bad record that was left out when the file was read.
    """

    images_NxHxWxC: np.ndarray
    image_index_R: np.ndarray
    prompts: list[str]
    answers: list[str]
    label_R: np.ndarray
    extras: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        own = {"prompts": self.prompts, "answers": self.answers, "label_R": self.label_R}
        check_rows(len(self), "answer", own, set())
        check_rows(len(self), "answer", self.extras, {*COLUMNS, *IMAGE_COLUMNS})

    def __len__(self) -> int:
        return len(self.image_index_R)


def read_labels(path: str | Path, image_size: int, *, on_bad: str = "error") -> LabelledSet:
    """Reads a .parquet or .jsonl file of labelled answers; see `read_preferences` for the arguments.

    Raises:
      UserError: no readable file, a missing column, no usable record, or (on_bad="error") a bad record: a
        label that is neither true nor false, a text or a picture that is none.
    """
    path = Path(path)
    pictures = Pictures(path.parent, image_size)
    records, skipped = read_rows(
        path,
        lambda row, where: _parse(row, where, pictures),
        noun="labelled answer",
        on_bad=on_bad,
        check=lambda names, where: check_columns(names, COLUMNS, where),
    )
    return LabelledSet(
        images_NxHxWxC=pictures.stack(),
        image_index_R=np.array([record.image for record in records], np.int32),
        prompts=[record.prompt for record in records],
        answers=[record.answer for record in records],
        label_R=np.array([record.label for record in records]),
        extras=merge_extras([record.extras for record in records]),
        skipped=skipped,
    )


def write_labels(path: str | Path, labelled: LabelledSet) -> None:
    """Writes a .parquet or .jsonl file that `read_labels` and TRL read; errors as in `write_preferences`."""
    columns: dict[str, list[Any]] = {
        "prompt": labelled.prompts,
        "completion": labelled.answers,
        "label": labelled.label_R.tolist(),
    }
    write_rows(path, labelled.images_NxHxWxC, labelled.image_index_R[:, None], columns | labelled.extras)


@dataclasses.dataclass(frozen=True)
class _Record:
    image: int
    prompt: str
    answer: str
    label: bool
    extras: Row


def _parse(row: Row, where: str, pictures: Pictures) -> _Record:
    column = check_columns(row, COLUMNS, where)
    prompt = parse_text(row["prompt"], f"{where}, column prompt", prompt=True)
    answer = parse_text(row["completion"], f"{where}, column completion")
    label = row["label"]
    if not isinstance(label, bool):
        raise UserError(f"{where}, column label: {repr(label)[:60]} is neither true nor false")
    (raw,) = record_pictures(row, column, where)
    image = pictures.add(raw, f"{where}, column {column}")
    extras = {name: value for name, value in row.items() if name not in (*COLUMNS, column)}
    return _Record(image, prompt, answer, label, extras)

"""Pictures with captions of the user's own: a folder with images/ and captions.csv, parquet, JSON lines.

Columns are `image` (encoded bytes, a struct of bytes, or a path) or `file_name`, and `caption`, `captions`,
`text` or `name`; `keywords`, words that fit the picture too, may stand beside them. Rows about the same
picture, by its bytes, are further captions of it.
"""

import dataclasses
import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.pictures import Pictures, need_columns
from mmrlhf_jax.data.records import Row, find_files, read_rows
from mmrlhf_jax.data.texts import parse_text
from mmrlhf_jax.errors import UserError

IMAGES = "images"  # the folder of the pictures, beside the file that names them
TABLES = ("captions", "metadata")  # names of that file in a folder
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".json")
IMAGE_COLUMNS = ("image", "file_name", "images")
TEXT_COLUMNS = ("caption", "captions", "text", "name")
PARTS = ("train", "feedback", "held_out")


@dataclasses.dataclass(frozen=True)
class OwnPictures:
    """Distinct pictures in the order of their first rows, and what was left out.

    Attributes:
      captions: what is known of each picture.
      digests: SHA-256 of each picture's bytes.
      images_NxHxWxC: uint8; None where the pictures were kept elsewhere.
      skipped: a message for each record that was left out.
    """

    captions: tuple[Caption, ...]
    digests: tuple[bytes, ...]
    images_NxHxWxC: np.ndarray | None
    skipped: list[str]

    def checksum(self) -> str:
        """Changes with any picture, caption or their order."""
        digest = hashlib.sha256()
        for caption, picture in zip(self.captions, self.digests, strict=True):
            digest.update(picture + repr((caption.texts, caption.keywords)).encode())
        return digest.hexdigest()

    def rows(self, part: str, *, feedback: float, held_out: float) -> np.ndarray:
        """Which pictures belong to `part`, see `part_of`."""
        parts = [part_of(digest, feedback=feedback, held_out=held_out) for digest in self.digests]
        return np.flatnonzero(np.array(parts) == part)

    def take(self, rows: Sequence[int] | np.ndarray) -> CaptionSet:
        """The pictures at `rows`."""
        assert self.images_NxHxWxC is not None
        return CaptionSet(self.images_NxHxWxC[rows], tuple(self.captions[i] for i in rows))


def part_of(digest: bytes, *, feedback: float, held_out: float) -> str:
    """Whether a picture is for training, for feedback or held out: by its bytes alone.

    So a picture is in the same part whatever stands beside it in a file, and copies never lie in two.

    Args:
      feedback: share of the pictures, of those that are written about and judged.
      held_out: share of those that nothing is trained on.
    """
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < held_out:
        return "held_out"
    return "feedback" if place < held_out + feedback else "train"


def read_pictures(
    path: str | Path, image_size: int, *, on_bad: str = "error", pictures: Pictures | None = None
) -> OwnPictures:
    """Reads pictures and captions.

    Args:
      path: a folder with images/ and captions.csv, or one of parquet files; a .parquet file; a .csv, .tsv,
        .json or .jsonl beside its pictures or beside their folder images/.
      image_size: pixels of the squares on white into which pictures are fitted.
      on_bad: "error" raises at a record that cannot be used, "skip" leaves it out.
      pictures: takes the pictures instead of memory; of the folder that `picture_folder` gives.

    Raises:
      UserError: no readable file, a missing column, no usable record, or (on_bad="error") a bad one: a
        picture that is missing, damaged or outside of the folder, or no caption. It names file, line, column.
    """
    path = Path(path)
    folder = picture_folder(path)
    into = pictures or Pictures(folder, image_size)
    texts: dict[int, dict[str, None]] = {}
    keywords: dict[int, dict[str, None]] = {}

    def parse(row: Row, where: str) -> int:
        image_column, text_column = _columns(row, where)
        said = [_caption(text, f"{where}, column {text_column}") for text in _as_list(row[text_column])]
        if not said:
            raise UserError(f"{where}, column {text_column}: there is no caption; write one, or drop the row")
        number = into.add(_located(row[image_column], folder), where, image_column)
        texts.setdefault(number, {}).update(dict.fromkeys(said))
        known = [word for word in _as_list(row.get("keywords")) if isinstance(word, str)]
        keywords.setdefault(number, {}).update(dict.fromkeys(known))
        return number

    _, skipped = read_rows(
        _files(path), parse, noun="captioned picture", on_bad=on_bad, check=_columns, endings=ENDINGS
    )
    captions = tuple(
        Caption(name, tuple(keywords[number]), others=tuple(others))
        for number, (name, *others) in sorted(texts.items())
    )
    return OwnPictures(captions, tuple(into.digests), into.stack() if into.images else None, skipped)


def picture_folder(path: Path) -> Path:
    """The folder that paths of pictures start from."""
    return path if path.is_dir() else path.parent


def _files(path: Path) -> list[Path]:
    """The files of records: of a folder captions.csv or the like, else those that lie in it."""
    if not path.exists():
        raise UserError(f"{path}: there is no such folder or file")
    if not path.is_dir():
        return [path]
    for name in TABLES:
        for ending in ENDINGS:
            if (path / f"{name}{ending}").is_file():
                return [path / f"{name}{ending}"]
    if (path / IMAGES).is_dir():
        raise UserError(
            f"{path}: there is no captions.csv beside images/; write one with the columns image,caption"
        )
    return find_files(path)


def _columns(columns: Collection[str], where: str) -> tuple[str, str]:
    """The columns of the picture and of the caption."""
    found = []
    for names in (IMAGE_COLUMNS, TEXT_COLUMNS):
        name = next((name for name in names if name in columns), None)
        if name is None:
            need_columns(columns, names[:1], where)  # raises
        found.append(str(name))
    return found[0], found[1]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _caption(value: Any, where: str) -> str:
    """One line of text."""
    text = " ".join(parse_text(value, where).split())
    if not text:
        raise UserError(f"{where}: the caption is empty; write one, or drop the row")
    return text


def _located(value: Any, folder: Path) -> Any:
    """The picture that a row names: a path counts from images/ where the picture lies there."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and os.path.isfile(folder / IMAGES / value):  # no error for odd names
        return f"{IMAGES}/{value}"
    return value

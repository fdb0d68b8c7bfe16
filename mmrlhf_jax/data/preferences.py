"""Preference files: for a picture and a prompt, the answer that people chose and the one they rejected.

The columns are TRL's: `prompt`, `chosen`, `rejected`, and `images` (a list of one) or `image`. Texts are
strings, or conversations: lists of {"role", "content"} whose content is a string or a list of parts, each
{"type": "text", "text": ...} or {"type": "image"}. All further columns are carried through untouched.

Pictures are structs {"bytes", "path"} (the Image type of Hugging Face's datasets). In JSONL `bytes` is
base64, and a plain string is a path. Paths are relative to the file and stay under its folder: a preference
file from a stranger must not read other files of this machine, nor make it fetch anything.
"""

import base64
import binascii
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mmrlhf_jax.data.images import decode_image, encode_webp
from mmrlhf_jax.errors import UserError

TEXT_COLUMNS = ("prompt", "chosen", "rejected")
IMAGE_COLUMNS = ("images", "image")
ROWS_AT_ONCE = 512  # of a parquet file in memory while it is read or written


@dataclasses.dataclass(frozen=True)
class PreferenceSet:
    """P preference pairs over N distinct pictures.

    Attributes:
      images_NxHxWxC: uint8, RGB, 0-255; each distinct picture once.
      image_index_P: int32; the picture of each pair, a row of images_NxHxWxC.
      prompts: P texts; may be empty.
      chosen: P texts, the answers that were preferred.
      rejected: P texts.
      extras: further columns, P values each, as they were in the file.
      skipped: one message for each bad record that was left out when the file was read.
    """

    images_NxHxWxC: np.ndarray
    image_index_P: np.ndarray
    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    extras: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        columns = {"prompts": self.prompts, "chosen": self.chosen, "rejected": self.rejected, **self.extras}
        for name, values in columns.items():
            if len(values) != len(self):
                raise ValueError(f"{len(self)} pairs but {len(values)} values of {name}")
        clash = set(self.extras) & {*TEXT_COLUMNS, *IMAGE_COLUMNS}
        if clash:
            raise ValueError(f"extras may not be called {', '.join(sorted(clash))}")

    def __len__(self) -> int:
        return len(self.image_index_P)

    def take(self, indices: Sequence[int] | np.ndarray) -> "PreferenceSet":
        """The pairs at `indices`, in that order; all pictures stay, so that picture numbers mean the same."""
        rows = np.asarray(indices, dtype=np.int64)
        return dataclasses.replace(
            self,
            image_index_P=self.image_index_P[rows],
            prompts=[self.prompts[i] for i in rows],
            chosen=[self.chosen[i] for i in rows],
            rejected=[self.rejected[i] for i in rows],
            extras={name: [values[i] for i in rows] for name, values in self.extras.items()},
        )


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
        text that is none, chosen equal to rejected, a picture that is missing, damaged or outside of the
        folder, a line that is no JSON object. The message names the file, the line or row (from 1) and the
        column.
    """
    path = Path(path)
    if on_bad not in ("error", "skip"):
        raise UserError(f'on_bad is {on_bad!r}; give "error" or "skip"')
    pictures = _Pictures(path.parent, image_size)
    records, skipped = [], []
    for where, raw in _read_records(path):
        try:
            records.append(_parse_record(raw, where, pictures))
        except UserError as error:
            if on_bad == "error":
                raise
            skipped.append(str(error))
    if not records:
        bad = f"; all {len(skipped)} records are bad, the first one: {skipped[0]}" if skipped else ""
        raise UserError(f"{path}: there is no preference pair in this file{bad}")
    names = dict.fromkeys(name for record in records for name in record.extras)
    return PreferenceSet(
        images_NxHxWxC=np.stack(pictures.images),
        image_index_P=np.array([record.image_index for record in records], np.int32),
        prompts=[record.prompt for record in records],
        chosen=[record.chosen for record in records],
        rejected=[record.rejected for record in records],
        extras={name: [record.extras.get(name) for record in records] for name in names},
        skipped=skipped,
    )


def write_preferences(path: str | Path, preferences: PreferenceSet) -> None:
    """Writes a .parquet or .jsonl file that `read_preferences`, TRL and datasets read.

    Pictures are embedded as lossless WebP, in the column `images`. The file appears only when it is whole.

    Raises:
      UserError: another ending, or a further column whose values such a file cannot hold.
    """
    path = Path(path)
    writers = {".parquet": _write_parquet, ".jsonl": _write_jsonl}
    if path.suffix not in writers:
        raise UserError(f"{path}: a preference file ends in .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        writers[path.suffix](partial, preferences)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Record:
    image_index: int
    prompt: str
    chosen: str
    rejected: str
    extras: dict[str, Any]


class _Pictures:
    """The distinct pictures met so far, each decoded once."""

    def __init__(self, folder: Path, size: int):
        self.folder = folder.resolve()
        self.size = size
        self.images: list[np.ndarray] = []
        self.index_of: dict[bytes, int] = {}

    def add(self, value: Any, where: str) -> int:
        """The number of the picture that `value` holds or points to."""
        data = self._bytes(value, where)
        digest = hashlib.sha256(data).digest()
        if digest not in self.index_of:
            self.images.append(decode_image(data, size=self.size, source=where))
            self.index_of[digest] = len(self.images) - 1
        return self.index_of[digest]

    def _bytes(self, value: Any, where: str) -> bytes:
        if isinstance(value, dict):
            data = value.get("bytes")
            if isinstance(data, str):
                try:
                    return base64.b64decode(data, validate=True)
                except (binascii.Error, ValueError) as error:
                    raise UserError(f"{where}: the picture's bytes are not base64 ({error})") from error
            value = value.get("path") if data is None else data
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return self._read(value, where)
        raise UserError(f'{where}: no picture; give a relative path, or {{"bytes": ...}} (base64 in JSONL)')

    def _read(self, name: str, where: str) -> bytes:
        if "://" in name or name.startswith("data:"):
            raise UserError(f"{where}: {name[:80]!r} is a URL; fetch the picture and give its relative path")
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        outside = windows.anchor or posix.is_absolute() or ".." in windows.parts or "\0" in name
        file = None if outside else (self.folder / name).resolve()
        if file is None or not file.is_relative_to(self.folder):
            raise UserError(
                f"{where}: {name!r} lies outside of {self.folder}; pictures must lie beside the file"
            )
        if not file.is_file():
            raise UserError(f"{where}: there is no picture {name!r} in {self.folder}; put it there")
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{where}: {name!r} cannot be read ({error.strerror})") from error


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any] | bytes]]:
    """(where it stands, the record) one by one; a line of JSONL is not parsed yet."""
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: a preference file ends in .parquet or .jsonl")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    return _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)


def _read_jsonl(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"{path}, line {number}", line


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _image_column(file.schema_arrow.names, str(path))
            numbers = itertools.count(1)
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield f"{path}, row {next(numbers)}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged, or not a parquet file ({error}); fetch it again") from error


def _image_column(columns: Sequence[str], where: str) -> str:
    """The name of the picture column; checks that the others are there too."""
    have = f"it has {', '.join(columns) or 'none'}"
    for name in TEXT_COLUMNS:
        if name not in columns:
            raise UserError(f"{where}: there is no column {name!r} ({have}); rename the one that is meant")
    found = [name for name in IMAGE_COLUMNS if name in columns]
    if len(found) != 1:
        problem = (
            "columns 'images' and 'image' are both there; drop one"
            if found
            else "there is no column 'images'"
        )
        raise UserError(f"{where}: {problem} ({have})")
    return found[0]


def _parse_record(raw: dict[str, Any] | bytes, where: str, pictures: _Pictures) -> _Record:
    row = _parse_line(raw, where) if isinstance(raw, bytes) else raw
    image_column = _image_column(list(row), where)
    prompt, chosen, rejected = (_parse_text(row[name], where, name) for name in TEXT_COLUMNS)
    if chosen == rejected:
        raise UserError(f"{where}: columns chosen and rejected are equal ({chosen[:60]!r}); drop this pair")
    image, where_image = row[image_column], f"{where}, column {image_column}"
    if image_column == "images":
        if not isinstance(image, list) or len(image) != 1:
            count = len(image) if isinstance(image, list) else repr(image)[:60]
            raise UserError(f"{where_image}: a list of one picture is needed, not {count}")
        image = image[0]
    extras = {name: value for name, value in row.items() if name not in (*TEXT_COLUMNS, image_column)}
    return _Record(pictures.add(image, where_image), prompt, chosen, rejected, extras)


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise UserError(
                f"{where}: the file is cut off in its last line; delete it or write it anew"
            ) from error
        raise UserError(f"{where}: not JSON ({error}); give one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {repr(row)[:60]} is not a JSON object; give one object a line")
    return row


def _parse_text(value: Any, where: str, column: str) -> str:
    """A string as it is; a conversation as the texts of its messages, one a line."""
    where = f"{where}, column {column}"
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        if column != "prompt" and any(message.get("role") != "assistant" for message in value):
            raise UserError(f"{where}: only the assistant's messages belong here; move the others to prompt")
        value = "\n".join(_parse_content(message.get("content"), where) for message in value)
    if not isinstance(value, str):
        raise UserError(f"{where}: {repr(value)[:60]} is no text; give a string, or a list of messages")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: half a surrogate pair, which is no character; write the whole one")
    return value


def _parse_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "image":
            raise UserError(
                f"{where}: a message's content holds {repr(part)[:60]}; only text and image are known"
            )
    return "".join(texts)


def _write_parquet(path: Path, preferences: PreferenceSet) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = {"prompt": preferences.prompts, "chosen": preferences.chosen, "rejected": preferences.rejected}
    arrays = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    for name, values in preferences.extras.items():
        try:
            arrays[name] = pa.array(values)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise UserError(f"column {name} cannot be written to parquet: {error}") from error
    types = {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}
    schema = pa.schema(
        [("images", pa.list_(image)), *((name, array.type) for name, array in arrays.items())],
        metadata={"huggingface": json.dumps({"info": {"features": types}})},
    )
    encoded = [{"bytes": encode_webp(picture), "path": None} for picture in preferences.images_NxHxWxC]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(preferences), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            images = pa.array(
                [[encoded[i]] for i in preferences.image_index_P[rows]], schema.field("images").type
            )
            writer.write_table(pa.table([images, *(array[rows] for array in arrays.values())], schema=schema))


def _write_jsonl(path: Path, preferences: PreferenceSet) -> None:
    encoded = [base64.b64encode(encode_webp(picture)).decode() for picture in preferences.images_NxHxWxC]
    with path.open("w", encoding="utf-8") as file:
        for i, image_index in enumerate(preferences.image_index_P):
            row: dict[str, Any] = {
                "prompt": preferences.prompts[i],
                "chosen": preferences.chosen[i],
                "rejected": preferences.rejected[i],
                "images": [{"bytes": encoded[image_index]}],
            }
            for name, values in preferences.extras.items():
                row[name] = values[i]
            try:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"pair {i + 1} cannot be written as JSON: {error}; use .parquet") from error

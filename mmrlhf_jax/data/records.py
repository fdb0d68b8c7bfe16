"""Files of records, read one by one: parquet, JSON, JSON lines, and tables with commas or tabs."""

import csv
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmrlhf_jax.errors import UserError

Row = dict[str, Any]
RecordT = TypeVar("RecordT")
Check = Callable[[Collection[str], str], Any]  # raises UserError for columns that cannot be used, told where
ROWS_AT_ONCE = 512  # of a parquet file in memory while it is read or written
OWN_ENDINGS = (".parquet", ".jsonl")
SPLITS = ("train", "validation", "val", "dev", "test")
_LONGEST_CELL = 2**30  # characters; the csv module's own limit is too short for a picture in base64


class NoJudgement(UserError):
    """A record that is whole but says nothing, e.g. a pair that nobody judged: left out, and never fatal."""


def read_rows(
    files: Sequence[Path],
    parse: Callable[[Row, str], RecordT],
    *,
    noun: str,
    on_bad: str,
    check: Check,
    endings: Sequence[str] = OWN_ENDINGS,
) -> tuple[list[RecordT], list[str]]:
    """All records of some files that `parse` can use.

    Args:
      parse: makes a record of a row and of where it stands (file and line or row, from 1), or raises
        UserError.
      noun: what a record is called.
      on_bad: what to do with one that cannot be used: "error" raises, "skip" leaves it out.
      check: raises UserError if a table with these columns cannot be used at all.
      endings: of files that may be read.

    Returns:
      The records, and a message for each one that was left out.

    Raises:
      UserError: no readable file, no usable record, or (on_bad="error") a bad one.
    """
    if on_bad not in ("error", "skip"):
        raise UserError(f'on_bad is {on_bad!r}; give "error" or "skip"')
    records: list[RecordT] = []
    skipped: list[str] = []
    for file in files:
        if file.suffix not in endings:
            raise UserError(f"{file}: such a file ends in {', '.join(endings[:-1])} or {endings[-1]}")
        to_row = FORMATS[file.suffix].to_row
        for where, raw in _read(file, check):
            try:
                records.append(parse(to_row(raw, where), where))
            except UserError as error:
                if on_bad == "error" and not isinstance(error, NoJudgement):
                    raise
                skipped.append(str(error))
    if not records:
        bad = f"; all {len(skipped)} records are bad, the first one: {skipped[0]}" if skipped else ""
        raise UserError(f"{', '.join(map(str, files))}: there is no {noun} in this file{bad}")
    return records, skipped


def find_files(path: Path, split: str = "train") -> list[Path]:
    """The files of records at `path`: itself, or those in a folder and its folders, in order of their names.

    In a folder only files of one ending are taken, the first of `FORMATS` that is there, because sets are
    often laid out twice. Hidden folders are left out.

    Args:
      split: which files to take where the names of those in a folder tell of several splits.

    Raises:
      UserError: no such file in the folder.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in FORMATS and file.is_file())
    shown = [f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    ending = next((ending for ending in FORMATS if any(file.suffix == ending for file in shown)), None)
    files = [file for file in shown if file.suffix == ending]
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    if len(set(splits.values()) - {None}) > 1:
        files = [file for file in files if splits[file] == split]
    if not files:
        kinds = ", ".join(FORMATS)
        raise UserError(f"{path}: there is no file of the split {split} in this folder ({kinds}); name one")
    return files


def _split_of(file: Path) -> str | None:
    """The split that the name of a file or of its folders tells of."""
    words = (word for part in reversed(file.parts) for word in re.split(r"[-_.]", part))
    return next((word for word in words if word in SPLITS), None)


def _read(file: Path, check: Check) -> Iterator[tuple[str, Any]]:
    """(where it stands, the raw record) one by one."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    try:
        yield from FORMATS[file.suffix].read(file, check)
    except OSError as error:
        raise UserError(f"{file}: it cannot be read ({error.strerror})") from error


def merge_extras(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Columns of rows that may differ in their keys; None where a row has no such key."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path, check: Check) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check(file.schema_arrow.names, str(path))
            numbers = itertools.count(1)
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield f"{path}, row {next(numbers)}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged, or not a parquet file ({error}); fetch it again") from error


def _read_jsonl(path: Path, check: Check) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"{path}, line {number}", line


def _read_json(path: Path, check: Check) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of records is needed, not {repr(rows)[:60]}")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, record {number}", row


def _read_table(path: Path, check: Check) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
    """(names, cells) of each row; the first line names the columns."""
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.reader(file, delimiter="," if path.suffix == ".csv" else "\t")
        try:
            names = next(table, [])
            check(names, str(path))
            for number, cells in enumerate(table, start=1):
                if cells:
                    yield f"{path}, row {number}", (names, cells)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a table in UTF-8 ({error}); fetch it again") from error


def _read_lines(path: Path, check: Check) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", line.rstrip(b"\r\n")


def _split_line(line: bytes, where: str) -> Row:
    """Cells between tabs, by number, as such files name no columns."""
    try:
        return {str(i): cell for i, cell in enumerate(line.decode().split("\t"))}
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error})") from error


def _parse_line(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise UserError(
                f"{where}: the file is cut off in its last line; delete it or write it anew"
            ) from error
        raise UserError(f"{where}: not JSON ({error}); give one object a line") from error
    return _check_row(row, where)


def _check_row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{where}: {repr(row)[:60]} is not a JSON object; give one object for each record")
    return row


def _parse_cells(raw: tuple[list[str], list[str]], where: str) -> Row:
    names, cells = raw
    if len(names) != len(cells):
        raise UserError(f"{where}: {len(cells)} cells, but the table has {len(names)} columns")
    return dict(zip(names, cells, strict=True))


class _Format(NamedTuple):
    """read: (where it stands, the raw record) one by one; to_row: a raw record as a row, or UserError."""

    read: Callable[[Path, Check], Iterator[tuple[str, Any]]]
    to_row: Callable[[Any, str], Row]


FORMATS = {
    ".parquet": _Format(_read_parquet, lambda row, where: row),
    ".jsonl": _Format(_read_jsonl, _parse_line),
    ".json": _Format(_read_json, _check_row),
    ".csv": _Format(_read_table, _parse_cells),
    ".tsv": _Format(_read_table, _parse_cells),
    ".txt": _Format(_read_lines, _split_line),
}

"""Files of records, read one by one and written whole: parquet and JSONL."""

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmrlhf_jax.data.images import encode_webp
from mmrlhf_jax.errors import UserError

Row = dict[str, Any]
RecordT = TypeVar("RecordT")
ROWS_AT_ONCE = 512  # of a parquet file in memory while it is read or written


def read_rows(
    path: Path,
    parse: Callable[[Row, str], RecordT],
    *,
    noun: str,
    on_bad: str,
    check: Callable[[Sequence[str], str], Any],
) -> tuple[list[RecordT], list[str]]:
    """All records of a .parquet or .jsonl file that `parse` can use.

    Args:
      parse: makes a record of a row and of where it stands (file and line or row, from 1), or raises
        UserError.
      noun: what a record is called.
      on_bad: what to do with one that cannot be used: "error" raises, "skip" leaves it out.
      check: raises UserError if a parquet file with these columns cannot be used at all.

    Returns:
      The records, and a message for each one that was left out.

    Raises:
      UserError: no readable file, no usable record, or (on_bad="error") a bad one.
    """
    if on_bad not in ("error", "skip"):
        raise UserError(f'on_bad is {on_bad!r}; give "error" or "skip"')
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: a file of judgements ends in .parquet or .jsonl")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    rows = _read_parquet(path, check) if path.suffix == ".parquet" else _read_jsonl(path)
    records: list[RecordT] = []
    skipped: list[str] = []
    for where, raw in rows:
        try:
            records.append(parse(_parse_line(raw, where) if isinstance(raw, bytes) else raw, where))
        except UserError as error:
            if on_bad == "error":
                raise
            skipped.append(str(error))
    if not records:
        bad = f"; all {len(skipped)} records are bad, the first one: {skipped[0]}" if skipped else ""
        raise UserError(f"{path}: there is no {noun} in this file{bad}")
    return records, skipped


def merge_extras(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Columns of rows that may differ in their keys; None where a row has no such key."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_jsonl(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield f"{path}, line {number}", line


def _read_parquet(path: Path, check: Callable[[Sequence[str], str], Any]) -> Iterator[tuple[str, Row]]:
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


def _parse_line(line: bytes, where: str) -> Row:
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


def write_rows(
    path: str | Path,
    images_NxHxWxC: np.ndarray,
    index_RxK: np.ndarray,
    columns: Mapping[str, Sequence[Any]],
) -> None:
    """Writes a .parquet or .jsonl file: `columns`, and in `images` the K pictures of each row.

    Pictures are embedded as lossless WebP. The file appears only when it is whole.

    Raises:
      UserError: another ending, or a column whose values such a file cannot hold.
    """
    path = Path(path)
    writers = {".parquet": _write_parquet, ".jsonl": _write_jsonl}
    if path.suffix not in writers:
        raise UserError(f"{path}: a file of judgements ends in .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        writers[path.suffix](partial, images_NxHxWxC, index_RxK, columns)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(
    path: Path, images_NxHxWxC: np.ndarray, index_RxK: np.ndarray, columns: Mapping[str, Sequence[Any]]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {}
    for name, values in columns.items():
        try:
            # Without values there is nothing to tell the type from; texts are the most likely.
            arrays[name] = pa.array(values, None if len(values) else pa.string())
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise UserError(f"column {name} cannot be written to parquet: {error}") from error
    types = {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}
    schema = pa.schema(
        [("images", pa.list_(image)), *((name, array.type) for name, array in arrays.items())],
        metadata={"huggingface": json.dumps({"info": {"features": types}})},
    )
    encoded = [{"bytes": encode_webp(picture), "path": None} for picture in images_NxHxWxC]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(index_RxK), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            images = pa.array(
                [[encoded[i] for i in index_K] for index_K in index_RxK[rows]], schema.field("images").type
            )
            writer.write_table(pa.table([images, *(array[rows] for array in arrays.values())], schema=schema))


def _write_jsonl(
    path: Path, images_NxHxWxC: np.ndarray, index_RxK: np.ndarray, columns: Mapping[str, Sequence[Any]]
) -> None:
    encoded = [{"bytes": base64.b64encode(encode_webp(picture)).decode()} for picture in images_NxHxWxC]
    with path.open("w", encoding="utf-8") as file:
        for i, index_K in enumerate(index_RxK):
            row = {"images": [encoded[k] for k in index_K]}
            row |= {name: values[i] for name, values in columns.items()}
            try:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"record {i + 1} cannot be written as JSON: {error}; use .parquet") from error

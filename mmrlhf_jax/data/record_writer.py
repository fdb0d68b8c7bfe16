"""Files of records with embedded pictures, written whole: parquet and JSONL."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.images import encode_webp
from mmrlhf_jax.data.records import ROWS_AT_ONCE
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import by_first


@by_first
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

"""Preferences as conversations, the other form of TRL's columns: prompt, chosen and rejected are messages."""

import base64
import json
from pathlib import Path
from typing import Any

from mmrlhf_jax.data.images import encode_webp
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_bytes
from mmrlhf_jax.processes import by_first


@by_first
def write_conversations(path: str | Path, preferences: PreferenceSet, *, beside: bool = False) -> None:
    """Writes a .parquet or .jsonl file of conversations that `read_preferences`, TRL and datasets read.

    Args:
      beside: pictures become files in a folder beside this one, named after it, instead of parts of it.

    Raises:
      UserError: another ending, or a further column whose values such a file cannot hold.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"{path}: a preference file ends in .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [encode_webp(picture) for picture in preferences.images_NxHxWxC]
    images: list[dict[str, Any]] = [{"bytes": data, "path": None} for data in pictures]
    if beside:
        folder = path.with_name(f"{path.stem}_pictures")
        for number, data in enumerate(pictures):
            write_bytes(folder / f"{number:06d}.webp", data)
            images[number] = {"bytes": None, "path": f"{folder.name}/{number:06d}.webp"}
    rows = [_row(preferences, p, images) for p in range(len(preferences))]
    partial = path.with_name(path.name + ".partial")
    try:
        (_write_parquet if path.suffix == ".parquet" else _write_jsonl)(partial, rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _row(preferences: PreferenceSet, p: int, images: list[dict[str, Any]]) -> dict[str, Any]:
    picture: dict[str, Any] = {"type": "image", "text": None}
    return {
        "images": [images[preferences.image_index_P[p]]],
        "prompt": [{"role": "user", "content": [picture, _text(preferences.prompts[p])]}],
        "chosen": [{"role": "assistant", "content": [_text(preferences.chosen[p])]}],
        "rejected": [{"role": "assistant", "content": [_text(preferences.rejected[p])]}],
        **{name: values[p] for name, values in preferences.extras.items()},
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    types = {"images": image, "prompt": messages, "chosen": messages, "rejected": messages}
    names = rows[0] if rows else types
    try:
        table = pa.table({name: pa.array([row[name] for row in rows], types.get(name)) for name in names})
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UserError(f"{path.stem}: a column cannot be written to parquet ({error})") from error
    feature = {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            image = row["images"][0]
            if image["bytes"] is None:
                image = {"path": image["path"]}
            else:
                image = {"bytes": base64.b64encode(image["bytes"]).decode()}
            try:
                file.write(json.dumps({**row, "images": [image]}, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise UserError(f"pair {number} cannot be written as JSON: {error}; use .parquet") from error

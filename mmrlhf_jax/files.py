"""Values as plain data, and files that are either whole or not there."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import by_first


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8, so that a reader or a crash never meets half a file.

    The folder is made when it is not there. Lone surrogates, which UTF-8 cannot hold, become "?".
    """
    write_bytes(path, text.encode("utf-8", "replace"))


@by_first
def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes. Of several processes the first one writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What a downloaded JSON file says. Raises UserError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): download it again") from None


def as_plain(value: Any, *, finite: bool = False) -> Any:
    """`value` in the types that JSON and YAML share; with `finite`, NaN and infinity become None.

    Dataclasses become dicts, tuples lists, paths strings; scalars and arrays of numpy and JAX become numbers
    and lists. Raises `TypeError` for anything else, keys that are no strings included.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, got {key!r}")
        return {key: as_plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item, finite=finite) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and finite and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON or YAML")

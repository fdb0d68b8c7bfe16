"""summary.json: the numbers of a run for machines."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrlhf_jax.evaluate.atomic import write_text


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes strict JSON with sorted keys, at once or not at all.

    NaN and infinities, for which strict JSON has no numbers, become null; NumPy and JAX arrays become numbers
    and lists, paths become strings. The folder is made when it is not there.

    Raises:
      TypeError: a key that is no string, or a value of another kind.
    """
    text = json.dumps(_plain(summary), indent=2, sort_keys=True, allow_nan=False)
    write_text(Path(path), text + "\n")


def _plain(value: Any) -> Any:
    """`value` in JSON's own types."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"summary keys must be strings, got {key!r}")
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # arrays and their scalars, NumPy's and JAX's
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"summary values must be numbers, strings, lists or mappings, got {type(value).__name__}")

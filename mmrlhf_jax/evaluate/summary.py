"""summary.json: the numbers of a run for machines."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrlhf_jax.files import as_plain, write_text


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes strict JSON with sorted keys, at once or not at all.

    NaN and infinities, for which strict JSON has no numbers, become null; NumPy and JAX arrays become numbers
    and lists, paths become strings. The folder is made when it is not there.

    Raises:
      TypeError: a key that is no string, or a value of another kind.
    """
    text = json.dumps(as_plain(summary, finite=True), indent=2, sort_keys=True, allow_nan=False)
    write_text(Path(path), text + "\n")

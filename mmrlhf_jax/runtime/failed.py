"""What a failed step was given, kept for a look."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmrlhf_jax.files import write_bytes
from mmrlhf_jax.sharding import on_host


def save_arrays(path: Path, tree: Any) -> None:
    """Writes a pytree of arrays as .npz, each under its path in the tree ("completions.ids_BxT")."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    named: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="."): on_host(leaf) for path, leaf in leaves
    }
    data = io.BytesIO()
    np.savez_compressed(data, **named)
    write_bytes(path, data.getvalue())

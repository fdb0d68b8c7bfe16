"""What frozen networks say of a set of pictures, computed once and mapped from disk ever after.

A folder of features holds shards of rows as `LEAF-00000.npy`, and `manifest.json`, which names the checksums
of the model and the data that they were made of.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmrlhf_jax.data.chunks import chunks
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.processes import is_first, meet, of_first
from mmrlhf_jax.sharding import on_host

MANIFEST = "manifest.json"
SHARD = 4096  # rows; a multiple of every chunk


class MappedRows:
    """The rows of one array that lies in shards on disk; row numbers as index give them in memory.

    Attributes:
      shape, dtype: of the whole.
    """

    def __init__(self, shards: list[np.ndarray]):
        self._shards = shards
        self.dtype = shards[0].dtype
        self.shape = (sum(map(len, shards)), *shards[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            return np.concatenate(self._shards)[rows]
        rows = np.asarray(rows)
        per_shard = len(self._shards[0])
        if not rows.ndim:
            return np.array(self._shards[int(rows) // per_shard][int(rows) % per_shard])
        flat = rows.reshape(-1)
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for shard in np.unique(flat // per_shard):
            here = flat // per_shard == shard
            found[here] = self._shards[shard][flat[here] % per_shard]
        return found.reshape(*rows.shape, *self.shape[1:])


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
    """Where features lie, and what they must be made of.

    Attributes:
      made_of: checksums by name, e.g. of model and data, and settings.
      refuse: what to do with features that were made of something else: raise, or compute them again.
      shard: rows of a file.
    """

    path: Path
    made_of: Mapping[str, str]
    refuse: bool = False
    shard: int = SHARD

    def open(self, shapes: Any, compute: Callable[[np.ndarray], Any], count: int, *, batch: int = 256) -> Any:
        """The features of `count` rows, which are computed where they are not there.

        Args:
          shapes: pytree of shapes and dtypes of what `compute` gives.
          compute: rows (B,) → pytree of arrays with B leading rows; called with the chunks of `data.chunks`.

        Returns:
          That pytree with `MappedRows` as leaves.

        Raises:
          UserError: with `refuse`, what is there was made of something else.
        """
        wanted = {"made_of": dict(self.made_of), "leaves": self._describe(shapes, count), "shard": self.shard}
        found = of_first(self._manifest)
        if found != wanted:
            if found is not None and self.refuse:
                differs = [
                    name
                    for name, value in self.made_of.items()
                    if found.get("made_of", {}).get(name) != value
                ]
                raise UserError(
                    f"{self.path} holds features of another {' and '.join(differs) or 'shape'}: "
                    "name another folder with --features, or delete this one"
                )
            self._write(shapes, compute, count, batch)
            write_text(self.path / MANIFEST, json.dumps(wanted, indent=2) + "\n")
            meet()
        names, structure = _names(shapes)
        rows = [
            MappedRows([np.load(file, mmap_mode="r") for file in sorted(self.path.glob(f"{name}-*.npy"))])
            for name in names
        ]
        return jax.tree.unflatten(structure, rows)

    def _write(self, shapes: Any, compute: Callable[[np.ndarray], Any], count: int, batch: int) -> None:
        names, _ = _names(shapes)
        if is_first():
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / MANIFEST).unlink(missing_ok=True)  # from here on they are not whole
            for old in (old for name in names for old in self.path.glob(f"{name}-*.npy")):
                old.unlink()
        done = 0
        files: list[np.ndarray] = []
        for rows_B, real in chunks(count, batch):
            leaves = [leaf[:real] for leaf in jax.tree.leaves(on_host(compute(rows_B)))]
            while real and is_first():
                place = done % self.shard
                if not place:
                    length = min(self.shard, count - done)
                    files = [
                        np.lib.format.open_memmap(
                            self.path / f"{name}-{done // self.shard:05d}.npy",
                            mode="w+",
                            dtype=leaf.dtype,
                            shape=(length, *leaf.shape[1:]),
                        )
                        for name, leaf in zip(names, leaves, strict=True)
                    ]
                fits = min(real, self.shard - place)
                for file, leaf in zip(files, leaves, strict=True):
                    file[place : place + fits] = leaf[:fits]
                leaves = [leaf[fits:] for leaf in leaves]
                done, real = done + fits, real - fits
        for file in files:
            file.flush()  # type: ignore[attr-defined]

    def _describe(self, shapes: Any, count: int) -> dict[str, list[Any]]:
        names, _ = _names(shapes)
        leaves = jax.tree.leaves(shapes)
        return {
            name: [str(leaf.dtype), [count, *leaf.shape[1:]]]
            for name, leaf in zip(names, leaves, strict=True)
        }

    def _manifest(self) -> dict[str, Any] | None:
        """What lies in the folder; None where that is nothing, or not whole."""
        try:
            return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def checksum_of(tree: Any) -> str:
    """Changes with any name, shape, dtype or value of a pytree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(on_host(leaf))
        digest.update(repr((jax.tree_util.keystr(path), array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _names(tree: Any) -> tuple[list[str], Any]:
    """A file's name for each leaf, and the structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "rows" for path, _ in leaves], structure

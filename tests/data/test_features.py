"""Features on disk are those that were computed, and are never taken for those of another model or set."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.features import FeatureFolder, MappedRows, checksum_of
from mmrlhf_jax.errors import UserError

COUNT = 21
MADE_OF = {"model": "m1", "data": "d1"}


class Leaves(NamedTuple):
    tokens: np.ndarray
    pooled: np.ndarray | None = None


TOKENS = np.random.default_rng(0).normal(size=(COUNT, 3, 2)).astype(np.float32)
SHAPES = Leaves(jax.ShapeDtypeStruct((1, 3, 2), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32))


class Tower:
    """Counts how many rows it was asked for."""

    def __init__(self):
        self.rows = 0

    def __call__(self, rows_B: np.ndarray) -> Leaves:
        self.rows += len(rows_B)
        return Leaves(TOKENS[rows_B], rows_B.astype(np.int32))


def opened(path: Path, made_of=MADE_OF, shard: int = 8, **fields):
    tower = Tower()
    found = FeatureFolder(path, made_of, shard=shard, **fields).open(SHAPES, tower, COUNT, batch=4)
    return tower, found


def test_shards_hold_every_row_once(tmp_path: Path):
    tower, found = opened(tmp_path)
    assert tower.rows == 24  # whole chunks
    assert isinstance(found, Leaves) and isinstance(found.tokens, MappedRows)
    assert found.tokens.shape == (COUNT, 3, 2) and found.pooled.dtype == np.int32
    np.testing.assert_array_equal(found.tokens[:], TOKENS)
    rows = np.array([[20, 0], [8, 7]])
    np.testing.assert_array_equal(found.tokens[rows], TOKENS[rows])
    np.testing.assert_array_equal(found.pooled[rows], rows)
    np.testing.assert_array_equal(found.tokens[9], TOKENS[9])
    lengths = [len(np.load(tmp_path / f"tokens-{i:05d}.npy", mmap_mode="r")) for i in range(3)]
    assert lengths == [8, 8, 5]
    assert json.loads((tmp_path / "manifest.json").read_text())["made_of"] == MADE_OF


def test_they_are_computed_once(tmp_path: Path):
    opened(tmp_path)
    tower, found = opened(tmp_path, refuse=True)
    assert tower.rows == 0
    np.testing.assert_array_equal(found.tokens[:], TOKENS)


def test_those_of_another_model_are_refused_or_made_anew(tmp_path: Path):
    opened(tmp_path)
    (tmp_path / "mine.npy").write_bytes(b"not ours")
    with pytest.raises(UserError, match="features of another model: name another folder"):
        opened(tmp_path, MADE_OF | {"model": "m2"}, refuse=True)
    with pytest.raises(UserError, match="model and data"):
        opened(tmp_path, {"model": "m2", "data": "d2"}, refuse=True)
    assert opened(tmp_path, MADE_OF | {"data": "d2"})[0].rows == 24
    assert opened(tmp_path, MADE_OF | {"data": "d2"}, refuse=True)[0].rows == 0
    assert (tmp_path / "mine.npy").read_bytes() == b"not ours"


def test_half_written_ones_are_made_anew(tmp_path: Path):
    def fail(rows_B: np.ndarray) -> Leaves:
        if rows_B[0] >= 12:
            raise OSError("no space left")
        return Tower()(rows_B)

    with pytest.raises(OSError, match="no space"):
        FeatureFolder(tmp_path, MADE_OF, shard=8).open(SHAPES, fail, COUNT, batch=4)
    tower, found = opened(tmp_path, refuse=True)
    assert tower.rows == 24
    np.testing.assert_array_equal(found.tokens[:], TOKENS)


def test_a_checksum_tells_names_shapes_and_values_apart():
    trees = [
        {"a": np.zeros(2, np.float32)}, {"b": np.zeros(2, np.float32)}, {"a": np.zeros(2, np.int32)},
        {"a": np.zeros((1, 2), np.float32)}, {"a": np.array([0, 1e-9], np.float32)}, {"a": jax.random.key(0)},
        {"a": jax.random.key(1)},
    ]  # fmt: skip
    assert len({checksum_of(tree) for tree in trees}) == len(trees)
    assert checksum_of({"a": jnp.zeros(2)}) == checksum_of(trees[0])

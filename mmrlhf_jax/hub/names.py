"""Names: how the parameters of a network here are made of a checkpoint's tensors, and back."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmrlhf_jax.modules import Params


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter and the tensors that it is made of.

    Attributes:
      sources: names of the tensors in the checkpoint.
      join: their arrays, in that order, to the parameter; views where possible.
      split: the parameter to their arrays, undoing `join`.
    """

    sources: tuple[str, ...]
    join: Callable[..., np.ndarray]
    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]


Table = dict[str, Rule]  # dotted name of a parameter → how it is made


def parameter_names(params: Params) -> dict[str, Any]:
    """The leaves of a nested dict by dotted name, e.g. "vision.transformer.blocks.0.qkv.kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def same(ours: str, theirs: str) -> Table:
    """The tensor as it is."""
    return {ours: Rule((theirs,), lambda array: array, lambda array: (array,))}


def transposed(ours: str, theirs: str) -> Table:
    """A matrix with its axes swapped: torch keeps (out, in), we keep (in, out)."""
    return {ours: Rule((theirs,), lambda weight: weight.T, lambda kernel: (kernel.T,))}


def moved(table: Table, ours: str, theirs: Callable[[str], str]) -> Table:
    """The table of a part of a network: `ours` before its names, `theirs` of the tensors' names."""
    return {
        f"{ours}.{name}": dataclasses.replace(rule, sources=tuple(map(theirs, rule.sources)))
        for name, rule in table.items()
    }


def linear(ours: str, theirs: str, *, bias: bool = True) -> Table:
    """A linear layer's kernel, and its bias where it has one."""
    table = transposed(f"{ours}.kernel", f"{theirs}.weight")
    return table | same(f"{ours}.bias", f"{theirs}.bias") if bias else table


def norm(ours: str, theirs: str, *, bias: bool = True) -> Table:
    """A LayerNorm's scale and bias; an RMSNorm has no bias."""
    table = same(f"{ours}.scale", f"{theirs}.weight")
    return table | same(f"{ours}.bias", f"{theirs}.bias") if bias else table


def side_by_side(ours: str, theirs: tuple[str, ...]) -> Table:
    """Linear layers of equal sizes as one, e.g. those of queries, keys and values; outputs side by side."""

    def join(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays).T  # a bias is its own transpose

    def split(array: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(part.T for part in np.split(array, len(theirs), axis=-1))

    return {
        f"{ours}.kernel": Rule(tuple(f"{name}.weight" for name in theirs), join, split),
        f"{ours}.bias": Rule(tuple(f"{name}.bias" for name in theirs), join, split),
    }


def patch_kernel(ours: str, theirs: str, patch_size: int, channels: int) -> Table:
    """A convolution's (D, C, P, P) kernel as that of a linear layer over row-major P x P x C patches."""

    def join(weight_DxCxPxP: np.ndarray) -> np.ndarray:
        return weight_DxCxPxP.transpose(2, 3, 1, 0).reshape(-1, weight_DxCxPxP.shape[0])

    def split(kernel_KxD: np.ndarray) -> tuple[np.ndarray, ...]:
        grid_PxPxCxD = kernel_KxD.reshape(patch_size, patch_size, channels, -1)
        return (grid_PxPxCxD.transpose(3, 2, 0, 1),)

    return {ours: Rule((theirs,), join, split)}

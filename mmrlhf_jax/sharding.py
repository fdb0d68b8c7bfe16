"""Where arrays lie on a mesh of devices: rules by path for parameters, rows for batches.

Every function reads the mesh that is set (`runtime.mesh.on_mesh`). Without one, all of them give back what
they were given, so that a program for one device has not an instruction more.

    with on_mesh("data=2,fsdp=2"):
        state = made(init, pretrained)   # one compiled function, each leaf where its rule says
        step = jax.jit(guarded(step))    # keeps it there, and cuts batches by rows
"""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mmrlhf_jax.mesh_axes import ROWS

Tree = TypeVar("Tree")
Axes = str | tuple[str, ...] | None  # of the mesh, over which a dimension is cut

# (pattern of the end of a leaf's path, axes of its last dimensions). The first that fits counts. Moments of
# the optimizer have their parameter's path at the end of their own, and so its rule.
RULES: tuple[tuple[str, tuple[Axes, ...]], ...] = (
    # outputs stand apart (heads, hidden units) until the next layer brings them together again
    (r"\b(query|key|value|gate|up|head)/kernel", ("fsdp", "tensor")),
    (r"\b(out|down)/kernel", ("tensor", "fsdp")),
    # one product for queries, keys and values: cut, and gathered where it is used
    (r"\bqkv/kernel", (("fsdp", "tensor"), None)),
    (r"\bembedding", ("tensor", "fsdp")),
    # a number for each unit: small, and copied
    (r"\b(bias|scale)", (None,)),
    # what the guard remembers
    (r"\blosses_LxW", (None, None)),
)


def spec_of(path: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """How a leaf is cut.

    By the first of RULES that fits its path; else the larger of a matrix's two dimensions that fsdp divides
    is cut by it, and vectors and numbers are copied. An axis that does not divide its dimension is left out.

    Args:
      path: names and indices, e.g. "params/decoder/blocks/0/up/kernel".
      shape: dimensions before the last two (layers, members) are never cut.
      sizes: of the mesh's axes.
    """
    axes = next((axes for pattern, axes in RULES if re.search(rf"{pattern}$", path)), None)
    if axes is None:
        axes = _by_size(shape, sizes)
    axes = axes[-len(shape) :] if shape else ()
    cut = [None] * (len(shape) - len(axes)) + [
        axis if size % _count(axis, sizes) == 0 else None
        for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True)
    ]
    return PartitionSpec(*cut)


def settled(tree: Tree) -> Tree:
    """The same arrays, each cut as `spec_of` its path says; inside a compiled function a demand on it."""
    sizes = _sizes()
    if not sizes:
        return tree
    return jax.tree.map_with_path(
        lambda path, leaf: jax.lax.with_sharding_constraint(
            leaf, spec_of(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sizes)
        ),
        tree,
    )


def copied(tree: Tree) -> Tree:
    """The same arrays, whole on every device."""
    if not _sizes():
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), tree)


def by_rows(tree: Tree) -> Tree:
    """The same arrays with their leading dimension, the rows of a batch, cut over the axes of ROWS."""
    return jax.tree.map(lambda leaf: cut(leaf, ROWS), tree) if _sizes() else tree


def cut(x: jax.Array, *axes: Axes) -> jax.Array:
    """The same array with its first dimensions cut over these axes, where they divide them."""
    sizes = _sizes()
    if not sizes or not x.ndim:
        return x
    pairs = zip(axes, x.shape, strict=False)
    named = [axis if size % _count(axis, sizes) == 0 else None for axis, size in pairs]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*named))


def made(build: Callable[..., Tree], *inputs: Any) -> Tree:
    """`build(*inputs)`, on a mesh by one compiled function: what it settles is never whole on one device."""
    return jax.jit(build)(*inputs) if _sizes() else build(*inputs)


def shapes(tree: Tree) -> Tree:
    """Shapes and dtypes of what `settled` gives, from shapes."""
    mesh, sizes = jax.sharding.get_mesh(), _sizes()
    if not sizes:
        return tree

    def described(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        spec = spec_of(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sizes)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map_with_path(described, tree)


def _sizes() -> dict[str, int]:
    """Of the axes of the mesh that is set; empty without one."""
    return dict(jax.sharding.get_abstract_mesh().shape)


def _by_size(shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[Axes, ...]:
    last = shape[-2:]
    fits = [i for i, size in enumerate(last) if size % sizes["fsdp"] == 0]
    if len(last) < 2 or not fits:
        return (None,) * len(last)
    chosen = max(fits, key=lambda i: last[i])
    return tuple("fsdp" if i == chosen else None for i in range(2))


def _count(axes: Axes, sizes: dict[str, int]) -> int:
    """Devices along these axes together."""
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    return math.prod(sizes[name] for name in names)

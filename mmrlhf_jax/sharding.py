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
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmrlhf_jax.mesh_axes import ROWS, FrozenName

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

    By the first of RULES that fits its path; else the larger of a matrix's two dimensions is cut by fsdp and
    tensor, and gathered where it is used, and vectors and numbers are copied. Axes that do not divide their
    dimension are left out.

    Args:
      path: names and indices, e.g. "params/decoder/blocks/0/up/kernel".
      shape: dimensions before the last two (layers, members) are never cut.
      sizes: of the mesh's axes.
    """
    axes = next((axes for pattern, axes in RULES if re.search(rf"{pattern}$", path)), None)
    if axes is None:
        axes = _by_size(shape, sizes)
    last = shape[len(shape) - min(len(axes), len(shape)) :]
    fitting = [
        _fitting(wanted, size, sizes)
        for wanted, size in zip(axes[len(axes) - len(last) :], last, strict=True)
    ]
    return PartitionSpec(*[None] * (len(shape) - len(last)), *fitting)


def settled(tree: Tree) -> Tree:
    """The same arrays, each cut as `spec_of` its path says; inside a compiled function a demand on it."""
    sizes = _sizes()
    if not sizes:
        return tree
    return jax.tree.map_with_path(lambda path, leaf: _lay(leaf, _spec(path, leaf, sizes)), tree)


def gathered(tree: Tree) -> Tree:
    """The same arrays, no longer cut by fsdp: for a loop that reads them in every round."""
    sizes = _sizes()
    if not sizes:
        return tree
    return jax.tree.map_with_path(
        lambda path, leaf: _lay(leaf, PartitionSpec(*map(_without_fsdp, _spec(path, leaf, sizes)))), tree
    )


def held(tree: Tree, how: FrozenName) -> Tree:
    """The same arrays, of networks that are only read: cut by their rules, or whole on every device."""
    return settled(tree) if how == "sharded" else copied(tree)


def copied(tree: Tree) -> Tree:
    """The same arrays, whole on every device."""
    if not _sizes():
        return tree
    return jax.tree.map(lambda leaf: _lay(leaf, PartitionSpec()), tree)


def by_rows(tree: Tree) -> Tree:
    """The same arrays with their leading dimension, the rows of a batch, cut over the axes of ROWS."""
    return jax.tree.map(lambda leaf: cut(leaf, ROWS), tree) if _sizes() else tree


def cut(x: jax.Array, *axes: Axes) -> jax.Array:
    """The same array with its first dimensions cut over these axes, where they divide them."""
    sizes = _sizes()
    if not sizes or not x.ndim:
        return x
    named = [_fitting(wanted, size, sizes) for wanted, size in zip(axes, x.shape, strict=False)]
    return _lay(x, PartitionSpec(*named))


def made(build: Callable[..., Tree], *inputs: Any) -> Tree:
    """`build(*inputs)`, on a mesh by one compiled function: what it settles is never whole on one device."""
    return jax.jit(build)(*inputs) if _sizes() else build(*inputs)


def on_host(tree: Any) -> Any:
    """The same as numpy arrays, whole. What is cut over processes comes from all, and all must call this."""
    return jax.tree.map(_fetched, tree)


def own_rows(rows: int) -> np.ndarray:
    """Which of a batch of so many rows lie on the devices of this process, ascending; see `by_rows`."""
    sharding = _row_sharding((rows,))
    if sharding is None:
        return np.arange(rows)
    slices = sharding.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in slices if index is not None]))


def of_own_rows(tree: Tree, rows: int) -> Tree:
    """The arrays of a batch of so many rows, cut as by `by_rows`, of the numpy rows that `own_rows` names."""
    place_R = np.zeros(rows, int)
    own = own_rows(rows)
    place_R[own] = np.arange(len(own))

    def whole(leaf: np.ndarray) -> jax.Array:
        shape = (rows, *leaf.shape[1:])
        sharding = _row_sharding(shape)
        if sharding is None:
            return jax.device_put(leaf)

        def part(index: Any) -> np.ndarray:
            rows_P, *others = index
            return leaf[place_R[rows_P]][(slice(None), *others)]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(whole, tree)


def any_process(says: bool) -> Callable[[], bool]:
    """Begins to ask whether any process says so; the function that it gives waits for the answer."""
    mesh = jax.sharding.get_mesh()
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    each = jax.make_array_from_callback((mesh.size,), sharding, lambda index: np.full(1, says))
    any_D = _any(each)
    return lambda: bool(any_D)


def place_of(path: str, shape: tuple[int, ...]) -> NamedSharding | None:
    """Where the rule of a path puts an array; None without a mesh."""
    sizes = _sizes()
    if not sizes:
        return None
    return NamedSharding(jax.sharding.get_mesh(), spec_of(path, shape, sizes))


def put(array: np.ndarray, sharding: Any) -> jax.Array:
    """A host's array on its devices; of several processes each puts its own part, and waits for no other."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def shapes(tree: Tree) -> Tree:
    """Shapes and dtypes of what `settled` gives, from shapes."""
    if not _sizes():
        return tree

    def described(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = place_of(_name(path), leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map_with_path(described, tree)


def _spec(path: Any, leaf: Any, sizes: dict[str, int]) -> PartitionSpec:
    """`spec_of` a leaf that a walk over a tree has come to."""
    return spec_of(_name(path), leaf.shape, sizes)


def _name(path: Any) -> str:
    """A leaf's path as `RULES` are written."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _without_fsdp(axes: Axes) -> Axes:
    names = axes if isinstance(axes, tuple) else (axes,)
    return tuple(name for name in names if name and name != "fsdp") or None


def _lay(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """A demand on a traced array; an array that is there already moves."""
    if isinstance(x, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(x, spec)
    return jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), spec))


@jax.jit
def _any(each_D: jax.Array) -> jax.Array:
    return jax.numpy.any(each_D)


def _row_sharding(shape: tuple[int, ...]) -> NamedSharding | None:
    """Of a batch, see `by_rows`; None without a mesh."""
    sizes = _sizes()
    if not sizes:
        return None
    return NamedSharding(jax.sharding.get_mesh(), PartitionSpec(_fitting(ROWS, shape[0], sizes)))


def _fetched(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = copied(leaf)
    return np.asarray(leaf)


def _sizes() -> dict[str, int]:
    """Of the axes of the mesh that is set; empty without one."""
    return dict(jax.sharding.get_abstract_mesh().shape)


def _by_size(shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[Axes, ...]:
    """The axes of a leaf that no rule names."""
    last = shape[-2:]
    if len(last) < 2:
        return (None,) * len(last)
    fitting = [_fitting(("fsdp", "tensor"), size, sizes) for size in last]
    chosen = max(range(2), key=lambda i: (_count(fitting[i], sizes), last[i]))
    return tuple(axes if i == chosen else None for i, axes in enumerate(fitting))


def _fitting(axes: Axes, size: int, sizes: dict[str, int]) -> Axes:
    """Of these axes the first ones that together divide `size`."""
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    fitting: tuple[str, ...] = ()
    for name in names:
        if size % _count((*fitting, name), sizes) == 0:
            fitting += (name,)
    return fitting or None


def _count(axes: Axes, sizes: dict[str, int]) -> int:
    """Devices along these axes together."""
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    return math.prod(sizes[name] for name in names)

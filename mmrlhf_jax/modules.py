"""Flax NNX modules as pure functions: the structure is static, the parameters are a plain pytree."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar, cast

import jax
import numpy as np
from flax import nnx

Params = Any  # nested dict of arrays, as nnx.to_pure_dict gives it
ModuleT = TypeVar("ModuleT", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Definition(Generic[ModuleT]):
    """A module without its parameters: hashable, so it may be closed over or static under jit.

    >>> clip = define(lambda rngs: CLIP(config, rngs=rngs))
    >>> params = clip.init(jax.random.key(0))
    >>> embedding_BxD = clip.bind(params).encode_image(pixels_BxHxWxC)
    """

    build: Callable[[nnx.Rngs], ModuleT]
    graphdef: Any
    shapes: Params = dataclasses.field(repr=False, compare=False)

    def init(self, key: jax.Array, *, without: Collection[str] = ()) -> Params:
        """Freshly drawn parameters, made by one compiled function.

        Args:
          without: top-level parts to leave out, because their parameters come from elsewhere.
        """

        def draw(key: jax.Array) -> Params:
            params = params_of(self.build(nnx.Rngs(key)))
            return {name: part for name, part in params.items() if name not in without}

        return jax.jit(draw)(key)

    def abstract(self) -> Params:
        """The parameters' shapes and dtypes, without memory."""
        return jax.tree.map(lambda leaf: leaf, self.shapes)  # containers of the caller's own

    def bind(self, params: Params) -> ModuleT:
        """The module with these parameters; call it inside jit, where it costs nothing."""
        return nnx.merge(self.graphdef, params)


def define(build: Callable[[nnx.Rngs], ModuleT]) -> Definition[ModuleT]:
    """The definition of the module that `build(rngs)` makes."""
    module = nnx.eval_shape(lambda: build(cast(nnx.Rngs, _OneKey())))
    graphdef, _ = nnx.split(module, nnx.Param)
    return Definition(build, graphdef, params_of(module))


class _OneKey:
    """Stands for nnx.Rngs where shapes alone matter: to trace its counters takes longer than all the rest."""

    def __getattr__(self, name: str) -> Callable[[], jax.Array]:
        return lambda: jax.random.key(0)


def count_params(params: Params) -> int:
    """Number of scalars in a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def equal_params(one: Params, other: Params) -> bool:
    """Whether two pytrees of arrays have the same structure and the same values, bit for bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=False)
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    return structures[0] == structures[1] and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs
    )


def params_of(module: nnx.Module) -> Params:
    """The parameters of a module, which share its arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))

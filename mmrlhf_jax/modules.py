"""Flax NNX modules as pure functions: the structure is static, the parameters are a plain pytree."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
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

    def init(self, key: jax.Array) -> Params:
        """Freshly drawn parameters, made by one compiled function."""
        return jax.jit(lambda key: params_of(self.build(nnx.Rngs(key))))(key)

    def abstract(self) -> Params:
        """The parameters' shapes and dtypes, without memory."""
        return params_of(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))

    def bind(self, params: Params) -> ModuleT:
        """The module with these parameters; call it inside jit, where it costs nothing."""
        return nnx.merge(self.graphdef, params)


def define(build: Callable[[nnx.Rngs], ModuleT]) -> Definition[ModuleT]:
    """The definition of the module that `build(rngs)` makes."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)
    return Definition(build, graphdef)


def count_params(params: Params) -> int:
    """Number of scalars in a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def params_of(module: nnx.Module) -> Params:
    """The parameters of a module, which share its arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))

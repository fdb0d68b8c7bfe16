"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) of any linear layers: y = x W + scale (x A) B.

The network's own parameters stay as they are; the adapters are a pytree of their own, which alone is trained:

    adapters = lora_init(params, key, [r".*\\.(query|value)"], rank=8)
    loss = lambda adapters: loss_of(lora_apply(definition.bind(params), adapters, scale))
    gradients = jax.grad(loss)(adapters)
    params = lora_merge(params, adapters, scale)
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.modules import ModuleT, Params
from mmrlhf_jax.types import Adapter, Adapters


class AdaptedLinear(nnx.Module):
    """A linear layer and its adapter, in the place of the layer."""

    def __init__(self, base: nnx.Linear, adapter: Adapter, scale: jax.Array | float):
        self.base = base
        self.a = nnx.LoRAParam(adapter.a_IxR)
        self.b = nnx.LoRAParam(adapter.b_RxO)
        self.scale = nnx.Variable(jnp.asarray(scale, jnp.float32))  # not a static part: it may be traced

    def __call__(self, x_NxI: jax.Array) -> jax.Array:
        """The layer's output plus scale (x A) B, computed in float32."""
        y_NxO = self.base(x_NxI)
        low_NxR = jnp.matmul(x_NxI.astype(jnp.float32), self.a[...])
        return y_NxO + (self.scale[...] * jnp.matmul(low_NxR, self.b[...])).astype(y_NxO.dtype)


def lora_init(params: Params, key: jax.Array, rules: Sequence[str], rank: int) -> Adapters:
    """Adapters for the linear layers whose whole dotted name fits one of `rules`, e.g. "blocks.0.query".

    A is uniform within 1 / sqrt(inputs), as in PEFT; B is 0, so that nothing changes at first. Kernels of
    several layers stacked on leading axes get adapters stacked in the same way.

    Args:
      params: a network's parameters, or their shapes.
      rules: regular expressions.
      rank: of A and B.

    Raises:
      UserError: `rank` is no positive number, or a rule fits no linear layer.
    """
    if rank < 1:
        raise UserError(f"rank is {rank}: give a whole number, 1 or above")
    kernels = {
        name.removesuffix(".kernel"): leaf
        for name, leaf in parameter_names(params).items()
        if name.endswith(".kernel")
    }
    for rule in rules:
        if not any(re.fullmatch(rule, name) for name in kernels):
            raise UserError(f"the rule {rule!r} fits none of the linear layers, e.g. {next(iter(kernels))!r}")
    chosen = [name for name in kernels if any(re.fullmatch(rule, name) for rule in rules)]

    def adapter(name: str, key: jax.Array) -> Adapter:
        *stack, inputs, outputs = kernels[name].shape
        bound = inputs**-0.5
        a_IxR = jax.random.uniform(key, (*stack, inputs, rank), jnp.float32, -bound, bound)
        return Adapter(a_IxR, jnp.zeros((*stack, rank, outputs), jnp.float32))

    return {
        name: adapter(name, k) for name, k in zip(chosen, jax.random.split(key, len(chosen)), strict=True)
    }


def lora_apply(module: ModuleT, adapters: Adapters, scale: jax.Array | float) -> ModuleT:
    """A copy of `module`, sharing its arrays, whose layers named in `adapters` are adapted."""
    copy = nnx.merge(*nnx.split(module))
    for name, adapter in adapters.items():
        *parents, last = name.split(".")
        parent: Any = copy
        for part in parents:
            parent = _child(parent, part)
        adapted = AdaptedLinear(_child(parent, last), adapter, scale)
        if last.isdigit():
            parent[int(last)] = adapted
        else:
            setattr(parent, last, adapted)
    return copy


def lora_merge(params: Params, adapters: Adapters, scale: jax.Array | float) -> Params:
    """Parameters that compute what the adapted network does: each kernel plus scale A B, in its own dtype."""
    leaves = parameter_names(params)
    for name, adapter in adapters.items():
        kernel = leaves[f"{name}.kernel"]
        change = scale * jnp.matmul(adapter.a_IxR, adapter.b_RxO)
        leaves[f"{name}.kernel"] = (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())


def _child(parent: Any, name: str) -> Any:
    return parent[int(name)] if name.isdigit() else getattr(parent, name)

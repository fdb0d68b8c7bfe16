"""Fusion by concatenation."""

from collections.abc import Mapping

import jax
from flax import nnx

from mmrlhf_jax.fusion.base import Fused, Fusion, Masks


class ConcatFusion(Fusion):
    """vector = W2 gelu(W1 [x_1; ...; x_M] + b1) + b2.

    The plainest fusion, with a hidden layer so that modalities can interact. It gives no weights.

    Parameters: E + (M + 1) * D**2 + 2 * D
    FLOPs: F + 2 * (M + 1) * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.hidden = nnx.Linear(len(widths) * width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        hidden_BxD = jax.nn.gelu(self.hidden(pooled_BxMxD.reshape(pooled_BxMxD.shape[0], -1)))
        return Fused(self.out(hidden_BxD), None)


class ConcatLinearFusion(Fusion):
    """vector = W [x_1; ...; x_M] + b.

    Under a linear head what one modality says cannot change what another one means: the control that a task
    of true interaction must defeat. It gives no weights.

    Parameters: E + M * D**2 + D
    FLOPs: F + 2 * M * D**2
    """

    linear_readout = True

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.out = nnx.Linear(len(widths) * width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        return Fused(self.out(pooled_BxMxD.reshape(pooled_BxMxD.shape[0], -1)), None)

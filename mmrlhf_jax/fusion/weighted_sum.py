"""Fusion by a weighted sum whose weights depend on the input."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.fusion.base import Fused, Fusion, Masks


class WeightedSumFusion(Fusion):
    """w = softmax_m(g([x_1; ...; x_M])), vector = W2 gelu(W1 sum_m w_m x_m + b1) + b2.

    Missing modalities get weight 0. The layer after the sum lets modalities interact. Beside the M entrance
    projections it has M^2 D + M + 2 D^2 + 2 D parameters, and twice as many FLOPs a row.
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.gate = nnx.Linear(len(widths) * width, len(widths), rngs=rngs)
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        scores_BxM = self.gate(pooled_BxMxD.reshape(pooled_BxMxD.shape[0], -1))
        scores_BxM = jnp.where(self._present(features, masks), scores_BxM, -1e30)
        weights_BxM = jax.nn.softmax(scores_BxM, axis=-1)
        mixed_BxD = jnp.sum(weights_BxM[..., None] * pooled_BxMxD, axis=1)
        return Fused(self.out(jax.nn.gelu(self.hidden(mixed_BxD))), weights_BxM)

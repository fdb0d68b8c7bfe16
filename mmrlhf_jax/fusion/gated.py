"""Fusion by gates: the gated multimodal unit."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.masked import masked_softmax


class GatedFusion(Fusion):
    """h_m = tanh(x_m),  z = softmax_m(W [x_1; ...; x_M] + b) in each dimension,  vector = sum_m z_m * h_m.

    The gated multimodal unit of Arevalo et al. 2017 (arXiv:1702.01992). For two modalities the softmax is the
    paper's z and 1 - z; for more the paper takes sigmoids, which do not sum to one. A missing modality's gate
    is shut. The weight of a modality is the mean of its gate over the dimensions.

    Parameters: E + M**2 * D**2 + M * D
    FLOPs: F + 2 * M**2 * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.gate = nnx.Linear(len(widths) * width, len(widths) * width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        scores_BxMxD = self.gate(pooled_BxMxD.reshape(pooled_BxMxD.shape[0], -1)).reshape(pooled_BxMxD.shape)
        gates_BxMxD = masked_softmax(scores_BxMxD, self._present(features, masks)[..., None], axis=1)
        vector_BxD = jnp.sum(gates_BxMxD * jnp.tanh(pooled_BxMxD), axis=1)
        return Fused(vector_BxD, jnp.mean(gates_BxMxD, axis=2))

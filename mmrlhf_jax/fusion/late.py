"""Late fusion: every modality is judged by itself, and the judgements are averaged."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.masked import masked_softmax


class LateFusion(Fusion):
    """vector = mean over the modalities that are there of f_m(x_m), f_m(x) = W2_m gelu(W1_m x + b1_m) + b2_m.

    Under a linear head u the score is the mean of the modalities' own scores u . f_m: fusion of decisions,
    the sum rule of Kittler et al. 1998 ("On combining classifiers"). Nothing that only the
    modalities together tell can be learned. The weights are equal among those that are there.

    Parameters: E + 2 * M * (D**2 + D)
    FLOPs: F + 4 * M * D**2
    """

    linear_readout = True

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in widths])
        self.out = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in widths])

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        pooled_BxMxD = self._pooled(features, masks)
        judged_BxMxD = jnp.stack(
            [
                out(jax.nn.gelu(hidden(pooled_BxMxD[:, index])))
                for index, (hidden, out) in enumerate(zip(self.hidden, self.out, strict=True))
            ],
            axis=1,
        )
        equal_BxM = jnp.zeros(pooled_BxMxD.shape[:2], pooled_BxMxD.dtype)
        weights_BxM = masked_softmax(equal_BxM, self._present(features, masks))
        return Fused(jnp.sum(weights_BxM[..., None] * judged_BxMxD, axis=1), weights_BxM)

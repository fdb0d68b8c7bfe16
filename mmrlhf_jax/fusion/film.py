"""Fusion by feature-wise linear modulation."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.fusion.base import Fused, Fusion, Masks, token_mean


class FilmFusion(Fusion):
    """The other modalities scale and shift the features of the first one.

    [g; s] = G [x_2; ...; x_M] + c,  vector = W mean_t gelu((1 + g) * x_1t + s) + b

    FiLM, Perez et al. 2018 (arXiv:1709.07871), with the scale as a distance from 1, and gelu in place of
    relu. Name first what shall be looked at (the picture), then what asks (the text). A
    modality that stands alone modulates itself. It gives no weights.

    Parameters: E + 2 * D * (max(M - 1, 1) * D + 1) + D**2 + D
    FLOPs: F + 4 * max(M - 1, 1) * D**2 + 2 * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.modulate = nnx.Linear(max(len(widths) - 1, 1) * width, 2 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        entered = self._tokens(features, masks)
        (x_BxTxD, mask_BxT), others = entered[0], entered[1:] or entered
        condition = jnp.concatenate([token_mean(*other) for other in others], axis=1)
        scale_BxD, shift_BxD = jnp.split(self.modulate(condition), 2, axis=1)
        modulated_BxTxD = jax.nn.gelu((1 + scale_BxD[:, None]) * x_BxTxD + shift_BxD[:, None])
        return Fused(self.out(token_mean(modulated_BxTxD, mask_BxT)), None)

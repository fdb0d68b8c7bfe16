"""Fusion by cross-attention: every modality asks the others."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.fusion.attend import Attend
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks, token_mean


class CrossAttentionFusion(Fusion):
    """The text asks the picture and the picture the text; in general each modality all the others.

    y_m = x_m + Attend_m(x_m, [x_n for n != m]),  vector = W2 gelu(W1 [mean_t y_1; ...; mean_t y_M] + b1) + b2

    A modality that stands alone asks itself. Co-attention as in ViLBERT (Lu et al. 2019, arXiv:1908.02265),
    in the directional pairs of Tsai et al. 2019 (arXiv:1906.00295). It gives no weights.

    The FLOPs are for M > 1, with S the sum over modalities of T_m squared.

    Parameters: E + M * (4 * D**2 + 8 * D) + (M + 1) * D**2 + 2 * D
    FLOPs: F + 4 * M * T * D**2 + 4 * (T**2 - S) * D + 2 * (M + 1) * D**2
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        self.ask = nnx.List([Attend(width, rngs=rngs) for _ in widths])
        self.hidden = nnx.Linear(len(widths) * width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        entered = self._tokens(features, masks)
        means = []
        for index, (x_BxTxD, mask_BxT) in enumerate(entered):
            others = entered[:index] + entered[index + 1 :] or entered
            asked_BxNxD = jnp.concatenate([x for x, _ in others], axis=1)
            mask_BxN = jnp.concatenate([mask for _, mask in others], axis=1)
            gathered_BxTxD, _ = self.ask[index](x_BxTxD, asked_BxNxD, mask_BxN)
            means.append(token_mean(x_BxTxD + gathered_BxTxD, mask_BxT))
        return Fused(self.out(jax.nn.gelu(self.hidden(jnp.concatenate(means, axis=1)))), None)

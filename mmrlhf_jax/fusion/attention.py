"""Fusion by attention over the tokens of all modalities."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import TransformerConfig
from mmrlhf_jax.fusion.attend import end_to_end, head_count, modality_shares
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks
from mmrlhf_jax.masked import masked_softmax
from mmrlhf_jax.transformer import Block


class AttentionFusion(Fusion):
    """All tokens attend to each other once, then a learned query gathers them.

    x = Block([x_1 + e_1; ...; x_M + e_M]),  a = softmax_t(q . K x_t / sqrt(D)),  vector = sum_t a_t V x_t

    The weight of a modality is the attention that its tokens got together, or its null vector where it is
    missing. The block is Vaswani et al. 2017 (arXiv:1706.03762), the gathering query is attention pooling as
    in Lee et al. 2019 (arXiv:1810.00825).

    Parameters: E + M * D + 10 * D**2 + 16 * D
    FLOPs: F + 20 * T * D**2 + 4 * T**2 * D + 4 * T * D
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs):
        super().__init__(widths, width=width, rngs=rngs)
        normal = nnx.initializers.normal(width**-0.5)
        config = TransformerConfig(width=width, layers=1, heads=head_count(width), mlp_width=2 * width)
        self.kind = nnx.Param(normal(rngs.params(), (len(widths), width)))
        self.block = Block(config, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Param(normal(rngs.params(), (width,)))
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        entered = self._tokens(features, masks)
        x_BxNxD, mask_BxN = end_to_end(entered, self.kind[...])
        batch, count, width = x_BxNxD.shape
        x_NxD = self.norm(self.block(x_BxNxD.reshape(-1, width), batch, mask_BxN[:, None, None]))
        scores_BxN = (self.key(x_NxD) @ self.query[...]).reshape(batch, count) * width**-0.5
        attention_BxN = masked_softmax(scores_BxN, mask_BxN)
        values_BxNxD = self.value(x_NxD).reshape(batch, count, width)
        vector_BxD = jnp.sum(attention_BxN[..., None] * values_BxNxD, axis=1)
        return Fused(vector_BxD, modality_shares(attention_BxN, entered))

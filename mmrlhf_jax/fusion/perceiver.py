"""Fusion by a perceiver resampler: a fixed number of queries, whatever the number of tokens."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.config import positive_int
from mmrlhf_jax.fusion.attend import Attend, end_to_end, modality_shares
from mmrlhf_jax.fusion.base import Fused, Fusion, Masks


class Layer(nnx.Module):
    """The queries ask the tokens and themselves, and a feed-forward part follows."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.attend = Attend(width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(
        self, query_BxQxD: jax.Array, x_BxNxD: jax.Array, mask_BxN: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The queries, (B, Q, D), and their attention to the tokens, (B, N), scaled to sum to 1."""
        batch, queries, width = query_BxQxD.shape
        asked = jnp.concatenate([x_BxNxD, query_BxQxD], axis=1)
        mask = jnp.concatenate([mask_BxN, jnp.ones((batch, queries), bool)], axis=1)
        gathered_BxQxD, attention = self.attend(query_BxQxD, asked, mask)
        query_BxQxD = query_BxQxD + gathered_BxQxD
        fed = self.down(jax.nn.gelu(self.up(self.norm(query_BxQxD).reshape(-1, width))))
        seen_BxN = jnp.mean(attention[:, :, : x_BxNxD.shape[1]], axis=1)
        return query_BxQxD + fed.reshape(query_BxQxD.shape), seen_BxN / jnp.sum(
            seen_BxN, axis=1, keepdims=True
        )


class PerceiverFusion(Fusion):
    """Q learned queries gather the tokens of all modalities in L layers.

    x = [x_1 + e_1; ...; x_M + e_M],  q <- q + Attend(q, [x; q]),  q <- q + MLP(q),
    vector = W [q_1; ...; q_Q] + b

    The resampler of Flamingo (Alayrac et al. 2022, arXiv:2204.14198, figure 5), with a feed-forward part
    twice as wide as D. The work grows with the number of tokens T, not with its square. The weight of a
    modality is the attention that its tokens, or its null vector, got from the queries, a mean over layers.

    Parameters: E + M * D + Q * D + L * (8 * D**2 + 13 * D) + Q * D**2 + 3 * D
    FLOPs: F + L * (4 * (T + 4 * Q) * D**2 + 4 * Q * (T + Q) * D) + 2 * Q * D**2
    """

    def __init__(
        self, widths: Mapping[str, int], *, width: int, rngs: nnx.Rngs, queries: int = 4, layers: int = 2
    ):
        super().__init__(widths, width=width, rngs=rngs)
        positive_int("queries", queries, "4")
        positive_int("layers", layers, "2")
        normal = nnx.initializers.normal(width**-0.5)
        self.kind = nnx.Param(normal(rngs.params(), (len(widths), width)))
        self.queries = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (queries, width)))
        self.layers = nnx.List([Layer(width, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(queries * width, width, rngs=rngs)

    def __call__(self, features: Mapping[str, jax.Array], masks: Masks = Masks()) -> Fused:
        entered = self._tokens(features, masks)
        x_BxNxD, mask_BxN = end_to_end(entered, self.kind[...])
        batch = x_BxNxD.shape[0]
        query_BxQxD = jnp.broadcast_to(self.queries[...][None], (batch, *self.queries[...].shape))
        seen_BxN = jnp.zeros(mask_BxN.shape, x_BxNxD.dtype)
        for layer in self.layers:
            query_BxQxD, attention_BxN = layer(query_BxQxD, x_BxNxD, mask_BxN)
            seen_BxN += attention_BxN / len(self.layers)
        vector_BxD = self.out(self.norm(query_BxQxD).reshape(batch, -1))
        return Fused(vector_BxD, modality_shares(seen_BxN, entered))

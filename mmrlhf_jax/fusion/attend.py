"""Attention between tokens of several modalities: the parts that fusions are made of."""

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.masked import masked_softmax

Entered = list[tuple[jax.Array, jax.Array]]  # for each modality its tokens (B, T, D) and their mask (B, T)


class Attend(nnx.Module):
    """Pre-norm attention of some tokens to others: O softmax(Q K^T / sqrt(D / H)) V, with H heads.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1. It has 4 D^2 + 8 D parameters.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.heads = head_count(width)
        self.norm_query = nnx.LayerNorm(width, rngs=rngs)
        self.norm_key = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key_value = nnx.Linear(width, 2 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self, asking_BxQxD: jax.Array, asked_BxNxD: jax.Array, mask_BxN: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What each asking token gathers, (B, Q, D), and its attention, (B, Q, N), a mean over the heads."""
        batch, _, width = asking_BxQxD.shape
        size = width // self.heads
        query = self.query(self.norm_query(asking_BxQxD).reshape(-1, width))
        pair = self.key_value(self.norm_key(asked_BxNxD).reshape(-1, width))
        query_BxQxHxS = query.reshape(batch, -1, self.heads, size)
        pair_BxNx2xHxS = pair.reshape(batch, -1, 2, self.heads, size)
        scores_BxHxQxN = jnp.einsum("bqhs,bnhs->bhqn", query_BxQxHxS, pair_BxNx2xHxS[:, :, 0]) * size**-0.5
        attention_BxHxQxN = masked_softmax(scores_BxHxQxN, mask_BxN[:, None, None])
        gathered = jnp.einsum("bhqn,bnhs->bqhs", attention_BxHxQxN, pair_BxNx2xHxS[:, :, 1])
        out_BxQxD = self.out(gathered.reshape(-1, width)).reshape(asking_BxQxD.shape)
        return out_BxQxD, jnp.mean(attention_BxHxQxN, axis=1)


def head_count(width: int) -> int:
    """How many heads, of 32 each or somewhat more, divide `width`."""
    return next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)


def end_to_end(entered: Entered, kind_MxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All tokens in one row, (B, N, D), each with its modality's vector added, and their mask (B, N)."""
    marked = [x_BxTxD + kind_D[None, None] for (x_BxTxD, _), kind_D in zip(entered, kind_MxD, strict=True)]
    return jnp.concatenate(marked, axis=1), jnp.concatenate([mask for _, mask in entered], axis=1)


def modality_shares(attention_BxN: jax.Array, entered: Entered) -> jax.Array:
    """The attention that the tokens of each modality got together, (B, M)."""
    lengths = [x_BxTxD.shape[1] for x_BxTxD, _ in entered]
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths) - 1)]
    return jnp.stack([jnp.sum(part, axis=1) for part in jnp.split(attention_BxN, ends, axis=1)], axis=1)

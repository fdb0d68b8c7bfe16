"""A causal decoder of the Llama family (Touvron et al. 2023, arXiv:2302.13971).

RMSNorm, rotary positions, grouped-query attention, SwiGLU; by configuration also what Llama 3, Mistral and
Qwen2 changed. One forward for whole sequences, and prefill + decode_step over a cache for sampling; both give
the same numbers. Parameters may be of any floating-point type: vectors have the embeddings' type, while
norms, rotations, attention weights and logits are computed in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.language.rope import Rotation, rotate, rotation
from mmrlhf_jax.mesh_axes import ROWS
from mmrlhf_jax.sharding import cut


class LayerCache(NamedTuple):
    """Keys and values of one layer, (B, kv heads, S, head width); apart, so that a step writes in place."""

    keys_BxKxSxE: jax.Array
    values_BxKxSxE: jax.Array


class Cache(NamedTuple):
    """What decode_step needs to know of the tokens before.

    Attributes:
      layers: one LayerCache each.
      valid_BxS: True where a slot holds a real token.
      positions_B: position of the next token in each row.
    """

    layers: tuple[LayerCache, ...]
    valid_BxS: jax.Array
    positions_B: jax.Array


def positions_of(mask_BxT: jax.Array) -> jax.Array:
    """Position of each real token, counted from the first real token of its row (padding gets 0)."""
    return jnp.maximum(jnp.cumsum(mask_BxT, axis=1) - 1, 0)


class RMSNorm(nnx.Module):
    """x / sqrt(mean x^2 + eps) times a learned scale (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        """In float32, returned in x's dtype."""
        wide_NxD = x_NxD.astype(jnp.float32)
        mean_Nx1 = jnp.mean(jnp.square(wide_NxD), axis=-1, keepdims=True)
        scaled_NxD = self.scale[...].astype(jnp.float32)[None] * (
            wide_NxD * jax.lax.rsqrt(mean_Nx1 + self.eps)
        )
        return scaled_NxD.astype(x_NxD.dtype)


class DecoderBlock(nnx.Module):
    """Attention and gated feed-forward, each on a normed input and added to it."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        def linear(fan_in: int, fan_out: int, bias: bool = False) -> nnx.Linear:
            init = nnx.initializers.normal(fan_in**-0.5)
            return nnx.Linear(fan_in, fan_out, use_bias=bias, rngs=rngs, kernel_init=init)

        self.config = config
        width, query_width = config.width, config.heads * config.head_width
        kv_width = config.kv_heads * config.head_width
        self.norm1 = RMSNorm(width, config.norm_eps)
        self.query = linear(width, query_width, config.qkv_bias)
        self.key = linear(width, kv_width, config.qkv_bias)
        self.value = linear(width, kv_width, config.qkv_bias)
        self.out = linear(query_width, width)
        self.norm2 = RMSNorm(width, config.norm_eps)
        self.gate = linear(width, config.mlp_width)
        self.up = linear(width, config.mlp_width)
        self.down = linear(config.mlp_width, width)

    def __call__(
        self, x_NxD: jax.Array, turn: Rotation, mask_Bx1xTxT: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The tokens after this block, and its keys and values (B, T, K, E).

        Args:
          x_NxD: N = batch x time tokens: two-dimensional products run fastest, on a CPU above all.
          turn: of the tokens' positions.
          mask_Bx1xTxT: True where token t may look at token s.
        """
        query, key, value = self.heads(x_NxD, turn)
        attended = jax.nn.dot_product_attention(
            query, key, value, mask=mask_Bx1xTxT, implementation=self.config.attention
        )
        return self.finish(x_NxD, attended.reshape(x_NxD.shape[0], -1)), key, value

    def heads(self, x_NxD: jax.Array, turn: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, T, H, E), keys and values (B, T, K, E); queries and keys rotated."""
        shape = (*turn.cos.shape[:2], -1, self.config.head_width)
        normed_NxD = self.norm1(x_NxD)
        return (
            rotate(self.query(normed_NxD).reshape(shape), turn),
            rotate(self.key(normed_NxD).reshape(shape), turn),
            self.value(normed_NxD).reshape(shape),
        )

    def finish(self, x_NxD: jax.Array, attended_NxD: jax.Array) -> jax.Array:
        """Everything after the attention's weighted sum."""
        x_NxD = x_NxD + self.out(attended_NxD)
        normed_NxD = self.norm2(x_NxD)
        return x_NxD + self.down(jax.nn.silu(self.gate(normed_NxD)) * self.up(normed_NxD))


class Decoder(nnx.Module):
    """Token vectors in, hidden vectors out; `embed` and `logits` lead in and out of the vocabulary."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.width,
            embedding_init=nnx.initializers.normal(config.width**-0.5),
            rngs=rngs,
        )
        self.blocks = nnx.List([DecoderBlock(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.head = nnx.Linear(
                config.width,
                config.vocab_size,
                use_bias=False,
                kernel_init=nnx.initializers.normal(config.width**-0.5),
                preferred_element_type=jnp.float32,
                rngs=rngs,
            )

    def embed(self, ids_BxT: jax.Array) -> jax.Array:
        """Token vectors (B, T, D), in the embeddings' type; nnx.Embed would give that of its first days."""
        return jnp.take(self.embedding.embedding[...], ids_BxT, axis=0)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits (..., V) in float32 of hidden vectors (..., D), with the embeddings as weights if tied."""
        flat_NxD = hidden.reshape(-1, hidden.shape[-1])
        if self.config.tied:
            kernel_DxV = self.embedding.embedding[...].T
            flat_NxV = jnp.matmul(flat_NxD, kernel_DxV, preferred_element_type=jnp.float32)
        else:
            flat_NxV = self.head(flat_NxD)
        return flat_NxV.reshape(*hidden.shape[:-1], -1)

    def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Hidden vectors (B, T, D) after the last norm.

        Args:
          x_BxTxD: token vectors, padded on either side.
          mask_BxT: True on real tokens; positions are counted over these alone, so padding changes nothing.

        Raises:
          UserError: T is more than the decoder was trained for.
        """
        return self._forward(x_BxTxD, mask_BxT, length=x_BxTxD.shape[1])[0]

    def prefill(self, x_BxTxD: jax.Array, mask_BxT: jax.Array, *, capacity: int) -> tuple[jax.Array, Cache]:
        """Like __call__, and a cache with room for `capacity` more tokens, which count for the limit too."""
        length = x_BxTxD.shape[1] + capacity
        hidden_BxTxD, heads = self._forward(x_BxTxD, mask_BxT, length=length)

        def slots(x_BxTxKxE: jax.Array) -> jax.Array:
            wide_BxKxSxE = jnp.pad(x_BxTxKxE.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, capacity), (0, 0)))
            return cut(wide_BxKxSxE, ROWS, "tensor")

        layers = tuple(LayerCache(slots(keys), slots(values)) for keys, values in heads)
        valid_BxS = jnp.pad(mask_BxT, ((0, 0), (0, capacity)))
        return hidden_BxTxD, Cache(layers, valid_BxS, jnp.sum(mask_BxT, axis=1))

    def decode_step(self, x_BxD: jax.Array, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Hidden vectors (B, D) of one more token a row, which goes to `slot` of the cache."""
        batch, groups = x_BxD.shape[0], self.config.heads // self.config.kv_heads
        valid_BxS = jax.lax.dynamic_update_slice(cache.valid_BxS, jnp.ones((batch, 1), bool), (0, slot))
        turn = rotation(cache.positions_B[:, None], self.config)
        layers = []
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            query, key, value = block.heads(x_BxD, turn)
            keys = jax.lax.dynamic_update_slice(
                layer.keys_BxKxSxE, key.transpose(0, 2, 1, 3), (0, 0, slot, 0)
            )
            values = jax.lax.dynamic_update_slice(
                layer.values_BxKxSxE, value.transpose(0, 2, 1, 3), (0, 0, slot, 0)
            )
            query = query.reshape(batch, self.config.kv_heads, groups, self.config.head_width)
            scores = jnp.einsum("bkge,bkse->bkgs", query, keys, preferred_element_type=jnp.float32)
            scores = jnp.where(valid_BxS[:, None, None], scores * self.config.head_width**-0.5, -1e30)
            weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
            attended_BxD = jnp.einsum("bkgs,bkse->bkge", weights, values).reshape(batch, -1)
            x_BxD = block.finish(x_BxD, attended_BxD)
            layers.append(LayerCache(keys, values))
        return self.norm(x_BxD), Cache(tuple(layers), valid_BxS, cache.positions_B + 1)

    def _forward(
        self, x_BxTxD: jax.Array, mask_BxT: jax.Array, *, length: int
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        limit = self.config.length_limit
        if limit is not None and length > limit:
            raise UserError(
                f"a sequence of {length} tokens is too long: this decoder reads {limit} as it was trained to"
            )
        batch, time, width = x_BxTxD.shape
        turn = rotation(positions_of(mask_BxT), self.config)
        causal_TxT = jnp.tril(jnp.ones((time, time), bool))
        # A padded query sees itself, so that its softmax is finite and no NaN reaches a gradient.
        visible_BxTxT = causal_TxT[None] & (mask_BxT[:, None, :] | jnp.eye(time, dtype=bool)[None])
        run = nnx.remat(DecoderBlock.__call__) if self.config.remat else DecoderBlock.__call__
        x_NxD = x_BxTxD.reshape(-1, width)
        heads = []
        for block in self.blocks:
            x_NxD, key, value = run(block, x_NxD, turn, visible_BxTxT[:, None])
            heads.append((key, value))
        return self.norm(x_NxD).reshape(batch, time, width), heads

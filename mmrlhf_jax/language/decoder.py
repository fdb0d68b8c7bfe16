"""A causal decoder of the Llama family (Touvron et al. 2023, arXiv:2302.13971).

RMSNorm, rotary positions, grouped-query attention, SwiGLU, embeddings tied to the output. One forward for
whole sequences, and prefill + decode_step over a cache for sampling; both give the same numbers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrlhf_jax.architecture import DecoderConfig


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


def rotate(x_BxTxHxE: jax.Array, positions_BxT: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), halves rotated as in Hugging Face's Llama."""
    half = x_BxTxHxE.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = (positions_BxT[..., None].astype(jnp.float32) * frequency[None, None])[:, :, None]
    first, second = x_BxTxHxE[..., :half], x_BxTxHxE[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class DecoderBlock(nnx.Module):
    """Attention and gated feed-forward, each on a normed input and added to it."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, use_bias=False, rngs=rngs, kernel_init=nnx.initializers.normal(config.width**-0.5)
        )
        norm = functools.partial(nnx.RMSNorm, config.width, epsilon=config.norm_eps, rngs=rngs)
        self.config = config
        kv_width = config.kv_heads * config.head_width
        self.norm1 = norm()
        self.query = linear(config.width, config.width)
        self.key = linear(config.width, kv_width)
        self.value = linear(config.width, kv_width)
        self.out = linear(config.width, config.width)
        self.norm2 = norm()
        self.gate = linear(config.width, config.mlp_width)
        self.up = linear(config.width, config.mlp_width)
        self.down = nnx.Linear(
            config.mlp_width,
            config.width,
            use_bias=False,
            kernel_init=nnx.initializers.normal(config.mlp_width**-0.5),
            rngs=rngs,
        )

    def heads(self, x_NxD: jax.Array, positions_BxT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, T, H, E), keys and values (B, T, K, E); queries and keys rotated."""
        shape = (*positions_BxT.shape, -1, self.config.head_width)
        normed_NxD = self.norm1(x_NxD)
        turn = functools.partial(rotate, positions_BxT=positions_BxT, theta=self.config.rope_theta)
        return (
            turn(self.query(normed_NxD).reshape(shape)),
            turn(self.key(normed_NxD).reshape(shape)),
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
        self.norm = nnx.RMSNorm(config.width, epsilon=config.norm_eps, rngs=rngs)

    def embed(self, ids_BxT: jax.Array) -> jax.Array:
        """Token vectors (B, T, D)."""
        return self.embedding(ids_BxT)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits (..., V) of hidden vectors (..., D), with the embeddings as output weights."""
        flat_NxV = hidden.reshape(-1, hidden.shape[-1]) @ self.embedding.embedding[...].T
        return flat_NxV.reshape(*hidden.shape[:-1], -1)

    def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Hidden vectors (B, T, D) after the last norm.

        Args:
          x_BxTxD: token vectors, padded on either side.
          mask_BxT: True on real tokens; positions are counted over these alone, so padding changes nothing.
        """
        return self._forward(x_BxTxD, mask_BxT)[0]

    def prefill(self, x_BxTxD: jax.Array, mask_BxT: jax.Array, *, capacity: int) -> tuple[jax.Array, Cache]:
        """Like __call__, and a cache with room for `capacity` more tokens."""
        hidden_BxTxD, heads = self._forward(x_BxTxD, mask_BxT)

        def slots(x_BxTxKxE: jax.Array) -> jax.Array:
            return jnp.pad(x_BxTxKxE.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, capacity), (0, 0)))

        layers = tuple(LayerCache(slots(keys), slots(values)) for keys, values in heads)
        valid_BxS = jnp.pad(mask_BxT, ((0, 0), (0, capacity)))
        return hidden_BxTxD, Cache(layers, valid_BxS, jnp.sum(mask_BxT, axis=1))

    def decode_step(self, x_BxD: jax.Array, cache: Cache, slot: jax.Array) -> tuple[jax.Array, Cache]:
        """Hidden vectors (B, D) of one more token a row, which goes to `slot` of the cache."""
        batch, groups = x_BxD.shape[0], self.config.heads // self.config.kv_heads
        valid_BxS = jax.lax.dynamic_update_slice(cache.valid_BxS, jnp.ones((batch, 1), bool), (0, slot))
        layers = []
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            query, key, value = block.heads(x_BxD, cache.positions_B[:, None])
            keys = jax.lax.dynamic_update_slice(
                layer.keys_BxKxSxE, key.transpose(0, 2, 1, 3), (0, 0, slot, 0)
            )
            values = jax.lax.dynamic_update_slice(
                layer.values_BxKxSxE, value.transpose(0, 2, 1, 3), (0, 0, slot, 0)
            )
            query = query.reshape(batch, self.config.kv_heads, groups, self.config.head_width)
            scores = jnp.einsum("bkge,bkse->bkgs", query, keys) * self.config.head_width**-0.5
            weights = jax.nn.softmax(jnp.where(valid_BxS[:, None, None], scores, -1e30), axis=-1)
            attended_BxD = jnp.einsum("bkgs,bkse->bkge", weights, values).reshape(batch, -1)
            x_BxD = block.finish(x_BxD, attended_BxD)
            layers.append(LayerCache(keys, values))
        return self.norm(x_BxD), Cache(tuple(layers), valid_BxS, cache.positions_B + 1)

    def _forward(
        self, x_BxTxD: jax.Array, mask_BxT: jax.Array
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        batch, length, width = x_BxTxD.shape
        positions_BxT = positions_of(mask_BxT)
        causal_TxT = jnp.tril(jnp.ones((length, length), bool))
        # A padded query sees itself, so that its softmax is finite and no NaN reaches a gradient.
        visible_BxTxT = causal_TxT[None] & (mask_BxT[:, None, :] | jnp.eye(length, dtype=bool)[None])
        x_NxD = x_BxTxD.reshape(-1, width)
        heads = []
        for block in self.blocks:
            query, key, value = block.heads(x_NxD, positions_BxT)
            attended = jax.nn.dot_product_attention(query, key, value, mask=visible_BxTxT[:, None])
            x_NxD = block.finish(x_NxD, attended.reshape(-1, width))
            heads.append((key, value))
        return self.norm(x_NxD).reshape(batch, length, width), heads

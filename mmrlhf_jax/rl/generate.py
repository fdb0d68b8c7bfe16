"""Sampling completions from any model that can prefill and decode."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import up_to_end
from mmrlhf_jax.types import Completions

Cache = TypeVar("Cache")


def generate(
    prefill: Callable[[], tuple[jax.Array, Cache]],
    decode_step: Callable[[jax.Array, Cache, jax.Array], tuple[jax.Array, Cache]],
    key: jax.Array,
    *,
    length: int,
    end_id: int,
    pad_id: int,
    forbidden_V: jax.Array,
    temperature: jax.Array | float = 1.0,
) -> Completions:
    """Samples up to `length` tokens a row; after the end token a row is padding.

    Args:
      prefill: gives the logits (B, V) of the first token and a cache.
      decode_step: (ids_B, cache, t) → logits (B, V) of the next token; t counts completion tokens from 0.
      forbidden_V: True for tokens that are never sampled (padding, begin token, picture tokens).
      temperature: divides the logits; 0 takes the likeliest token. Log-probs of the same completions must be
        taken at the same temperature (`masked_logits`).

    The Gumbel-max trick samples from softmax(logits / temperature); its noise for all steps is drawn before
    the loop, which keeps the random generator out of it.
    """
    logits_BxV, cache = prefill()
    noise_TxBxV = jax.random.gumbel(key, (length, *logits_BxV.shape), logits_BxV.dtype)

    def choose(logits_BxV: jax.Array, noise_BxV: jax.Array) -> jax.Array:
        allowed_BxV = jnp.where(forbidden_V[None], -jnp.inf, logits_BxV)
        return jnp.argmax(allowed_BxV + temperature * noise_BxV, axis=-1).astype(jnp.int32)

    def step(carry, inputs):
        ids_B, cache = carry
        slot, noise_BxV = inputs
        logits_BxV, cache = decode_step(ids_B, cache, slot)
        ids_B = choose(logits_BxV, noise_BxV)
        return (ids_B, cache), ids_B

    first_B = choose(logits_BxV, noise_TxBxV[0])
    _, rest_TxB = jax.lax.scan(step, (first_B, cache), (jnp.arange(length - 1), noise_TxBxV[1:]))
    ids_BxT = jnp.concatenate([first_B[None], rest_TxB], axis=0).T
    mask_BxT = up_to_end(ids_BxT, end_id)
    return Completions(jnp.where(mask_BxT, ids_BxT, pad_id), mask_BxT)


def masked_logits(
    logits_BxTxV: jax.Array, forbidden_V: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """The logits that `generate` samples from: divided by the temperature, forbidden tokens at -1e30."""
    return jnp.where(forbidden_V[None, None], -1e30, logits_BxTxV / temperature)

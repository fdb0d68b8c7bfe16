"""Sampling completions from any model that can prefill and decode."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import up_to_end
from mmrlhf_jax.types import Completions

Cache = TypeVar("Cache")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is sampled at all; sizes, hence static under jit.

    Attributes:
      min_length: tokens before the end token at least.
      top_k: only so many likeliest tokens (Fan et al. 2018, arXiv:1805.04833); 0: all.
      top_p: only the smallest set of likeliest tokens that has at least this probability (nucleus sampling,
        Holtzman et al. 2020, arXiv:1904.09751, eq. 2), among what `top_k` left; 1: all.
    """

    min_length: int = 0
    top_k: int = 0
    top_p: float = 1.0


NO_LIMITS = Limits()


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
    limits: Limits = NO_LIMITS,
) -> Completions:
    """Samples up to `length` tokens a row; after the end token a row is padding.

    Args:
      prefill: gives the logits (B, V) of the first token and a cache.
      decode_step: (ids_B, cache, t) → logits (B, V) of the next token; t counts completion tokens from 0.
      forbidden_V: True for tokens that are never sampled (padding, begin token, picture tokens).
      temperature: divides the logits; 0 takes the likeliest token. Log-probs of the same completions must be
        taken at the same temperature (`masked_logits`) and within the same limits (`never_sampled`).

    The Gumbel-max trick samples from softmax(logits / temperature); its noise for all steps is drawn before
    the loop, which keeps the random generator out of it. The loop ends once every row has ended.
    """
    logits_BxV, cache = prefill()
    noise_TxBxV = jax.random.gumbel(key, (length, *logits_BxV.shape), logits_BxV.dtype)

    def choose(logits_BxV: jax.Array, t: jax.Array) -> jax.Array:
        never_BxV = jnp.broadcast_to(forbidden_V, logits_BxV.shape)
        if limits != NO_LIMITS:
            never_BxV = never_sampled(
                logits_BxV[:, None], forbidden_V, temperature, limits, end_id=end_id, first_slot=t
            )[:, 0]
        allowed_BxV = jnp.where(never_BxV, -jnp.inf, logits_BxV)
        return jnp.argmax(allowed_BxV + temperature * noise_TxBxV[t], axis=-1).astype(jnp.int32)

    def unfinished(carry):
        t, _, ended_B, _ = carry
        return (t < length) & ~jnp.all(ended_B)

    def step(carry):
        t, ids_TxB, ended_B, cache = carry
        logits_BxV, cache = decode_step(ids_TxB[t - 1], cache, t - 1)
        ids_B = choose(logits_BxV, t)
        return t + 1, ids_TxB.at[t].set(ids_B), ended_B | (ids_B == end_id), cache

    zero = jnp.zeros((), jnp.int32)
    first_B = choose(logits_BxV, zero)
    ids_TxB = jnp.full((length, *first_B.shape), pad_id, jnp.int32).at[0].set(first_B)
    _, ids_TxB, _, _ = jax.lax.while_loop(unfinished, step, (zero + 1, ids_TxB, first_B == end_id, cache))
    ids_BxT = ids_TxB.T
    mask_BxT = up_to_end(ids_BxT, end_id)
    return Completions(jnp.where(mask_BxT, ids_BxT, pad_id), mask_BxT)


def masked_logits(logits_BxTxV: jax.Array, forbidden: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """The logits that `generate` samples from: divided by the temperature, forbidden tokens at -1e30.

    Args:
      forbidden: (V,), or (B, T, V) as `never_sampled` gives it.
    """
    return jnp.where(jnp.broadcast_to(forbidden, logits_BxTxV.shape), -1e30, logits_BxTxV / temperature)


def never_sampled(
    logits_BxTxV: jax.Array,
    forbidden_V: jax.Array,
    temperature: jax.Array | float,
    limits: Limits,
    *,
    end_id: int,
    first_slot: jax.Array | int = 0,
) -> jax.Array:
    """True for what `generate` cannot sample at each place, (B, T, V), given the sampling policy's logits.

    An update keeps these sets as they were when the completion was sampled: were they drawn anew from the
    policy as it changes, sampled tokens could fall out of them.

    Args:
      first_slot: number of the first of the T places in the completion.
    """
    slot_T = first_slot + jnp.arange(logits_BxTxV.shape[1])
    is_end_V = jnp.arange(logits_BxTxV.shape[-1]) == end_id
    early_TxV = (slot_T < limits.min_length)[:, None] & is_end_V[None]
    never_BxTxV = jnp.broadcast_to(forbidden_V[None] | early_TxV, logits_BxTxV.shape)
    scaled_BxTxV = logits_BxTxV / jnp.maximum(temperature, 1e-6)
    return never_BxTxV | _truncated(jnp.where(never_BxTxV, -jnp.inf, scaled_BxTxV), limits)


def _truncated(logits_BxTxV: jax.Array, limits: Limits) -> jax.Array:
    """True outside of the `top_k` likeliest tokens and the nucleus; tokens as likely as the last one stay."""
    descending_BxTxV = -jnp.sort(-logits_BxTxV, axis=-1)
    count_BxTx1 = jnp.full((*logits_BxTxV.shape[:-1], 1), logits_BxTxV.shape[-1])
    if 0 < limits.top_k < logits_BxTxV.shape[-1]:
        count_BxTx1 = jnp.full_like(count_BxTx1, limits.top_k)
        rank_V = jnp.arange(logits_BxTxV.shape[-1])
        descending_BxTxV = jnp.where(rank_V[None, None] < limits.top_k, descending_BxTxV, -jnp.inf)
    if limits.top_p < 1:
        chance_BxTxV = jax.nn.softmax(descending_BxTxV, axis=-1)
        before_BxTxV = jnp.cumsum(chance_BxTxV, axis=-1) - chance_BxTxV  # of all that is likelier
        inside_BxTx1 = jnp.sum(before_BxTxV < limits.top_p, axis=-1, keepdims=True)
        count_BxTx1 = jnp.minimum(count_BxTx1, jnp.maximum(inside_BxTx1, 1))
    return logits_BxTxV < jnp.take_along_axis(descending_BxTxV, count_BxTx1 - 1, axis=-1)

"""Rotary positions (Su et al. 2021, arXiv:2104.09864), and the ways to stretch them.

The frequencies depend on the architecture alone, so they are computed once, on the host and in float64.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine, (B, T, 1, E / 2) float32, of each position's angles, the same for all heads."""

    cos: jax.Array
    sin: jax.Array


def rotation(positions_BxT: jax.Array, config: DecoderConfig) -> Rotation:
    """The angles' cosine and sine at the given positions, times yarn's attention factor."""
    frequency_F = jnp.asarray(frequencies(config), jnp.float32)
    angle = (positions_BxT[..., None].astype(jnp.float32) * frequency_F[None, None])[:, :, None]
    factor = attention_factor(config.rope_scaling)
    return Rotation(jnp.cos(angle) * factor, jnp.sin(angle) * factor)


def rotate(x_BxTxHxE: jax.Array, turn: Rotation) -> jax.Array:
    """Turns each pair (i, i + E / 2), as Hugging Face's Llama does; in float32, returned in x's dtype."""
    first, second = jnp.split(x_BxTxHxE.astype(jnp.float32), 2, axis=-1)
    turned = [first * turn.cos - second * turn.sin, second * turn.cos + first * turn.sin]
    return jnp.concatenate(turned, axis=-1).astype(x_BxTxHxE.dtype)


def frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians a position of each of the head width / 2 pairs."""
    half, scaling = config.head_width // 2, config.rope_scaling
    plain_F = config.rope_theta ** (-np.arange(half) / half)
    match scaling.kind:
        case "linear":
            return plain_F / scaling.factor
        case "llama3":
            return _mix(plain_F, scaling.factor, _llama3_slowed(plain_F, scaling))
        case "yarn":
            return _mix(plain_F, scaling.factor, _yarn_slowed(half, config.rope_theta, scaling))
    return plain_F


def attention_factor(scaling: RopeScaling) -> float:
    """What cosine and sine are multiplied by; 1 for all but yarn (Peng et al. 2023, arXiv:2309.00071)."""
    if scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0


def _mix(plain_F: np.ndarray, factor: float, slowed_F: np.ndarray) -> np.ndarray:
    """`slowed_F` tells how much of each frequency is divided by `factor`, from 0 to 1."""
    return plain_F * (1 - slowed_F + slowed_F / factor)


def _llama3_slowed(plain_F: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    # Turns within the original length: up to low_freq_factor all is slowed, from high_freq_factor on nothing.
    turns_F = scaling.original_positions * plain_F / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((high - turns_F) / (high - low), 0, 1)


def _yarn_slowed(half: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """A ramp over the frequencies' numbers, from 0 at beta_fast turns to 1 at beta_slow turns."""

    def number(turns: float) -> float:
        """The frequency, as a number that need not be whole, that makes so many turns."""
        return half * math.log(scaling.original_positions / (2 * math.pi * turns)) / math.log(theta)

    start, end = number(scaling.beta_fast), number(scaling.beta_slow)
    if scaling.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, 2 * half - 1)
    return np.clip((np.arange(half) - start) / max(end - start, 1e-3), 0, 1)

"""The distance between the policy and its reference, estimated on samples, and kept in bounds."""

import jax
import jax.numpy as jnp


def kl_estimate(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """k1 = log p - log q, elementwise: an unbiased estimate of KL(p || q) under samples of p (Schulman)."""
    return logprobs - reference_logprobs


def adapt_kl_coef(
    kl_coef: jax.Array, kl: jax.Array, target: jax.Array | float, horizon: jax.Array | float, samples: int
) -> jax.Array:
    """One step of the proportional controller of Ziegler et al. 2019 (arXiv:1909.08593, section 2.2).

    e = clip(kl / target - 1, -0.2, 0.2),  beta <- beta (1 + e samples / horizon)

    Args:
      kl: measured KL in nats a completion.
      target: wanted KL in the same unit.
      horizon: samples over which a constant error of 1 multiplies beta by about e; infinite keeps beta fixed.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return kl_coef * (1.0 + error * samples / horizon)

"""The distance between the policy and its reference, estimated on samples, and kept in bounds."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.rl.algorithm import KLName


def kl_estimate(logprobs: jax.Array, reference_logprobs: jax.Array, kind: KLName = "k1") -> jax.Array:
    """KL(p || q) estimated from samples of p, elementwise (Schulman 2020, "Approximating KL divergence").

    With d = log p - log q of the token that was sampled:

      k1 = d                  unbiased, may be negative
      k2 = d^2 / 2            biased, never negative
      k3 = exp(-d) - 1 + d    unbiased, never negative

    As a loss, what counts is the gradient's mean: 0 for k1, that of KL(p || q) for k2, and that of the other
    direction, KL(q || p), for k3 (Tang, Munos 2025, arXiv:2506.09477).
    """
    difference = logprobs - reference_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * jnp.square(difference)
    return jnp.expm1(-difference) + difference


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


def exact_kl(logits_BxTxV: jax.Array, reference_BxTxV: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """KL(p || q) of the distributions of each token, (B, T) in nats, 0 where masked; never negative.

    Summed over a completion that p sampled it estimates the KL of the whole completion with less noise than
    `kl_estimate`, which sees of each distribution the sampled token alone.

    Args:
      logits_BxTxV: of p; what it never takes has a large negative logit, or an infinite one.
      reference_BxTxV: of q, with the same tokens left out.
    """
    p_BxTxV, q_BxTxV = (
        jax.nn.log_softmax(jnp.where(mask_BxT[..., None], logits, 0.0), axis=-1)
        for logits in (logits_BxTxV, reference_BxTxV)
    )
    chance_BxTxV = jnp.exp(p_BxTxV)
    each_BxTxV = jnp.where(chance_BxTxV > 0, chance_BxTxV * (p_BxTxV - q_BxTxV), 0.0)
    return jnp.where(mask_BxT, jnp.maximum(jnp.sum(each_BxTxV, axis=-1), 0.0), 0.0)

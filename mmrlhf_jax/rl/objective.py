"""What an update minimises, as a function of arrays: any algorithm, any policy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import masked_sum
from mmrlhf_jax.rl.algorithm import Algorithm
from mmrlhf_jax.rl.kl import kl_estimate
from mmrlhf_jax.rl.losses import (
    approx_kl,
    clipped_value_loss,
    mean_parts,
    policy_gradient_loss,
    ppo_clip_loss,
    sequence_logprobs,
)
from mmrlhf_jax.types import Metrics, Rollout


class Fresh(NamedTuple):
    """What the policy that is being updated says of a rollout's completions; gradients flow through it.

    Attributes:
      logprobs_BxT: of the tokens, 0 where masked.
      values_BxT: the critic's.
      entropy_BxT: of each token's distribution, in nats.
    """

    logprobs_BxT: jax.Array
    values_BxT: jax.Array
    entropy_BxT: jax.Array


class LossRates(NamedTuple):
    """Traced scalars."""

    clip: jax.Array
    dual_clip: jax.Array
    value_clip: jax.Array
    value_weight: jax.Array
    entropy_weight: jax.Array
    kl_coef: jax.Array


def loss_weight(algorithm: Algorithm, mask_BxT: jax.Array) -> jax.Array:
    """What the summed losses of a minibatch are divided by."""
    return mean_parts(jnp.zeros(mask_BxT.shape), mask_BxT, algorithm.mean)[1]


def objective(
    algorithm: Algorithm, fresh: Fresh, batch: Rollout, rates: LossRates, weight: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Policy loss + value_weight x value loss - entropy_weight x entropy (+ kl_coef x KL).

    Each is a mean over tokens, taken as the algorithm says; values count with a critic.

    Args:
      weight: `loss_weight` of the whole minibatch, of which `batch` may be a part: the parts' losses then add
        up to the minibatch's, and so do their gradients.
    """
    mask_BxT, advantages_BxT = batch.completions.mask_BxT, batch.advantages_BxT
    logprobs_BxT, old_BxT = fresh.logprobs_BxT, batch.logprobs_BxT
    if algorithm.loss == "plain":
        policy_BxT = policy_gradient_loss(logprobs_BxT, advantages_BxT)
        ratio_BxT = jnp.exp(logprobs_BxT - old_BxT)
    else:
        compared = logprobs_BxT, old_BxT
        if algorithm.ratio == "sequence":
            compared = sequence_logprobs(*compared, mask_BxT), jnp.zeros_like(old_BxT)
        bound = rates.dual_clip if algorithm.dual_clip else None
        policy_BxT, ratio_BxT = ppo_clip_loss(*compared, advantages_BxT, rates.clip, bound)

    metrics = {"loss/policy_avg": mean_parts(policy_BxT, mask_BxT, algorithm.mean)}
    if algorithm.critic:
        value_clip = rates.value_clip if algorithm.clip_value else jnp.inf
        value_BxT = clipped_value_loss(fresh.values_BxT, batch.values_BxT, batch.returns_BxT, value_clip)
        metrics["loss/value_avg"] = mean_parts(value_BxT, mask_BxT, algorithm.mean)
    if algorithm.kl_in == "loss":
        kl_BxT = kl_estimate(logprobs_BxT, batch.reference_logprobs_BxT, algorithm.kl)
        metrics["loss/kl_avg"] = mean_parts(kl_BxT, mask_BxT, algorithm.mean)
    entropy = mean_parts(fresh.entropy_BxT, mask_BxT, algorithm.mean)

    loss = metrics["loss/policy_avg"][0] / weight
    if algorithm.critic:
        loss += rates.value_weight * (metrics["loss/value_avg"][0] / weight)
    loss -= rates.entropy_weight * (entropy[0] / weight)
    if algorithm.kl_in == "loss":
        loss += rates.kl_coef * (metrics["loss/kl_avg"][0] / weight)
    return loss, metrics | {
        "policy/entropy_avg": masked_sum(fresh.entropy_BxT, mask_BxT),
        "policy/approxkl_avg": masked_sum(approx_kl(logprobs_BxT, old_BxT), mask_BxT),
        "policy/clipfrac_avg": masked_sum(
            (jnp.abs(ratio_BxT - 1) > rates.clip).astype(jnp.float32), mask_BxT
        ),
        "val/ratio": masked_sum(ratio_BxT, mask_BxT),
    }

"""The pytrees that pass between modules."""

from typing import Any, NamedTuple

import jax

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name → (sum, weight); divided when written


class TrainState(NamedTuple):
    """All that a supervised stage needs to go on."""

    step: jax.Array  # () int32, updates done
    params: Any  # pytree of float32
    opt_state: Any  # the optimizer's


class PolicyState(NamedTuple):
    """All that reinforcement needs to go on."""

    step: jax.Array  # () int32, updates done
    params: Any  # trainable part of the policy, pytree of float32
    opt_state: Any  # the optimizer's
    kl_coef: jax.Array  # () float32, weight of the KL penalty, adapted from step to step


class Adapter(NamedTuple):
    """What low-rank adaptation adds to a linear layer's kernel: scale x a @ b."""

    a_IxR: jax.Array  # float32
    b_RxO: jax.Array  # float32, 0 at the start


Adapters = dict[str, Adapter]  # dotted name of a linear layer → its adapter


class Prompts(NamedTuple):
    """Text that the policy continues, left-padded."""

    ids_BxL: jax.Array  # int32, begin token first
    mask_BxL: jax.Array  # bool, True on real tokens


class Completions(NamedTuple):
    """What was sampled, right-padded."""

    ids_BxT: jax.Array  # int32, end token included where it came
    mask_BxT: jax.Array  # bool, True up to and including the end token


class Rollout(NamedTuple):
    """What the update learns from; every row is one completion."""

    image_BxPxD: jax.Array  # float32, encoded picture
    prompts: Prompts
    completions: Completions
    logprobs_BxT: jax.Array  # float32, under the policy that sampled
    reference_logprobs_BxT: jax.Array  # float32, under the reference policy
    values_BxT: jax.Array  # float32, the critic's estimate before each token
    advantages_BxT: jax.Array  # float32, 0 where masked
    returns_BxT: jax.Array  # float32, what the critic should have said
    never_BxTxV: jax.Array | None = None  # bool, what could not be sampled here; None: the same everywhere


class RewardLedger(NamedTuple):
    """Where a reward came from; each dict has the names of the terms."""

    raw: dict[str, jax.Array]  # (B,) float32, in the term's own unit
    normalised: dict[str, jax.Array]  # (B,) float32, in units of its spread under the reference policy
    weighted: dict[str, jax.Array]  # (B,) float32, normalised, whitened where asked, and weighted
    total_B: jax.Array  # float32, the sum of `weighted`


class Steps(NamedTuple):
    """T steps of B copies of an environment, time first; what an actor-critic learns from."""

    observation: Any  # array or dict of arrays (T, B, ...), what the actor saw
    action: Any  # (T, B) or (T, B, D), as it was drawn
    logprobs_TxB: jax.Array  # float32, under the policy that drew
    values_TxB: jax.Array  # float32, the critic's estimate before each action
    rewards_TxB: jax.Array  # float32
    terminated_TxB: jax.Array  # bool, the task ended with this step
    truncated_TxB: jax.Array  # bool, the episode was cut off after this step
    final_values_TxB: jax.Array  # float32, value of what a cut episode was cut off from; 0 elsewhere


class Lesson(NamedTuple):
    """Single steps with what was made of them, N in a row."""

    observation: Any  # array or dict of arrays (N, ...)
    action: Any  # (N,) or (N, D)
    logprobs_N: jax.Array  # float32, under the policy that drew
    values_N: jax.Array  # float32, the critic's estimate then
    advantages_N: jax.Array  # float32
    returns_N: jax.Array  # float32, what the critic should have said

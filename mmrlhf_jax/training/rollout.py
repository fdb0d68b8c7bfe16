"""From pictures to a rollout: completions, their rewards, and what the update learns from."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.features import FeatureFolder
from mmrlhf_jax.data.tokens import END_ID
from mmrlhf_jax.masked import token_logprobs, whiten
from mmrlhf_jax.policy.sampling import begin_prompts, sample_completions
from mmrlhf_jax.policy.vision_language import Scored, VisionLanguagePolicy
from mmrlhf_jax.reward.composite import (
    Normaliser,
    Views,
    compose,
    fit_normaliser,
    judge_preference,
    raw_terms,
)
from mmrlhf_jax.reward.ledger import ledger_metrics, require_finite
from mmrlhf_jax.rl.advantages import estimate_advantages
from mmrlhf_jax.rl.algorithm import Algorithm
from mmrlhf_jax.rl.generate import NO_LIMITS, masked_logits, never_sampled
from mmrlhf_jax.rl.kl import kl_estimate
from mmrlhf_jax.rl.rewards import penalise_missing_end, token_rewards
from mmrlhf_jax.sharding import on_host
from mmrlhf_jax.training.adaptation import score
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.networks import Frozen, Networks, bind_judges, no_views
from mmrlhf_jax.types import Completions, Metrics, PolicyState, Prompts, RewardLedger, Rollout

REFERENCE_SAMPLES = 4  # completions by the SFT policy for each picture


class Hyper(NamedTuple):
    """Rates: traced scalars, so that one compilation serves every value of them."""

    learning_rate: jax.Array
    clip: jax.Array
    dual_clip: jax.Array
    value_clip: jax.Array
    value_weight: jax.Array
    entropy_weight: jax.Array
    gamma: jax.Array
    lam: jax.Array
    temperature: jax.Array
    missing_end_penalty: jax.Array
    kl_coef: jax.Array
    kl_target: jax.Array
    kl_horizon: jax.Array
    whiten_terms: jax.Array  # 0 or 1
    lora_scale: jax.Array
    critic_factor: jax.Array  # a separate critic's learning rate over the policy's
    weights: dict[str, jax.Array]  # of the reward's terms

    @classmethod
    def of(cls, config: PPOConfig) -> "Hyper":
        """The rates that `config` names."""
        other_name = {"learning_rate", "dual_clip", "weights", "lora_scale", "critic_factor"}
        same_name = set(cls._fields) - other_name
        named = {name: jnp.asarray(float(getattr(config, name))) for name in same_name}
        weights = {
            name: jnp.asarray(float(value)) for name, value in dataclasses.asdict(config.weights).items()
        }
        learning_rate = config.optimizer.learning_rate
        return cls(
            learning_rate=jnp.asarray(learning_rate),
            dual_clip=jnp.asarray(float(config.dual_clip or 0.0)),
            weights=weights,
            lora_scale=jnp.asarray(config.lora.scale),
            critic_factor=jnp.asarray((config.critic_learning_rate or learning_rate) / learning_rate),
            **named,
        )


def write(
    networks: Networks,
    policy: VisionLanguagePolicy,
    views: Views,
    key: jax.Array,
    temperature: jax.Array | float,
) -> Completions:
    """One completion for each encoded picture and what was said with it."""
    return sample_completions(
        policy,
        views.policy_NxPxD,
        prompts_of(views),
        key,
        length=networks.length,
        forbidden_V=jnp.array(networks.forbidden),
        temperature=temperature,
        limits=networks.limits,
    )


def prompts_of(views: Views) -> Prompts:
    """What the policy continues; of pictures alone the begin token."""
    return begin_prompts(views.policy_NxPxD.shape[0]) if views.prompts is None else views.prompts


def judge(
    networks: Networks, frozen: Frozen, views: Views, completions: Completions, hyper: Hyper
) -> RewardLedger:
    """The composite reward of each completion, term by term."""
    raw = raw_terms(bind_judges(networks, frozen), views, completions)
    mean = views.baseline or frozen.normaliser.mean
    normaliser = frozen.normaliser._replace(mean=mean)
    return compose(raw, normaliser, hyper.weights, whitened=hyper.whiten_terms > 0)


def evaluate_rollout(
    networks: Networks,
    algorithm: Algorithm,
    state: PolicyState,
    frozen: Frozen,
    views: Views,
    completions: Completions,
    ledger: RewardLedger,
    hyper: Hyper,
) -> tuple[Rollout, Metrics]:
    """Log-probs, values, KL, rewards and advantages of fresh completions.

    Within limits (top-k, top-p, minimum length) both policies' chances are those among the tokens that could
    be sampled at each place.
    """
    ids_BxT, mask_BxT = completions
    prompts = prompts_of(views)

    def logprobs(logits_BxTxV: jax.Array) -> jax.Array:
        logits_BxTxV = masked_logits(logits_BxTxV, forbidden, hyper.temperature)
        return token_logprobs(logits_BxTxV, ids_BxT, mask_BxT)

    read = (views.policy_NxPxD, prompts, completions)
    scored = score(networks.policy, frozen.reference, state.params, *read, hyper.lora_scale)
    reference = score(networks.policy, frozen.reference, {}, *read, hyper.lora_scale)
    never_BxTxV = _never_sampled(networks, scored, completions, hyper.temperature)
    forbidden = jnp.array(networks.forbidden) if never_BxTxV is None else never_BxTxV
    logprobs_BxT, reference_BxT = logprobs(scored.logits_BxTxV), logprobs(reference.logits_BxTxV)
    values_BxT = jnp.where(mask_BxT, scored.values_BxT, 0.0)

    ended_B = jnp.any(ids_BxT == END_ID, axis=1)
    scores_B = penalise_missing_end(ledger.total_B, ended_B, hyper.missing_end_penalty)
    penalty_BxT = kl_estimate(logprobs_BxT, reference_BxT, algorithm.kl)
    kl_coef = state.kl_coef if algorithm.kl_in == "reward" else 0.0
    rewards_BxT = token_rewards(scores_B, penalty_BxT, mask_BxT, kl_coef)
    advantages_BxT, returns_BxT = estimate_advantages(
        algorithm.advantage,
        rewards_BxT,
        values_BxT,
        mask_BxT,
        gamma=hyper.gamma,
        lam=hyper.lam,
        group=algorithm.group,
    )
    rollout = Rollout(
        views.policy_NxPxD,
        prompts,
        completions,
        logprobs_BxT,
        reference_BxT,
        values_BxT,
        whiten(advantages_BxT, mask_BxT) if algorithm.whiten else advantages_BxT,
        returns_BxT,
        never_BxTxV,
    )
    rows = jnp.asarray(float(ids_BxT.shape[0]))
    metrics = {
        "objective/kl": (jnp.sum(kl_estimate(logprobs_BxT, reference_BxT)), rows),
        "objective/kl_coef": (state.kl_coef, jnp.ones(())),
        "objective/scores": (jnp.sum(scores_B), rows),
        "objective/rlhf_reward": (jnp.sum(rewards_BxT), rows),
        "objective/length": (jnp.sum(mask_BxT).astype(jnp.float32), rows),
        "objective/ended": (jnp.sum(ended_B).astype(jnp.float32), rows),
    }
    if "level" in frozen.reward_model:  # an ensemble; the compiler merges this with the preference term
        judged = judge_preference(bind_judges(networks, frozen), views, completions)
        metrics["rewards/preference/disagreement"] = (jnp.sum(judged.disagreement_B), rows)
    return rollout, metrics | ledger_metrics(ledger)


def _never_sampled(
    networks: Networks, scored: Scored, completions: Completions, temperature: jax.Array
) -> jax.Array | None:
    """What the limits kept from being sampled at each place, (B, T, V); None without limits."""
    if networks.limits == NO_LIMITS:
        return None
    never_BxTxV = never_sampled(
        scored.logits_BxTxV, jnp.array(networks.forbidden), temperature, networks.limits, end_id=END_ID
    )
    # One pass and the cache differ in the last bits: what was sampled at the edge of a set stays in it.
    sampled_BxTxV = jax.nn.one_hot(completions.ids_BxT, len(networks.forbidden), dtype=bool)
    return never_BxTxV & ~sampled_BxTxV


def reference_statistics(
    networks: Networks,
    config: PPOConfig,
    frozen: Frozen,
    key: jax.Array,
    folder: FeatureFolder | None = None,
) -> tuple[Normaliser, dict[str, jax.Array]]:
    """What the SFT policy earns: REFERENCE_SAMPLES completions for each feedback picture, term by term.

    Args:
      folder: where the terms are kept, and found by a run that goes on.

    Returns:
      Mean and spread of each raw term over all of them, and its mean for each picture, (N,) by name.
    """
    sample = jax.jit(functools.partial(reference_terms, networks, config))
    judges = frozen._replace(views=no_views())  # which may lie on disk
    count = frozen.views.policy_NxPxD.shape[0]

    def earn(rows_B: np.ndarray) -> dict[str, jax.Array]:
        views = jax.tree.map(lambda leaf: leaf[rows_B], frozen.views)
        return sample(judges, views, jax.random.fold_in(key, rows_B[0]))

    def compute(rows_B: np.ndarray) -> dict[str, np.ndarray]:
        raw_BxS = on_host(earn(rows_B))
        require_finite(raw_BxS, networks.reasons())
        return raw_BxS

    if folder is None:
        raw_NxS = in_chunks(compute, count, 64)
    else:
        row = jax.ShapeDtypeStruct((1, REFERENCE_SAMPLES), jnp.float32)
        shapes = dict.fromkeys(networks.terms(), row)
        raw_NxS = {name: rows[:] for name, rows in folder.open(shapes, compute, count, batch=64).items()}
    normaliser = fit_normaliser({name: jnp.asarray(values) for name, values in raw_NxS.items()})
    return normaliser, {name: jnp.mean(values, axis=1) for name, values in raw_NxS.items()}


def reference_terms(
    networks: Networks, config: PPOConfig, frozen: Frozen, views: Views, key: jax.Array
) -> dict[str, jax.Array]:
    """Raw reward terms (B, REFERENCE_SAMPLES) of completions that the SFT policy writes for B pictures."""
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, REFERENCE_SAMPLES, axis=0), views)
    policy = networks.policy.bind(frozen.reference)
    completions = write(networks, policy, repeated, key, config.temperature)
    raw = raw_terms(bind_judges(networks, frozen), repeated, completions)
    return {name: values.reshape(-1, REFERENCE_SAMPLES) for name, values in raw.items()}

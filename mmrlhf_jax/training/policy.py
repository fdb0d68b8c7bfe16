"""PPO with a critic on an image-conditioned policy; an iteration is one compiled step."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.tokens import END_ID
from mmrlhf_jax.masked import masked_sum, token_entropy, token_logprobs, whiten
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.sampling import begin_prompts, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.reward.composite import (
    Normaliser,
    Views,
    compose,
    fit_normaliser,
    judge_preference,
    raw_terms,
    term_names,
)
from mmrlhf_jax.reward.ledger import ledger_metrics, ledger_numbers, require_finite
from mmrlhf_jax.rl.advantages import gae
from mmrlhf_jax.rl.generate import masked_logits
from mmrlhf_jax.rl.kl import adapt_kl_coef, kl_estimate
from mmrlhf_jax.rl.losses import approx_kl, clipped_value_loss, ppo_clip_loss
from mmrlhf_jax.rl.rewards import penalise_missing_end, token_rewards
from mmrlhf_jax.rl.update import run_epochs
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.loop import describe, fit
from mmrlhf_jax.training.networks import (
    FROZEN_PARTS,
    Frozen,
    Networks,
    bind_judges,
    encode_views,
    load_networks,
    look,
)
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer
from mmrlhf_jax.training.pictures import check_batch, load_split
from mmrlhf_jax.types import Completions, Metrics, PolicyState, RewardLedger, Rollout

REFERENCE_SAMPLES = 4  # completions by the SFT policy for each picture


class Hyper(NamedTuple):
    """Rates: traced scalars, so that one compilation serves every value of them."""

    learning_rate: jax.Array
    clip: jax.Array
    value_clip: jax.Array
    value_weight: jax.Array
    entropy_weight: jax.Array
    gamma: jax.Array
    lam: jax.Array
    temperature: jax.Array
    missing_end_penalty: jax.Array
    kl_target: jax.Array
    kl_horizon: jax.Array
    whiten_terms: jax.Array  # 0 or 1
    weights: dict[str, jax.Array]  # of the reward's terms

    @classmethod
    def of(cls, config: PPOConfig) -> "Hyper":
        """The rates that `config` names."""
        same_name = set(cls._fields) - {"learning_rate", "weights"}
        named = {name: jnp.asarray(float(getattr(config, name))) for name in same_name}
        weights = {
            name: jnp.asarray(float(value)) for name, value in dataclasses.asdict(config.weights).items()
        }
        return cls(learning_rate=jnp.asarray(config.optimizer.learning_rate), weights=weights, **named)


def init_state(reference: Params, config: PPOConfig) -> PolicyState:
    """The policy starts as a copy of the reference's trainable parts."""
    params = {
        name: jax.tree.map(jnp.copy, part) for name, part in reference.items() if name not in FROZEN_PARTS
    }
    opt_state = make_optimizer(config.optimizer).init(params)
    return PolicyState(jnp.zeros((), jnp.int32), params, opt_state, jnp.asarray(config.kl_coef, jnp.float32))


def update_step(
    networks: Networks, config: PPOConfig, state: PolicyState, frozen: Frozen, hyper: Hyper, key: jax.Array
) -> tuple[PolicyState, Metrics]:
    """One PPO iteration: rollout → rewards → advantages → epochs of updates → metrics."""
    key_order, key_step = jax.random.split(key)
    key_sample, key_epochs = jax.random.split(jax.random.fold_in(key_step, state.step))
    pictures = frozen.views.policy_NxPxD.shape[0]
    rows_B = batch_indices(key_order, state.step, batch=config.batch, size=pictures)
    views = jax.tree.map(lambda leaf: leaf[rows_B], frozen.views)

    policy = networks.policy.bind({**frozen.reference, **state.params})
    completions = write(networks, policy, views.policy_NxPxD, key_sample, hyper.temperature)
    ledger = judge(networks, frozen, views, completions, hyper)
    rollout, collected = evaluate_rollout(networks, state, frozen, views, completions, ledger, hyper)
    params, opt_state, updated = improve(networks, config, state, frozen, rollout, hyper, key_epochs)

    kl, rows = collected["objective/kl"]
    kl_coef = adapt_kl_coef(state.kl_coef, kl / rows, hyper.kl_target, hyper.kl_horizon, config.batch)
    return PolicyState(state.step + 1, params, opt_state, kl_coef), collected | updated


def write(
    networks: Networks,
    policy: VisionLanguagePolicy,
    image_BxPxD: jax.Array,
    key: jax.Array,
    temperature: jax.Array | float,
) -> Completions:
    """One completion for each encoded picture."""
    return sample_completions(
        policy,
        image_BxPxD,
        begin_prompts(image_BxPxD.shape[0]),
        key,
        length=networks.length,
        forbidden_V=jnp.array(networks.forbidden),
        temperature=temperature,
    )


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
    state: PolicyState,
    frozen: Frozen,
    views: Views,
    completions: Completions,
    ledger: RewardLedger,
    hyper: Hyper,
) -> tuple[Rollout, Metrics]:
    """Log-probs, values, KL, rewards and advantages of fresh completions."""
    ids_BxT, mask_BxT = completions
    prompts = begin_prompts(ids_BxT.shape[0])
    temperature, forbidden_V = hyper.temperature, jnp.array(networks.forbidden)

    def read(params: Params) -> tuple[jax.Array, jax.Array]:
        scored = networks.policy.bind(params).score(views.policy_NxPxD, *prompts, *completions)
        logits_BxTxV = masked_logits(scored.logits_BxTxV, forbidden_V, temperature)
        return token_logprobs(logits_BxTxV, ids_BxT, mask_BxT), jnp.where(mask_BxT, scored.values_BxT, 0.0)

    logprobs_BxT, values_BxT = read({**frozen.reference, **state.params})
    reference_logprobs_BxT, _ = read(frozen.reference)
    kl_BxT = kl_estimate(logprobs_BxT, reference_logprobs_BxT)
    ended_B = jnp.any(ids_BxT == END_ID, axis=1)
    scores_B = penalise_missing_end(ledger.total_B, ended_B, hyper.missing_end_penalty)
    rewards_BxT = token_rewards(scores_B, kl_BxT, mask_BxT, state.kl_coef)
    advantages_BxT, returns_BxT = gae(rewards_BxT, values_BxT, mask_BxT, gamma=hyper.gamma, lam=hyper.lam)
    rollout = Rollout(
        views.policy_NxPxD,
        prompts,
        completions,
        logprobs_BxT,
        values_BxT,
        whiten(advantages_BxT, mask_BxT),
        returns_BxT,
    )
    rows = jnp.asarray(float(ids_BxT.shape[0]))
    metrics = {
        "objective/kl": (jnp.sum(kl_BxT), rows),
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


def improve(
    networks: Networks,
    config: PPOConfig,
    state: PolicyState,
    frozen: Frozen,
    rollout: Rollout,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[Params, Any, Metrics]:
    """Epochs of clipped policy and value updates on one rollout."""
    optimizer = make_optimizer(config.optimizer)

    def step(carry: tuple[Params, Any], batch: Rollout) -> tuple[tuple[Params, Any], Metrics]:
        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            return ppo_objective(networks, {**frozen.reference, **params}, batch, hyper)

        params, opt_state = carry
        gradients, metrics = jax.grad(loss, has_aux=True)(params)
        params, opt_state, moved = apply_gradients(
            optimizer, gradients, params, opt_state, hyper.learning_rate
        )
        return (params, opt_state), metrics | moved

    (params, opt_state), metrics = run_epochs(
        step,
        (state.params, state.opt_state),
        rollout,
        key,
        epochs=config.epochs,
        minibatches=config.minibatches,
    )
    return params, opt_state, metrics


def ppo_objective(
    networks: Networks, params: Params, batch: Rollout, hyper: Hyper
) -> tuple[jax.Array, Metrics]:
    """Clipped policy loss + value loss - entropy bonus, masked means over tokens."""
    ids_BxT, mask_BxT = batch.completions
    scored = networks.policy.bind(params).score(batch.image_BxPxD, *batch.prompts, ids_BxT, mask_BxT)
    logits_BxTxV = masked_logits(scored.logits_BxTxV, jnp.array(networks.forbidden), hyper.temperature)
    logprobs_BxT = token_logprobs(logits_BxTxV, ids_BxT, mask_BxT)
    policy_BxT, ratio_BxT = ppo_clip_loss(logprobs_BxT, batch.logprobs_BxT, batch.advantages_BxT, hyper.clip)
    value_BxT = clipped_value_loss(scored.values_BxT, batch.values_BxT, batch.returns_BxT, hyper.value_clip)
    entropy_BxT = token_entropy(logits_BxTxV, mask_BxT)
    metrics = {
        "loss/policy_avg": masked_sum(policy_BxT, mask_BxT),
        "loss/value_avg": masked_sum(value_BxT, mask_BxT),
        "policy/entropy_avg": masked_sum(entropy_BxT, mask_BxT),
        "policy/approxkl_avg": masked_sum(approx_kl(logprobs_BxT, batch.logprobs_BxT), mask_BxT),
        "policy/clipfrac_avg": masked_sum(
            (jnp.abs(ratio_BxT - 1) > hyper.clip).astype(jnp.float32), mask_BxT
        ),
        "val/ratio": masked_sum(ratio_BxT, mask_BxT),
    }
    policy, value, entropy = (
        metrics[name][0] / metrics[name][1]
        for name in ("loss/policy_avg", "loss/value_avg", "policy/entropy_avg")
    )
    return policy + hyper.value_weight * value - hyper.entropy_weight * entropy, metrics


def reference_statistics(
    networks: Networks, config: PPOConfig, frozen: Frozen, key: jax.Array
) -> tuple[Normaliser, dict[str, jax.Array]]:
    """What the SFT policy earns: REFERENCE_SAMPLES completions for each feedback picture, term by term.

    Returns:
      Mean and spread of each raw term over all of them, and its mean for each picture, (N,) by name.
    """
    sample = jax.jit(functools.partial(reference_terms, networks, config))
    raw_NxS = in_chunks(
        lambda rows_B: sample(
            frozen,
            jax.tree.map(lambda leaf: leaf[rows_B], frozen.views),
            jax.random.fold_in(key, rows_B[0]),
        ),
        frozen.views.clip_NxD.shape[0],
        64,
    )
    require_finite(raw_NxS, networks.reasons())
    normaliser = fit_normaliser({name: jnp.asarray(values) for name, values in raw_NxS.items()})
    return normaliser, {name: jnp.mean(values, axis=1) for name, values in raw_NxS.items()}


def reference_terms(
    networks: Networks, config: PPOConfig, frozen: Frozen, views: Views, key: jax.Array
) -> dict[str, jax.Array]:
    """Raw reward terms (B, REFERENCE_SAMPLES) of completions that the SFT policy writes for B pictures."""
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, REFERENCE_SAMPLES, axis=0), views)
    policy = networks.policy.bind(frozen.reference)
    completions = write(networks, policy, repeated.policy_NxPxD, key, config.temperature)
    raw = raw_terms(bind_judges(networks, frozen), repeated, completions)
    return {name: values.reshape(-1, REFERENCE_SAMPLES) for name, values in raw.items()}


def run(config: PPOConfig) -> dict[str, Any]:
    """Trains the policy; leaves it under model/, in the form of the SFT policy.

    Returns:
      The stage's result: the normaliser, the last KL coefficient, the greatest KL of any logged step.
    """
    feedback = load_split(config, "feedback")
    check_batch(config.batch, len(feedback), "feedback pictures")
    captioner, networks, frozen = load_networks(config, terms=config.terms, ensemble=config.ensemble)
    key_reference, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3))
    hyper = Hyper.of(config)
    update = jax.jit(functools.partial(update_step, networks, config))
    if config.dry_run:
        view = functools.partial(encode_views, networks)
        frozen = frozen._replace(views=jax.eval_shape(view, frozen, jnp.asarray(feedback.images_NxHxWxC)))
        frozen = frozen._replace(
            normaliser=fit_normaliser(dict.fromkeys(term_names(networks.text), jnp.zeros(1)))
        )
        state = jax.eval_shape(functools.partial(init_state, config=config), frozen.reference)
        arguments = {"state": state, "frozen": frozen, "hyper": hyper, "key": key}
        describe("ppo", state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder("ppo"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        views = look(networks, frozen, feedback.images_NxHxWxC)
        names = embed_references(
            networks.clip, frozen.clip, captioner.tokenizer, feedback.names, networks.length
        )
        frozen = frozen._replace(views=views._replace(references_NxRxD=names))
        normaliser, baseline = reference_statistics(networks, config, frozen, key_reference)
        frozen = frozen._replace(normaliser=normaliser, views=frozen.views._replace(baseline=baseline))
        state = fit(
            lambda state: update(state, frozen, hyper, key),
            init_state(frozen.reference, config),
            config,
            folder,
            steps=config.steps,
            shown=("objective/scores", "objective/kl", "rewards/preference/mean"),
            finish=lambda numbers: ledger_numbers(numbers, networks.reasons()),
        )
        trained = dataclasses.replace(captioner, params={**frozen.reference, **state.params})
        trained.save(folder.model)
        kl = [row["objective/kl"] for row in read_metrics(folder.metrics_path)]
        kl_max = max(value for value in kl if value is not None)
        folder.finish({"normaliser": frozen.normaliser._asdict(), "kl_coef": state.kl_coef, "kl_max": kl_max})
        return folder.result()

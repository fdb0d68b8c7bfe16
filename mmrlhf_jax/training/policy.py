"""Reinforcement learning of an image-conditioned policy; an iteration is one compiled step."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.masked import token_entropy, token_logprobs
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.composite import Views, fit_normaliser, require_terms
from mmrlhf_jax.reward.ledger import ledger_numbers
from mmrlhf_jax.rl.generate import Limits, masked_logits
from mmrlhf_jax.rl.kl import adapt_kl_coef
from mmrlhf_jax.rl.objective import Fresh, LossRates, loss_weight, objective
from mmrlhf_jax.rl.update import accumulate, run_epochs
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.loop import Rescue, describe, fit, member_folder
from mmrlhf_jax.training.networks import (
    FROZEN_PARTS,
    Frozen,
    Networks,
    encode_views,
    load_networks,
    look,
    no_views,
)
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import Subjects, check_batch, order_key
from mmrlhf_jax.training.rollout import Hyper, evaluate_rollout, judge, reference_statistics, write
from mmrlhf_jax.training.streamed_views import look_on_disk, view_stream
from mmrlhf_jax.training.streaming import fit_streamed
from mmrlhf_jax.types import Metrics, PolicyState, RewardLedger, Rollout


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
    """One iteration on pictures that were all looked at and are on the device; see `learn`."""
    return learn(networks, config, state, frozen, draw_views(config, state, frozen, key), hyper, key)


def draw_views(config: PPOConfig, state: PolicyState, frozen: Frozen, key: jax.Array) -> Views:
    """What was seen of the pictures of an iteration, in the order of their epoch."""
    pictures = frozen.views.policy_NxPxD.shape[0]
    rows_B = batch_indices(
        order_key(key), state.step, batch=config.batch // config.choices.group, size=pictures
    )
    return jax.tree.map(lambda leaf: leaf[rows_B], frozen.views)


def learn(
    networks: Networks,
    config: PPOConfig,
    state: PolicyState,
    frozen: Frozen,
    views: Views,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[PolicyState, Metrics]:
    """One iteration: rollout → rewards → advantages → epochs of updates → metrics.

    Args:
      views: of the pictures to write about.
    """
    rollout, _, collected, key_epochs = collect(networks, config, state, frozen, views, hyper, key)
    params, opt_state, updated = improve(networks, config, state, frozen, rollout, hyper, key_epochs)

    kl, rows = collected["objective/kl"]
    kl_coef = adapt_kl_coef(state.kl_coef, kl / rows, hyper.kl_target, hyper.kl_horizon, config.batch)
    return PolicyState(state.step + 1, params, opt_state, kl_coef), collected | updated


class Collected(NamedTuple):
    """What the update of an iteration learns from."""

    rollout: Rollout
    ledger: RewardLedger
    metrics: Metrics
    key: jax.Array  # of the update


def collect(
    networks: Networks,
    config: PPOConfig,
    state: PolicyState,
    frozen: Frozen,
    views: Views,
    hyper: Hyper,
    key: jax.Array,
) -> Collected:
    """The rollout of an iteration, with rewards and advantages; of each picture a group of completions."""
    algorithm = config.choices
    _, key_step = jax.random.split(key)
    key_sample, key_epochs = jax.random.split(jax.random.fold_in(key_step, state.step))
    if algorithm.group > 1:
        views = jax.tree.map(lambda leaf: jnp.repeat(leaf, algorithm.group, axis=0), views)

    policy = networks.policy.bind({**frozen.reference, **state.params})
    completions = write(networks, policy, views, key_sample, hyper.temperature)
    ledger = judge(networks, frozen, views, completions, hyper)
    rollout, metrics = evaluate_rollout(networks, algorithm, state, frozen, views, completions, ledger, hyper)
    return Collected(rollout, ledger, metrics, key_epochs)


def improve(
    networks: Networks,
    config: PPOConfig,
    state: PolicyState,
    frozen: Frozen,
    rollout: Rollout,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[Params, Any, Metrics]:
    """Epochs of gradient steps on one rollout."""
    optimizer, algorithm = make_optimizer(config.optimizer), config.choices
    rates = LossRates(
        hyper.clip, hyper.dual_clip, hyper.value_clip, hyper.value_weight, hyper.entropy_weight, state.kl_coef
    )

    def step(carry: tuple[Params, Any], batch: Rollout) -> tuple[tuple[Params, Any], Metrics]:
        params, opt_state = carry
        weight = loss_weight(algorithm, batch.completions.mask_BxT)

        def differentiate(part: Rollout) -> tuple[Params, Metrics]:
            def loss(params: Params) -> tuple[jax.Array, Metrics]:
                fresh = reread(networks, {**frozen.reference, **params}, part, hyper.temperature)
                return objective(algorithm, fresh, part, rates, weight)

            return jax.grad(loss, has_aux=True)(params)

        gradients, metrics = accumulate(differentiate, batch, microbatches=algorithm.microbatches)
        params, opt_state, moved = apply_gradients(
            optimizer, gradients, params, opt_state, hyper.learning_rate
        )
        return (params, opt_state), metrics | moved

    (params, opt_state), metrics = run_epochs(
        step,
        (state.params, state.opt_state),
        rollout,
        key,
        epochs=algorithm.epochs,
        minibatches=algorithm.minibatches,
    )
    return params, opt_state, metrics


def reread(networks: Networks, params: Params, batch: Rollout, temperature: jax.Array) -> Fresh:
    """What the policy with these parameters says of the completions of a rollout."""
    ids_BxT, mask_BxT = batch.completions
    scored = networks.policy.bind(params).score(batch.image_BxPxD, *batch.prompts, ids_BxT, mask_BxT)
    forbidden = jnp.array(networks.forbidden) if batch.never_BxTxV is None else batch.never_BxTxV
    logits_BxTxV = masked_logits(scored.logits_BxTxV, forbidden, temperature)
    return Fresh(
        token_logprobs(logits_BxTxV, ids_BxT, mask_BxT),
        scored.values_BxT,
        token_entropy(logits_BxTxV, mask_BxT),
    )


def scan_steps(update: Any, count: int) -> Any:
    """`update` done `count` times in one call; its metrics then have a leading axis of as many steps."""

    def several(state: PolicyState, *inputs: Any) -> tuple[PolicyState, Metrics]:
        return jax.lax.scan(lambda state, _: update(state, *inputs), state, None, length=count)

    return several


def train(
    networks: Networks, config: PPOConfig, frozen: Frozen, hyper: Hyper, key: jax.Array
) -> tuple[PolicyState, Metrics]:
    """A whole run as a pure function: the last state, and metrics with a leading axis of `config.steps`.

    jax.vmap over `key` trains seeds together, over leaves of `hyper` rates, and what is frozen is shared:

        jax.vmap(functools.partial(train, networks, config), in_axes=(None, None, 0))(frozen, hyper, keys)
    """
    state = init_state(frozen.reference, config)._replace(kl_coef=hyper.kl_coef)
    step = functools.partial(update_step, networks, config)
    return scan_steps(step, config.steps)(state, frozen, hyper, key)


def compile_update(networks: Networks, config: PPOConfig) -> Any:
    """The compiled (state, frozen, hyper, key) → (state, metrics) of `config.updates_per_call` guarded steps.

    With several seeds, state, key and metrics have an axis of as many members; what is frozen is shared.
    """
    step: Any = guarded(functools.partial(update_step, networks, config), watched(config))
    if config.seeds > 1:
        step = jax.vmap(step, in_axes=(0, None, None, 0))
    return jax.jit(step if config.updates_per_call == 1 else scan_steps(step, config.updates_per_call))


def watched(config: PPOConfig) -> tuple[str, ...]:
    """The losses whose spikes the guard counts."""
    return ("loss/policy_avg", "loss/value_avg") if config.choices.critic else ("loss/policy_avg",)


def start_members(config: PPOConfig, reference: Params, key: jax.Array) -> tuple[Guarded, jax.Array]:
    """First state and key; with several seeds one of each a member, the first that of a single run."""
    state = begin(init_state(reference, config), watched(config))
    if config.seeds == 1:
        return state, key
    members = jnp.arange(1, config.seeds)
    keys = jnp.concatenate([key[None], jax.vmap(lambda member: jax.random.fold_in(key, member))(members)])
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * config.seeds), state), keys


def run(config: PPOConfig, subjects: Subjects | None = None) -> dict[str, Any]:
    """Trains the policy; leaves it under ALGORITHM/model/, in the form of the SFT policy.

    Of several seeds the first one's policy is there, and those of all are under members/.

    Args:
      subjects: what the policy writes about; by default the bundled feedback pictures.

    Returns:
      The stage's result: the normaliser, the last KL coefficient, the greatest KL of any logged step.
    """
    source, stage = picture_source(config), arm(config.algorithm, config.without_picture)
    if subjects is not None and config.stream:
        raise UserError("--stream reads pictures of your own, which this run does not take: leave it out")
    names = [caption.name for caption in source.captions("feedback")] if subjects is None else subjects.names
    count = len(subjects.images_NxHxWxC) if subjects is not None else len(names or ())
    check_batch(config.batch // config.choices.group, count, "feedback pictures")
    captioner, networks, frozen = load_networks(
        config,
        config.terms,
        limits=Limits(config.min_length, config.top_k, config.top_p),
        ensemble=config.ensemble,
        without_picture=config.without_picture,
    )
    require_terms(dataclasses.asdict(config.weights), networks.terms())
    prompts = None if subjects is None or subjects.said is None else captioner.prompts(subjects.said, count)
    key_reference, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3))
    hyper, update = Hyper.of(config), compile_update(networks, config)
    if config.dry_run:
        size = source.image_size if subjects is None else subjects.images_NxHxWxC.shape[1]
        images = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
        views = jax.eval_shape(functools.partial(encode_views, networks), frozen, images)
        frozen = frozen._replace(views=views._replace(prompts=prompts))
        frozen = frozen._replace(normaliser=fit_normaliser(dict.fromkeys(networks.terms(), jnp.zeros(1))))
        state, keys = jax.eval_shape(functools.partial(start_members, config), frozen.reference, key)
        arguments = {"state": state, "frozen": frozen, "hyper": hyper, "key": keys}
        describe(stage, state.state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder(stage), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        if subjects is not None:
            views = look(networks, frozen, subjects.images_NxHxWxC)._replace(prompts=prompts)
        elif config.stream:
            views = look_on_disk(networks, frozen, source, folder.path / "features")
        else:
            views = look(networks, frozen, source.load("feedback").images_NxHxWxC)
        if networks.clip is not None and names is not None:
            references = embed_references(
                networks.clip, frozen.clip, captioner.tokenizer, names, networks.length
            )
            views = views._replace(references_NxRxD=references)
        frozen = frozen._replace(views=views)
        normaliser, baseline = reference_statistics(networks, config, frozen, key_reference)
        frozen = frozen._replace(normaliser=normaliser, views=frozen.views._replace(baseline=baseline))
        start, keys = start_members(config, frozen.reference, key)
        options: dict[str, Any] = {
            "steps": config.steps,
            "shown": ("objective/scores", "objective/kl", "rewards/preference/mean"),
            "finish": ledger_numbers,
        }
        if config.stream:
            stream = view_stream(frozen.views, source, config, order_key(key))
            judges = frozen._replace(views=no_views())
            step = jax.jit(guarded(functools.partial(learn, networks, config), watched(config)))
            state, _ = fit_streamed(
                lambda state, views: step(state, judges, views, hyper, key),
                start,
                stream,
                config,
                folder,
                reasons=networks.reasons,
                **options,
            )
        else:

            def batch(at: Guarded, step: int) -> dict[str, Any]:
                return failed_rollout(networks, config, at, step, (frozen, hyper, keys))

            state, _ = fit(
                lambda state: update(state, frozen, hyper, keys),
                start,
                config,
                folder,
                steps_per_call=config.updates_per_call,
                members=config.seeds,
                rescue=Rescue(batch, networks.reasons),
                **options,
            )
        paths = [folder.path]
        if config.seeds == 1:
            save_policy(captioner, frozen.reference, state.params, folder.model)
        else:
            paths = [member_folder(folder.path, member) for member in range(config.seeds)]
            for member, path in enumerate(paths):
                params = jax.tree.map(lambda leaf, member=member: leaf[member], state.params)
                save_policy(captioner, frozen.reference, params, path / "model")
                if member == 0:
                    save_policy(captioner, frozen.reference, params, folder.model)
        kl = [row["objective/kl"] for path in paths for row in read_metrics(path / "metrics.jsonl")]
        kl_max = max(value for value in kl if value is not None)
        folder.finish({"normaliser": frozen.normaliser._asdict(), "kl_coef": state.kl_coef, "kl_max": kl_max})
        return folder.result()


def failed_rollout(
    networks: Networks,
    config: PPOConfig,
    at: Guarded,
    step: int,
    inputs: tuple[Frozen, Hyper, jax.Array],
) -> dict[str, Any]:
    """What the update after `step` others learned from: completions, their rewards, advantages."""
    state = at.state._replace(step=jnp.full_like(at.state.step, step))

    def gather(state: PolicyState, frozen: Frozen, hyper: Hyper, key: jax.Array) -> Collected:
        views = draw_views(config, state, frozen, key)
        return collect(networks, config, state, frozen, views, hyper, key)

    if config.seeds > 1:
        gather = jax.vmap(gather, in_axes=(0, None, None, 0))
    collected = jax.jit(gather)(state, *inputs)
    kept = (
        "completions",
        "logprobs_BxT",
        "reference_logprobs_BxT",
        "values_BxT",
        "advantages_BxT",
        "returns_BxT",
    )
    arrays = {name: getattr(collected.rollout, name) for name in kept}
    return {**arrays, "rewards": collected.ledger}


def save_policy(captioner: Captioner, reference: Params, params: Params, folder: Path) -> None:
    """Writes the policy with its trained `params`, and all else that of `reference`."""
    dataclasses.replace(captioner, params={**reference, **params}).save(folder)

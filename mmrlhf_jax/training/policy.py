"""Reinforcement learning of an image-conditioned policy; an iteration is one compiled step."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
from mmrlhf_jax.training.adaptation import CRITIC, bind, init_trained, save_trained, score
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.stage import arm
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.loop import Evaluation, Rescue, describe, fit, member_folder
from mmrlhf_jax.training.members import member_of, member_rates, over_members, start_all
from mmrlhf_jax.training.networks import Frozen, Networks, encode_views, load_networks, look, no_views
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import Subjects, check_batch, order_key
from mmrlhf_jax.training.rollout import Hyper, evaluate_rollout, judge, reference_statistics, write
from mmrlhf_jax.training.streamed_views import look_on_disk, view_stream
from mmrlhf_jax.training.streaming import fit_streamed
from mmrlhf_jax.training.watch import Watch
from mmrlhf_jax.types import Metrics, PolicyState, RewardLedger, Rollout

_START = 7  # folded into a run's key for what its first state draws


def init_state(reference: Params, config: PPOConfig, key: jax.Array) -> PolicyState:
    """The policy starts as the reference; the state holds what is trained, and nothing else of it."""
    values_in = config.critic if config.choices.critic else None
    params = init_trained(reference, config.adapt, config.lora, key, critic=values_in)
    opt_state = direction(config).init(params)
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

    policy = bind(networks.policy, frozen.reference, state.params, hyper.lora_scale)
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
    optimizer, algorithm = direction(config, hyper.critic_factor), config.choices
    rates = LossRates(
        hyper.clip, hyper.dual_clip, hyper.value_clip, hyper.value_weight, hyper.entropy_weight, state.kl_coef
    )

    def step(carry: tuple[Params, Any], batch: Rollout) -> tuple[tuple[Params, Any], Metrics]:
        params, opt_state = carry
        weight = loss_weight(algorithm, batch.completions.mask_BxT)

        def differentiate(part: Rollout) -> tuple[Params, Metrics]:
            def loss(params: Params) -> tuple[jax.Array, Metrics]:
                fresh = reread(networks, frozen.reference, params, part, hyper)
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


def direction(config: PPOConfig, critic_factor: jax.Array | float = 1.0) -> optax.GradientTransformation:
    """The optimizer; a separate critic's steps are multiplied by `critic_factor`."""
    slower = {CRITIC: critic_factor} if config.critic == "separate" else {}
    return make_optimizer(config.optimizer, slower=slower)


def reread(networks: Networks, reference: Params, params: Params, batch: Rollout, hyper: Hyper) -> Fresh:
    """What the policy with these trained parameters, and its critic, say of the completions of a rollout."""
    ids_BxT, mask_BxT = batch.completions
    read = (batch.image_BxPxD, batch.prompts, batch.completions)
    scored = score(networks.policy, reference, params, *read, hyper.lora_scale)
    forbidden = jnp.array(networks.forbidden) if batch.never_BxTxV is None else batch.never_BxTxV
    logits_BxTxV = masked_logits(scored.logits_BxTxV, forbidden, hyper.temperature)
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
    state = start(config, frozen.reference, key, hyper.kl_coef)
    step = functools.partial(update_step, networks, config)
    return scan_steps(step, config.steps)(state, frozen, hyper, key)


def start(config: PPOConfig, reference: Params, key: jax.Array, kl_coef: jax.Array) -> PolicyState:
    """The first state of the run whose randomness `key` is."""
    state = init_state(reference, config, jax.random.fold_in(key, _START))
    return state._replace(kl_coef=jnp.asarray(kl_coef, jnp.float32))  # a weak type would be compiled twice


def compile_update(networks: Networks, config: PPOConfig) -> Any:
    """The compiled (state, frozen, hyper, key) → (state, metrics) of `config.updates_per_call` guarded steps.

    With several members, state, key and metrics have an axis of as many, and so have the rates in which they
    differ; what is frozen is shared.
    """
    step = guarded(functools.partial(update_step, networks, config), watched(config))
    step = over_members(config, step)
    return jax.jit(step if config.updates_per_call == 1 else scan_steps(step, config.updates_per_call))


def watched(config: PPOConfig) -> tuple[str, ...]:
    """The losses whose spikes the guard counts."""
    return ("loss/policy_avg", "loss/value_avg") if config.choices.critic else ("loss/policy_avg",)


def start_members(config: PPOConfig, reference: Params, key: jax.Array) -> tuple[Guarded, jax.Array]:
    """First state and key; of several members one of each, the first of a setting that of a single run."""

    def first(key: jax.Array, kl_coef: jax.Array) -> Guarded:
        return begin(start(config, reference, key, kl_coef), watched(config))

    return start_all(config, first, key)


def run(config: PPOConfig, subjects: Subjects | None = None) -> dict[str, Any]:
    """Trains the policy; leaves it under ALGORITHM/model/, in the form of the SFT policy.

    Of several members trained together the first one's policy is there, and those of all are under members/.

    Args:
      subjects: what the policy writes about; by default the bundled feedback pictures.

    Returns:
      The stage's result: the normaliser, the last KL coefficient, the greatest KL of any logged step, and of
      a watch the step of each alarm; with several members their swept rates and seeds. `stopped` says why a
      run ended before its time.
    """
    source, stage = picture_source(config), arm(config.algorithm, config.without_picture)
    if subjects is not None and (config.stream or config.watch_every):
        raise UserError(
            "--stream and --watch-every look at captioned pictures, which this run has not: leave them out"
        )
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
    hyper, update = member_rates(config)[0], compile_update(networks, config)
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
        first, keys = start_members(config, frozen.reference, key)
        watch: Watch | None = None
        evaluation: Evaluation[Guarded] | None = None
        if config.watch_every:
            watch = Watch(config, networks, frozen, captioner.tokenizer, hyper, folder.path)
            evaluation = watch.evaluation()
        options: dict[str, Any] = {
            "steps": config.steps,
            "shown": ("objective/scores", "objective/kl", "rewards/preference/mean"),
            "finish": ledger_numbers,
            "evaluation": evaluation,
        }
        if config.stream:
            stream = view_stream(frozen.views, source, config, order_key(key))
            judges = frozen._replace(views=no_views())
            step = jax.jit(guarded(functools.partial(learn, networks, config), watched(config)))
            state, _ = fit_streamed(
                lambda state, views: step(state, judges, views, hyper, key),
                first,
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
                first,
                config,
                folder,
                steps_per_call=config.updates_per_call,
                members=config.members,
                rescue=Rescue(batch, networks.reasons),
                **options,
            )
        save_members(config, captioner, state, folder)
        folder.finish({"normaliser": frozen.normaliser._asdict(), **outcome(config, state, watch, folder)})
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

    collected = jax.jit(over_members(config, gather))(state, *inputs)
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


def save_members(config: PPOConfig, captioner: Captioner, state: PolicyState, folder: StageFolder) -> None:
    """Writes the trained policies."""
    for member in range(config.members):
        trained = member_of(state.params, member, config.members)
        if config.members > 1:
            path = member_folder(folder.path, member) / "model"
            save_trained(captioner, trained, path, scale=config.lora.scale)
        if member == 0:
            save_trained(captioner, trained, folder.model, scale=config.lora.scale)


def outcome(
    config: PPOConfig, state: PolicyState, watch: Watch | None, folder: StageFolder
) -> dict[str, Any]:
    """How the run went."""
    paths = [folder.path]
    result: dict[str, Any] = {"kl_coef": state.kl_coef}
    if config.members > 1:
        paths = [member_folder(folder.path, member) for member in range(config.members)]
        seeds = [seed for _ in config.sweep.settings for seed in range(config.seeds)]
        result["members"] = [
            {**setting, "seed": seed} for setting, seed in zip(config.settings, seeds, strict=True)
        ]
    rows = [row for path in paths for row in read_metrics(path / "metrics.jsonl")]
    kl = [row["objective/kl"] for row in rows if row.get("objective/kl") is not None]
    if watch is None:
        return {**result, "kl_max": max(kl)}
    step = int(jnp.max(state.step))
    rung = watch.rung(step)
    stopped = f"alarm at step {step}: {', '.join(rung[0])}" if watch.halted(step) else None
    return {**result, "kl_max": max(kl), "alarms": rung, "stopped": stopped}

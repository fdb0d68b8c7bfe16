"""Reinforcement learning of an image-conditioned policy; an iteration is one compiled step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.masked import token_entropy, token_logprobs
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.composite import Views
from mmrlhf_jax.rl.generate import masked_logits
from mmrlhf_jax.rl.kl import adapt_kl_coef
from mmrlhf_jax.rl.objective import Fresh, LossRates, loss_weight, objective
from mmrlhf_jax.rl.update import accumulate, run_epochs
from mmrlhf_jax.sharding import by_rows
from mmrlhf_jax.training.adaptation import CRITIC, bind, init_trained, score
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.members import over_members, start_all
from mmrlhf_jax.training.networks import Frozen, Networks
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer
from mmrlhf_jax.training.pictures import order_key
from mmrlhf_jax.training.rollout import Hyper, evaluate_rollout, judge, write
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

    views = by_rows(views)
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

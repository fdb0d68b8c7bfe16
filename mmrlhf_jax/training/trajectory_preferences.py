"""Reinforcement learning from comparisons of trajectories (Christiano et al. 2017, arXiv:1706.03741).

Rounds of: the policy acts → pairs of its segments are compared → a reward is learned → PPO on that reward.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.protocol import EnvParams
from mmrlhf_jax.envs.relabelled import Relabelled, RelabelledParams
from mmrlhf_jax.envs.vector import reset_all
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.segments import (
    LearnedReward,
    SegmentReward,
    Segments,
    define_segment_reward,
    normalised_reward,
    segment_loss,
)
from mmrlhf_jax.rl.step_rollout import no_episodes
from mmrlhf_jax.training.config.trajectory import TrajectoryConfig
from mmrlhf_jax.training.environment import (
    EnvironmentState,
    Hyper,
    Task,
    begin_episodes,
    init_learner,
    rollout,
    update_step,
)
from mmrlhf_jax.types import Metrics, TrainState

__all__ = ["Comparisons", "Taught", "TrajectoryConfig", "learn_from_comparisons", "teach_round"]


class Comparisons(NamedTuple):
    """N pairs of segments and what was preferred."""

    first: Segments
    second: Segments
    preference_N: jax.Array  # float32, 1 the first, 0 the second, 0.5 none


class Taught(NamedTuple):
    """All that learning from comparisons needs to go on."""

    learner: TrainState
    reward: LearnedReward
    known: Comparisons  # those of all rounds, zeros where a round is still to come
    rounds: jax.Array  # () int32, done


def start_teaching(
    task: Task, definition: Definition[SegmentReward], config: TrajectoryConfig, key: jax.Array
) -> Taught:
    """A fresh policy, a fresh reward, and room for the comparisons of all rounds."""
    key_init, key_reward = jax.random.split(key)
    zero = jnp.zeros(())
    learner = init_learner(task.policy, task.training, key_init)
    asked = jax.eval_shape(
        functools.partial(ask, task, config, pairs=config.pairs * config.rounds),
        learner,
        task.environment.default_params,
        key,
    )
    known = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), asked)
    reward = LearnedReward(definition.init(key_reward), zero, zero + 1.0)
    return Taught(learner, reward, known, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def teach_round(
    task: Task,
    definition: Definition[SegmentReward],
    config: TrajectoryConfig,
    taught: Taught,
    world: EnvParams,
    key: jax.Array,
) -> tuple[Taught, Metrics]:
    """One round; random by (key, rounds done) alone.

    Returns:
      What came of it, and the metrics of its PPO iterations, stacked. The share of comparisons that the
      learned reward agrees with, ties apart, stands in each: of those learned from, as they were said, and of
      `config.held_out` others, as they were meant.
    """
    keys = jax.random.split(jax.random.fold_in(key, taught.rounds), 4)
    both = ask(task, config, taught.learner, world, keys[0], pairs=config.pairs + config.held_out)
    asked = jax.tree.map(lambda leaf: leaf[: config.pairs], both)
    held_out = jax.tree.map(lambda leaf: leaf[config.pairs :], both)
    asked = asked._replace(preference_N=misspeak(asked.preference_N, config.rater_noise, keys[1]))
    known = jax.tree.map(
        lambda all_rounds, new: jax.lax.dynamic_update_slice_in_dim(
            all_rounds, new, taught.rounds * config.pairs, axis=0
        ),
        taught.known,
        asked,
    )
    rounds = taught.rounds + 1
    learned = learn_reward(definition, config, taught.reward.params, known, rounds * config.pairs, keys[2])
    reward = definition.bind(learned.params)
    learner, metrics = improve(task, definition, config, taught.learner, learned, world, keys[3])
    for name, comparisons in (("rewards/accuracies", asked), ("held_out/accuracies", held_out)):
        right, decided = agreement(reward, comparisons)
        every = functools.partial(jnp.full, (config.updates,))
        metrics[name] = (every(right), every(decided))
    return Taught(learner, learned, known, rounds), metrics


def learn_from_comparisons(
    task: Task,
    key: jax.Array,
    config: TrajectoryConfig,
    *,
    architecture: ActorCriticConfig | None = None,
    world: EnvParams = None,
) -> tuple[Taught, Metrics]:
    """Trains a policy that never sees the task's reward, only which of two segments earned more of it.

    A pure function of `key`; the comparisons are those of a simulated rater who knows the true reward.

    Args:
      architecture: of the reward network; by default MlpPolicy's.

    Returns:
      What came of it, and the metrics of the last PPO iteration of each round: (rounds,) sums and weights.
    """
    world = task.environment.default_params if world is None else world
    space, actions = task.environment.observation_space, task.environment.action_space
    definition = define_segment_reward(space, actions, architecture or ActorCriticConfig())
    key_start, key = jax.random.split(key)
    taught = start_teaching(task, definition, config, key_start)
    rounds: list[Metrics] = []
    for _ in range(config.rounds):
        taught, metrics = teach_round(task, definition, config, taught, world, key)
        rounds.append(jax.tree.map(lambda leaf: leaf[-1], metrics))
    return taught, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounds)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="pairs")
def ask(
    task: Task, config: TrajectoryConfig, learner: TrainState, world: EnvParams, key: jax.Array, *, pairs: int
) -> Comparisons:
    """Segments of the policy as it is, in pairs, compared by their true reward."""
    training = dataclasses.replace(task.training, n_envs=pairs, n_steps=config.length, batch_size=None)
    acting = dataclasses.replace(task, training=training)
    other = learner
    if config.second == "untrained":
        other = init_learner(task.policy, task.training, jax.random.fold_in(key, 2))

    def segments(learner: TrainState, side: int) -> tuple[Segments, jax.Array]:
        """N segments of `learner`, and their true returns (N,)."""
        key_start, key_noise, key_world = jax.random.split(jax.random.fold_in(key, side), 3)
        if config.same_start:
            key_start = key
        start = reset_all(task.environment, key_start, world, pairs)
        state = EnvironmentState(learner, *start, no_episodes(pairs))
        _, _, steps = rollout(acting, state, Hyper.of(acting, world), key_noise, key_world)
        seen = Segments(steps.observation, steps.action)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), seen), jnp.sum(steps.rewards_TxB, axis=0)

    first, first_N = segments(learner, 0)
    second, second_N = segments(other, 1)
    return Comparisons(first, second, compare(first_N, second_N, config.rater_threshold))


def compare(first_N: jax.Array, second_N: jax.Array, threshold: float = 0.0) -> jax.Array:
    """What a rater without error prefers: 1 the first, 0 the second, 0.5 where both earned the same.

    Args:
      threshold: differences up to this count as none.
    """
    difference_N = first_N - second_N
    return 0.5 * (1.0 + jnp.sign(jnp.where(jnp.abs(difference_N) > threshold, difference_N, 0.0)))


def misspeak(preference_N: jax.Array, noise: float, key: jax.Array) -> jax.Array:
    """The preferences, a share of `noise` of them turned round."""
    return jnp.where(jax.random.uniform(key, preference_N.shape) < noise, 1.0 - preference_N, preference_N)


def agreement(reward: SegmentReward, compared: Comparisons) -> tuple[jax.Array, jax.Array]:
    """(how many comparisons the reward agrees with, how many there are that are no ties)."""
    margin_N = reward.returns(compared.first) - reward.returns(compared.second)
    decided_N = compared.preference_N != 0.5
    right_N = decided_N & ((margin_N > 0) == (compared.preference_N > 0.5))
    return jnp.sum(right_N, dtype=jnp.float32), jnp.sum(decided_N, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def learn_reward(
    definition: Definition[SegmentReward],
    config: TrajectoryConfig,
    params: Params,
    known: Comparisons,
    count: jax.Array | int,
    key: jax.Array,
) -> LearnedReward:
    """The reward that explains the first `count` comparisons; mean and spread are those of their steps."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.reward_max_grad_norm),
        optax.adamw(config.reward_learning_rate, weight_decay=config.reward_weight_decay),
    )

    def draw(key: jax.Array, size: int) -> Comparisons:
        rows = jax.random.randint(key, (size,), 0, count)
        return jax.tree.map(lambda leaf: leaf[rows], known)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        params, opt_state = carry
        batch = draw(key, config.reward_batch)

        def loss(params: Params) -> jax.Array:
            reward = definition.bind(params)
            sums = reward.returns(batch.first), reward.returns(batch.second)
            return jnp.mean(segment_loss(*sums, batch.preference_N, config.label_smoothing))

        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    key_sample, key_steps = jax.random.split(key)
    keys = jax.random.split(key_steps, config.reward_steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    sample = draw(key_sample, config.pairs).first
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sample)
    rewards_N = definition.bind(params)(*flat)
    return LearnedReward(params, jnp.mean(rewards_N), jnp.std(rewards_N))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def improve(
    task: Task,
    definition: Definition[SegmentReward],
    config: TrajectoryConfig,
    learner: TrainState,
    learned: LearnedReward,
    world: EnvParams,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """PPO iterations on the learned reward, less `config.offset`; the metrics of all, stacked."""
    environment = Relabelled(task.environment, functools.partial(normalised_reward, definition))
    relabelled = dataclasses.replace(task, environment=environment)
    shifted = learned._replace(mean=learned.mean + config.offset * learned.spread)
    hyper = Hyper.of(relabelled, RelabelledParams(world, shifted))
    key_start, key_step = jax.random.split(key)
    state = begin_episodes(relabelled, learner, key_start, hyper.world)
    state, metrics = jax.lax.scan(
        lambda state, _: update_step(relabelled, state, hyper, key_step), state, length=config.updates
    )
    return state.learner, metrics

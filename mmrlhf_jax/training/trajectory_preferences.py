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
from mmrlhf_jax.config import fraction, positive, positive_int
from mmrlhf_jax.envs.protocol import EnvParams
from mmrlhf_jax.envs.relabelled import Relabelled, RelabelledParams
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.segments import (
    LearnedReward,
    SegmentReward,
    Segments,
    define_segment_reward,
    normalised_reward,
    segment_loss,
)
from mmrlhf_jax.training.environment import (
    Hyper,
    Task,
    begin_episodes,
    init_learner,
    rollout,
    update_step,
)
from mmrlhf_jax.types import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """How much is asked, and how the reward is learned."""

    rounds: int = 2
    pairs: int = 256
    """Comparisons in each round; all rounds so far are learned from."""
    length: int = 16
    """Steps of a segment."""
    reward_steps: int = 300
    """Gradient steps on the reward in each round."""
    reward_batch: int = 64
    """Comparisons in a gradient step."""
    reward_learning_rate: float = 1e-3
    label_smoothing: float = 0.05
    updates: int = 20
    """PPO iterations in each round."""

    def __post_init__(self) -> None:
        for name in ("rounds", "pairs", "length", "reward_steps", "reward_batch", "updates"):
            positive_int(name, getattr(self, name), "16")
        positive("reward_learning_rate", self.reward_learning_rate)
        fraction("label_smoothing", self.label_smoothing, "0.05")


class Comparisons(NamedTuple):
    """N pairs of segments and what was preferred."""

    first: Segments
    second: Segments
    preference_N: jax.Array  # float32, 1 the first, 0 the second, 0.5 none


class Taught(NamedTuple):
    """What came of it."""

    learner: TrainState
    reward: LearnedReward
    metrics: Metrics  # of each round: (rounds,) sums and weights


def learn_from_comparisons(
    task: Task,
    key: jax.Array,
    config: TrajectoryConfig,
    *,
    architecture: ActorCriticConfig | None = None,
    world: EnvParams = None,
) -> Taught:
    """Trains a policy that never sees the task's reward, only which of two segments earned more of it.

    A pure function of `key`; the comparisons are those of a rater who knows the true reward, `compare`.

    Args:
      architecture: of the reward network; by default MlpPolicy's.
    """
    world = task.environment.default_params if world is None else world
    space, actions = task.environment.observation_space, task.environment.action_space
    definition = define_segment_reward(space, actions, architecture or ActorCriticConfig())
    key_init, key_reward, key = jax.random.split(key, 3)
    learner = init_learner(task.policy, task.training, key_init)
    params = definition.init(key_reward)
    known: list[Comparisons] = []
    rounds: list[Metrics] = []
    for number in range(config.rounds):
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        known.append(ask(task, config, learner, world, keys[0]))
        all_known = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *known)
        learned, agreement = learn_reward(definition, config, params, all_known, keys[1])
        params = learned.params
        learner, metrics = improve(task, definition, config, learner, learned, world, keys[2])
        rounds.append(metrics | {"rewards/accuracies": (agreement, jnp.ones(()))})
    return Taught(learner, learned, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounds))


@functools.partial(jax.jit, static_argnums=(0, 1))
def ask(
    task: Task, config: TrajectoryConfig, learner: TrainState, world: EnvParams, key: jax.Array
) -> Comparisons:
    """Segments of the policy as it is, in pairs, compared by their true reward."""
    key_start, key_noise, key_world = jax.random.split(key, 3)
    training = dataclasses.replace(
        task.training, n_envs=2 * config.pairs, n_steps=config.length, batch_size=None
    )
    acting = dataclasses.replace(task, training=training)
    state = begin_episodes(acting, learner, key_start, world)
    _, _, steps = rollout(acting, state, Hyper.of(acting, world), key_noise, key_world)
    segments = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), Segments(steps.observation, steps.action))
    returns_N = jnp.sum(steps.rewards_TxB, axis=0)
    half = config.pairs
    first = jax.tree.map(lambda leaf: leaf[:half], segments)
    second = jax.tree.map(lambda leaf: leaf[half:], segments)
    return Comparisons(first, second, compare(returns_N[:half], returns_N[half:]))


def compare(first_N: jax.Array, second_N: jax.Array) -> jax.Array:
    """What a rater without error prefers: 1 the first, 0 the second, 0.5 where both earned the same."""
    return 0.5 * (1.0 + jnp.sign(first_N - second_N))


@functools.partial(jax.jit, static_argnums=(0, 1))
def learn_reward(
    definition: Definition[SegmentReward],
    config: TrajectoryConfig,
    params: Params,
    known: Comparisons,
    key: jax.Array,
) -> tuple[LearnedReward, jax.Array]:
    """The reward that explains the comparisons, and the share of them (ties apart) that it agrees with."""
    optimizer = optax.adam(config.reward_learning_rate)
    count = known.preference_N.shape[0]

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        params, opt_state = carry
        rows = jax.random.randint(key, (min(config.reward_batch, count),), 0, count)
        batch = jax.tree.map(lambda leaf: leaf[rows], known)

        def loss(params: Params) -> jax.Array:
            reward = definition.bind(params)
            sums = reward.returns(batch.first), reward.returns(batch.second)
            return jnp.mean(segment_loss(*sums, batch.preference_N, config.label_smoothing))

        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(key, config.reward_steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    reward = definition.bind(params)
    margin_N = reward.returns(known.first) - reward.returns(known.second)
    decided_N = known.preference_N != 0.5
    right_N = decided_N & ((margin_N > 0) == (known.preference_N > 0.5))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), known.first)
    rewards_N = reward(*flat)
    agreement = jnp.sum(right_N, dtype=jnp.float32) / jnp.sum(decided_N, dtype=jnp.float32)
    return LearnedReward(params, jnp.mean(rewards_N), jnp.std(rewards_N)), agreement


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
    """PPO iterations on the learned reward; metrics of the last one."""
    environment = Relabelled(task.environment, functools.partial(normalised_reward, definition))
    relabelled = dataclasses.replace(task, environment=environment)
    hyper = Hyper.of(relabelled, RelabelledParams(world, learned))
    key_start, key_step = jax.random.split(key)
    state = begin_episodes(relabelled, learner, key_start, hyper.world)
    state, metrics = jax.lax.scan(
        lambda state, _: update_step(relabelled, state, hyper, key_step), state, length=config.updates
    )
    return state.learner, jax.tree.map(lambda leaf: leaf[-1], metrics)

"""Rollouts of environments: steps instead of tokens. Knows neither policy nor environment."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.types import Lesson, Steps

World = TypeVar("World")


class Moved(Protocol):
    """What one action of B copies led to, as `envs.vector.Moment` says it."""

    @property
    def state(self) -> Any: ...
    @property
    def observation(self) -> Any: ...
    @property
    def reward_B(self) -> jax.Array: ...
    @property
    def terminated_B(self) -> jax.Array: ...
    @property
    def truncated_B(self) -> jax.Array: ...
    @property
    def final_observation(self) -> Any: ...


class Running(NamedTuple):
    """The episodes that are not over yet."""

    return_B: jax.Array  # float32, rewards so far
    length_B: jax.Array  # float32, steps so far


class Finished(NamedTuple):
    """The episodes that ended within a rollout: sums over them."""

    returns: jax.Array  # () float32
    lengths: jax.Array  # () float32
    episodes: jax.Array  # () float32, how many


def collect_steps(
    act: Callable[[Any, Any], tuple[Any, jax.Array, jax.Array]],
    advance: Callable[[jax.Array, World, Any], Moved],
    value: Callable[[Any], jax.Array],
    world: World,
    observation: Any,
    key: jax.Array,
    noise_T: Any,
) -> tuple[World, Any, Steps]:
    """As many steps as `noise_T` has entries, in one scan.

    Args:
      act: (observation, noise of one step) → action, its log-probs (B,), values (B,).
      advance: (key, world, action) → what came of it, after auto-reset.
      value: the critic alone, of the observations from which episodes were cut off; called only in steps in
        which one was.

    Returns:
      The world and the observation after the last step, and the steps.
    """
    keys_T = jax.random.split(key, jax.tree.leaves(noise_T)[0].shape[0])

    def step(carry: tuple[World, Any], inputs: tuple[jax.Array, Any]) -> tuple[tuple[World, Any], Steps]:
        world, observation = carry
        key, noise = inputs
        action, logprobs_B, values_B = act(observation, noise)
        moved = advance(key, world, action)
        cut_B = moved.truncated_B & ~moved.terminated_B
        final_values_B = jax.lax.cond(
            jnp.any(cut_B),
            lambda: jnp.where(cut_B, value(moved.final_observation), 0.0),
            lambda: jnp.zeros_like(values_B),
        )
        taken = Steps(
            observation,
            action,
            logprobs_B,
            values_B,
            moved.reward_B,
            moved.terminated_B,
            moved.truncated_B,
            final_values_B,
        )
        return (moved.state, moved.observation), taken

    (world, observation), steps = jax.lax.scan(step, (world, observation), (keys_T, noise_T))
    return world, observation, steps


def step_advantages(
    steps: Steps, last_values_B: jax.Array, *, gamma: jax.Array | float, lam: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimation over episodes that end within the rollout (arXiv:1506.02438, eq. 16).

    delta_t = r_t + gamma V'_t - V_t,  A_t = delta_t + gamma lam (1 - done_t) A_{t+1},  return_t = A_t + V_t

    V'_t is V_{t+1} within an episode, 0 where it terminated, and the value of the observation that it was cut
    off from where it was truncated. SB3 adds that value, discounted, to the reward instead: the same.

    Args:
      last_values_B: of the observations after the last step.

    Returns:
      (advantages_TxB, returns_TxB), both without gradient.
    """
    done_TxB = steps.terminated_TxB | steps.truncated_TxB
    following_TxB = jnp.concatenate([steps.values_TxB[1:], last_values_B[None]])
    next_values_TxB = jnp.where(done_TxB, steps.final_values_TxB, following_TxB)
    deltas_TxB = steps.rewards_TxB + gamma * next_values_TxB - steps.values_TxB

    def backwards(advantage_B: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_B, done_B = inputs
        advantage_B = delta_B + gamma * lam * jnp.where(done_B, 0.0, advantage_B)
        return advantage_B, advantage_B

    start_B = jnp.zeros_like(last_values_B)
    _, advantages_TxB = jax.lax.scan(backwards, start_B, (deltas_TxB, done_TxB), reverse=True)
    return jax.lax.stop_gradient((advantages_TxB, advantages_TxB + steps.values_TxB))


def as_lesson(steps: Steps, advantages_TxB: jax.Array, returns_TxB: jax.Array) -> Lesson:
    """All steps in a row, N = T x B."""
    lesson = Lesson(
        steps.observation, steps.action, steps.logprobs_TxB, steps.values_TxB, advantages_TxB, returns_TxB
    )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lesson)


def no_episodes(count: int) -> Running:
    """`count` episodes that have just begun."""
    return Running(jnp.zeros(count), jnp.zeros(count))


def follow_episodes(running: Running, steps: Steps) -> tuple[Running, Finished]:
    """Returns and lengths of the episodes that ended, without discount; and those that go on."""

    def step(running: Running, inputs: tuple[jax.Array, jax.Array]) -> tuple[Running, Finished]:
        reward_B, done_B = inputs
        return_B, length_B = running.return_B + reward_B, running.length_B + 1.0
        ended = Finished(
            *(jnp.sum(jnp.where(done_B, x, 0.0)) for x in (return_B, length_B, jnp.ones_like(length_B)))
        )
        return Running(jnp.where(done_B, 0.0, return_B), jnp.where(done_B, 0.0, length_B)), ended

    done_TxB = steps.terminated_TxB | steps.truncated_TxB
    running, ended_T = jax.lax.scan(step, running, (steps.rewards_TxB, done_TxB))
    return running, jax.tree.map(jnp.sum, ended_T)

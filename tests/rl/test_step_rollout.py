"""Rollouts of environments: the order of things, advantages as SB3 computes them, finished episodes."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.vector import Moment
from mmrlhf_jax.rl.step_rollout import (
    as_lesson,
    collect_steps,
    follow_episodes,
    no_episodes,
    step_advantages,
)
from mmrlhf_jax.types import Steps


def random_steps(length: int, count: int) -> tuple[Steps, np.ndarray]:
    random = np.random.default_rng(0)
    values, rewards, final = random.normal(size=(3, length, count)).astype(np.float32)
    terminated, truncated = random.random((2, length, count)) < 0.2
    final = np.where(truncated & ~terminated, final, 0.0)
    nothing = np.zeros((length, count), np.float32)
    steps = Steps(nothing, nothing, nothing, values, rewards, terminated, truncated, final)
    return steps, random.normal(size=count).astype(np.float32)


def sb3_advantages(steps: Steps, last_values, gamma: float, lam: float) -> np.ndarray:
    """SB3's OnPolicyAlgorithm.collect_rollouts and RolloutBuffer.compute_returns_and_advantage, in numpy."""
    cut = steps.truncated_TxB & ~steps.terminated_TxB
    rewards = steps.rewards_TxB + np.where(cut, gamma * steps.final_values_TxB, 0.0)
    dones = steps.terminated_TxB | steps.truncated_TxB
    advantages, last = np.zeros_like(rewards), np.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        following = last_values if t == len(rewards) - 1 else steps.values_TxB[t + 1]
        non_terminal = 1.0 - dones[t]  # episode_starts of the next step
        delta = rewards[t] + gamma * following * non_terminal - steps.values_TxB[t]
        last = delta + gamma * lam * non_terminal * last
        advantages[t] = last
    return advantages


def test_advantages_are_those_of_sb3_with_terminations_and_truncations():
    steps, last_values_B = random_steps(40, 6)
    assert (steps.truncated_TxB & ~steps.terminated_TxB).sum() > 10 and steps.terminated_TxB.sum() > 10
    for gamma, lam in ((0.9, 0.8), (0.99, 1.0)):
        wanted = sb3_advantages(steps, last_values_B, gamma, lam)
        advantages_TxB, returns_TxB = step_advantages(steps, jnp.asarray(last_values_B), gamma=gamma, lam=lam)
        np.testing.assert_allclose(advantages_TxB, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns_TxB, wanted + steps.values_TxB, rtol=1e-4, atol=1e-5)


def test_a_cut_episode_is_worth_what_it_was_cut_off_from():
    one = lambda value: jnp.full((1, 1), value)  # noqa: E731
    for terminated, wanted in ((False, 1.0 + 0.9 * 5.0 - 2.0), (True, 1.0 - 2.0)):
        final = 0.0 if terminated else 5.0
        steps = Steps(one(0.0), one(0), one(0.0), one(2.0), one(1.0), one(terminated), one(True), one(final))
        advantages_TxB, _ = step_advantages(steps, jnp.array([100.0]), gamma=0.9, lam=0.95)
        np.testing.assert_allclose(advantages_TxB, [[wanted]], rtol=1e-6)  # 100 belongs to the next episode


def test_steps_are_recorded_before_they_are_taken():
    # the world counts up; every third count it is cut off and starts at 0
    def act(observation_B, noise_B):
        return observation_B * 10, noise_B, observation_B * 100

    def advance(key, world_B, action_B):
        after_B = world_B + 1.0
        cut_B = after_B >= 3.0
        next_B = jnp.where(cut_B, 0.0, after_B)
        return Moment(next_B, next_B, action_B + 1.0, jnp.zeros(2, bool), cut_B, after_B, {})

    start_B = jnp.array([0.0, 1.0])
    noise_TxB = jnp.arange(8.0).reshape(4, 2)
    world_B, observation_B, steps = jax.jit(
        lambda start, noise: collect_steps(
            act, advance, lambda final_B: final_B * 7.0, start, start, jax.random.key(0), noise
        )
    )(start_B, noise_TxB)
    seen_TxB = [[0, 1], [1, 2], [2, 0], [0, 1]]
    np.testing.assert_array_equal(steps.observation, seen_TxB)
    np.testing.assert_array_equal(steps.action, np.multiply(seen_TxB, 10))
    np.testing.assert_array_equal(steps.values_TxB, np.multiply(seen_TxB, 100))
    np.testing.assert_array_equal(steps.rewards_TxB, np.multiply(seen_TxB, 10) + 1)
    np.testing.assert_array_equal(steps.logprobs_TxB, noise_TxB)
    np.testing.assert_array_equal(steps.final_values_TxB, [[0, 0], [0, 21], [21, 0], [0, 0]])
    np.testing.assert_array_equal(world_B, [1, 2])
    np.testing.assert_array_equal(observation_B, [1, 2])

    lesson = as_lesson(steps, steps.values_TxB, steps.rewards_TxB)
    np.testing.assert_array_equal(lesson.advantages_N, np.multiply(seen_TxB, 100).ravel())
    np.testing.assert_array_equal(lesson.observation, np.ravel(seen_TxB))


def test_episodes_are_followed_across_rollouts():
    rewards_TxB = np.arange(1.0, 13.0, dtype=np.float32).reshape(6, 2)
    done_TxB = np.zeros((6, 2), bool)
    done_TxB[[1, 4], [0, 0]] = True
    done_TxB[4, 1] = True
    empty = np.zeros((6, 2), np.float32)
    steps = Steps(empty, empty, empty, empty, rewards_TxB, done_TxB, np.zeros_like(done_TxB), empty)
    running, totals = no_episodes(2), np.zeros(3)
    for rows in (slice(0, 3), slice(3, 6)):  # the first episode of copy 1 spans both
        running, finished = follow_episodes(running, jax.tree.map(lambda leaf, rows=rows: leaf[rows], steps))
        totals += [finished.returns, finished.lengths, finished.episodes]
    # copy 0: 1 + 3, then 5 + 7 + 9; copy 1: 2 + 4 + 6 + 8 + 10
    assert totals.tolist() == [4 + 21 + 30, 2 + 3 + 5, 3]
    np.testing.assert_array_equal(running.return_B, [11, 12])
    np.testing.assert_array_equal(running.length_B, [1, 1])

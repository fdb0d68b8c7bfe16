"""A policy learns from comparisons alone what the reward would have taught it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.diagnostic import DIAGNOSTICS, Diagnostic
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.reward.segments import define_segment_reward
from mmrlhf_jax.training.config.environment import ActorCriticTraining
from mmrlhf_jax.training.environment import Task, init_learner, play
from mmrlhf_jax.training.trajectory_preferences import (
    TrajectoryConfig,
    ask,
    compare,
    learn_from_comparisons,
    misspeak,
)

SMALL = ActorCriticConfig(actor=(16,), critic=(16,))
TRAINING = ActorCriticTraining(n_envs=16, n_steps=8, batch_size=64, n_epochs=4, learning_rate=1e-2)
TASK = Task.of(Diagnostic(), TRAINING, SMALL)
CONFIG = TrajectoryConfig(rounds=2, pairs=64, length=6, reward_steps=150, reward_batch=32, updates=20)


def test_a_rater_prefers_what_earned_more():
    found = compare(jnp.array([1.0, 0.0, 2.0]), jnp.array([0.5, 3.0, 2.0]))
    assert found.tolist() == [1.0, 0.0, 0.5]
    assert compare(jnp.array([1.0, 0.0]), jnp.array([0.5, 3.0]), 0.6).tolist() == [0.5, 0.0]


def test_a_noisy_rater_says_the_opposite_in_some_cases():
    meant_N = jnp.tile(jnp.array([1.0, 0.0, 0.5]), 1000)
    said_N = np.asarray(misspeak(meant_N, 0.2, jax.random.key(0)))
    turned_N = said_N == 1 - np.asarray(meant_N)
    assert (said_N[2::3] == 0.5).all(), "a tie has no opposite"
    decided_N = np.asarray(meant_N) != 0.5
    assert 0.17 < turned_N[decided_N].mean() < 0.23
    assert (np.asarray(misspeak(meant_N, 0.0, jax.random.key(0))) == np.asarray(meant_N)).all()


@pytest.mark.medium
def test_comparisons_are_of_the_true_reward():
    learner = init_learner(TASK.policy, TRAINING, jax.random.key(0))
    asked = ask(TASK, CONFIG, learner, DIAGNOSTICS["both"], jax.random.key(1), pairs=64)
    assert asked.first.observation.shape == (64, 6, 2) and asked.first.action.shape == (64, 6)
    sums = [
        np.sum(np.asarray(s.observation)[..., 0] * (2 * np.asarray(s.action) - 1), axis=1)
        for s in (asked.first, asked.second)
    ]
    np.testing.assert_array_equal(asked.preference_N, 0.5 * (1 + np.sign(sums[0] - sums[1])))


@pytest.mark.medium
def test_pairs_may_begin_in_the_same_state():
    learner = init_learner(TASK.policy, TRAINING, jax.random.key(0))
    both, world, key = [], DIAGNOSTICS["both"], jax.random.key(1)
    for same_start in (True, False):
        config = dataclasses.replace(CONFIG, same_start=same_start)
        asked = ask(TASK, config, learner, world, key, pairs=64)
        first, second = (np.asarray(s.observation)[:, 0] for s in (asked.first, asked.second))
        assert (np.asarray(asked.first.action) != np.asarray(asked.second.action)).any()
        both.append(np.mean(np.all(first == second, axis=1)))
    assert both[0] == 1.0 and both[1] < 0.8


@pytest.mark.medium
def test_the_second_segment_may_be_of_one_who_has_learned_nothing():
    learner = init_learner(TASK.policy, TRAINING, jax.random.key(0))
    act = {**learner.params["act"], "bias": jnp.array([0.0, 50.0])}
    sure = learner._replace(params={**learner.params, "act": act})
    second = []
    for who in ("policy", "untrained"):
        config = dataclasses.replace(CONFIG, second=who)
        asked = ask(TASK, config, sure, DIAGNOSTICS["both"], jax.random.key(1), pairs=64)
        assert (np.asarray(asked.first.action) == 1).all()
        second.append(np.mean(asked.second.action))
    assert second[0] == 1.0 and second[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.learning
def test_a_policy_learns_from_comparisons_alone():
    world = DIAGNOSTICS["both"]
    taught, metrics = learn_from_comparisons(TASK, jax.random.key(0), CONFIG, architecture=SMALL)
    returns_E, _ = play(TASK, taught.learner.params, jax.random.key(2), world, episodes=64)
    assert float(jnp.mean(returns_E)) == 1.0, "every signal gets its action"
    right, decided = metrics["held_out/accuracies"]
    assert right.shape == (2,) and float(right[0] / decided[0]) > 0.9
    assert decided[1] < decided[0], "a better policy leaves more ties: all segments earn the same"
    # the comparisons of both rounds are kept, and differ
    actions_NxT = np.asarray(taught.known.first.action)
    assert int(taught.rounds) == 2 and actions_NxT.shape == (128, 6)
    assert (actions_NxT[:64] != actions_NxT[64:]).any()
    # the learned reward ranks right above wrong actions, for both signals
    reward = define_segment_reward(Diagnostic().observation_space, Diagnostic().action_space, SMALL).bind(
        taught.reward.params
    )
    seen = jnp.array([[-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    r_4 = np.asarray(reward(seen, jnp.array([0, 1, 1, 0])))
    assert r_4[0] > r_4[1] and r_4[2] > r_4[3]


def test_the_config_is_checked():
    with pytest.raises(UserError, match="pairs is 0"):
        TrajectoryConfig(pairs=0)
    with pytest.raises(UserError, match="second is 'nobody'"):
        TrajectoryConfig(second="nobody")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="label_smoothing is 2"):
        TrajectoryConfig(label_smoothing=2)

"""Rewards on steps: the loss by hand, sums over segments, normalisation."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.spaces import Box, Discrete
from mmrlhf_jax.reward.segments import (
    LearnedReward,
    Segments,
    define_segment_reward,
    normalised_reward,
    segment_loss,
)

DEFINITION = define_segment_reward(Box((2,)), Discrete(3), ActorCriticConfig(critic=(8,)))
PARAMS = DEFINITION.init(jax.random.key(0))


def test_the_loss_is_the_cross_entropy_of_bradley_terry():
    first_N, second_N = jnp.array([2.0, 0.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 4.0, 1.0])
    preference_N = jnp.array([1.0, 0.5, 1.0, 0.0])
    p_N = 1 / (1 + np.exp(-(np.asarray(first_N) - np.asarray(second_N))))
    wanted_N = -np.asarray(preference_N) * np.log(p_N) - (1 - np.asarray(preference_N)) * np.log(1 - p_N)
    np.testing.assert_allclose(segment_loss(first_N, second_N, preference_N), wanted_N, rtol=1e-5)
    # with smoothing a twentieth of the labels counts as turned round
    smooth_N = segment_loss(first_N, second_N, preference_N, 0.05)
    turned_N = segment_loss(first_N, second_N, 1 - preference_N)
    np.testing.assert_allclose(smooth_N, 0.95 * wanted_N + 0.05 * turned_N, rtol=1e-5)


def test_a_segment_is_worth_the_sum_of_its_steps():
    random = np.random.default_rng(0)
    segments = Segments(
        jnp.asarray(random.normal(size=(4, 5, 2)), jnp.float32),
        jnp.asarray(random.integers(3, size=(4, 5)), jnp.int32),
    )
    reward = DEFINITION.bind(PARAMS)
    wanted_N = [
        sum(float(reward(segments.observation[n, t][None], segments.action[n, t][None])[0]) for t in range(5))
        for n in range(4)
    ]
    np.testing.assert_allclose(reward.returns(segments), wanted_N, rtol=1e-4, atol=1e-5)


def test_the_reward_sees_observation_and_action_and_is_normalised():
    learned = LearnedReward(PARAMS, jnp.array(3.0), jnp.array(2.0))
    observation, action = jnp.array([0.5, -1.0]), jnp.array(1)
    raw = float(DEFINITION.bind(PARAMS)(observation[None], action[None])[0])
    found = float(normalised_reward(DEFINITION, learned, observation, action))
    np.testing.assert_allclose(found, (raw - 3.0) / 2.0, rtol=1e-4)
    assert found != float(normalised_reward(DEFINITION, learned, observation, jnp.array(2)))
    assert found != float(normalised_reward(DEFINITION, learned, -observation, action))


def test_a_discrete_action_has_an_output_of_its_own_and_a_continuous_one_enters():
    observation_BxK = jnp.array([[0.5, -1.0]] * 3)
    reward = DEFINITION.bind(PARAMS)
    by_action_B = np.asarray(reward(observation_BxK, jnp.arange(3)))
    outputs_A = np.asarray(reward.out(reward.hidden(observation_BxK)))[0]
    np.testing.assert_allclose(by_action_B, outputs_A, rtol=1e-6)
    definition = define_segment_reward(Box((2,)), Box((1,)), ActorCriticConfig(critic=(8,)))
    moving = definition.bind(definition.init(jax.random.key(0)))
    first, second, _ = np.asarray(moving(observation_BxK, jnp.array([[0.0], [1.0], [2.0]])))
    assert first != second and moving.out.out_features == 1

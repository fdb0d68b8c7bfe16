"""Environments on the host: what is recorded, and when a rollout is given up."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.host import HostVector
from mmrlhf_jax.policy.actor_critic import define_actor_critic
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training.config.environment import ActorCriticTraining
from mmrlhf_jax.training.environment import Hyper, init_learner
from mmrlhf_jax.training.environment_loop import HostLoop


class Counters:
    """A stand-in for a Gymnasium vector: shows the steps of each episode; copy b is cut off after b + 2."""

    num_envs = 2
    metadata = {"autoreset_mode": SimpleNamespace(name="SAME_STEP")}  # noqa: RUF012
    single_observation_space = SimpleNamespace(
        shape=(1,), low=np.zeros(1), high=np.full(1, 9.0), dtype=np.dtype("float64")
    )
    single_action_space = SimpleNamespace(n=2, start=0, shape=())

    def reset(self, *, seed):
        self.seed = seed
        self.times_B = np.zeros(2)
        return self.times_B[:, None].copy(), {}

    def step(self, action):
        assert action.shape == (2,) and set(action.tolist()) <= {0, 1}
        self.times_B += 1
        cut_B = self.times_B >= np.array([2, 3])
        final_B = np.array(
            [np.array([time]) if cut else None for time, cut in zip(self.times_B, cut_B, strict=True)], object
        )
        self.times_B = np.where(cut_B, 0, self.times_B)
        info = {"final_obs": final_B} if cut_B.any() else {}
        return self.times_B[:, None].copy(), np.array([1.0, 10.0]), np.zeros(2, bool), cut_B, info


TRAINING = ActorCriticTraining(n_envs=2, n_steps=6, batch_size=6, n_epochs=2)


def make_loop() -> tuple[HostLoop, Counters]:
    vector = Counters()
    environment = HostVector(vector)
    config = ActorCriticConfig(actor=(4,), critic=(4,))
    policy = define_actor_critic(environment.observation_space, environment.action_space, config)
    return HostLoop(environment, policy, TRAINING, seed=3), vector


def test_final_observations_replace_those_of_the_next_episode():
    environment = HostVector(Counters())
    assert environment.reset(0).dtype == np.float32
    moments = [environment.step(np.array([0, 1])) for _ in range(3)]
    assert [m.observation[:, 0].tolist() for m in moments] == [[1, 1], [0, 2], [1, 0]]
    assert [m.final_observation[:, 0].tolist() for m in moments] == [[1, 1], [2, 2], [1, 3]]
    assert moments[0].reward_B.dtype == np.float32


@pytest.mark.medium
def test_an_iteration_records_bootstraps_and_learns():
    loop, vector = make_loop()
    learner = init_learner(loop.policy, TRAINING, jax.random.key(0))
    calls = []
    steps = loop._rollout(learner.params, jax.random.key(1), lambda: not calls.append(1))
    assert vector.seed == 3 and len(calls) == 6
    seen_TxB = [[0, 0], [1, 1], [0, 2], [1, 0], [0, 1], [1, 2]]
    np.testing.assert_array_equal(steps.observation[..., 0], seen_TxB)
    cut_TxB = np.zeros((6, 2), bool)
    cut_TxB[[1, 3, 5], 0] = cut_TxB[[2, 5], 1] = True
    np.testing.assert_array_equal(steps.truncated_TxB, cut_TxB)
    values = loop.policy.bind(learner.params).values
    wanted_TxB = np.where(cut_TxB, np.asarray(values(np.array([[2.0], [3.0]], np.float32)))[None], 0)
    np.testing.assert_allclose(steps.final_values_TxB, wanted_TxB, rtol=1e-5)
    np.testing.assert_allclose(
        steps.values_TxB[0], values(np.zeros((2, 1), np.float32)), rtol=1e-5, atol=1e-6
    )

    learner, metrics = loop.update(learner, Hyper.of_training(TRAINING), jax.random.key(2), lambda: True)
    numbers = finalize(metrics)
    assert int(learner.step) == 1 and numbers["rollout/ep_len_mean"] == pytest.approx(
        np.mean([2, 2, 2, 3, 3])
    )
    assert numbers["rollout/ep_rew_mean"] == pytest.approx((3 * 2 + 2 * 30) / 5)


def test_a_rollout_is_given_up_when_told_so():
    loop, _ = make_loop()
    learner = init_learner(loop.policy, TRAINING, jax.random.key(0))
    answers = iter([True, False])
    assert loop.update(learner, Hyper.of_training(TRAINING), jax.random.key(0), lambda: next(answers)) is None

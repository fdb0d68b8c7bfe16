"""The same update in two kinds of environments: on the device, and Gymnasium's, which run on the host."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from mmrlhf_jax.envs.host import HostVector
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.actions import draw_noise
from mmrlhf_jax.rl.step_rollout import Running, follow_episodes, no_episodes
from mmrlhf_jax.training.config.environment import ActorCriticTraining
from mmrlhf_jax.training.environment import (
    EnvironmentState,
    Hyper,
    Policy,
    Task,
    begin_episodes,
    episode_metrics,
    learn,
    update_step,
)
from mmrlhf_jax.types import Metrics, Steps, TrainState

OnStep = Callable[[], bool]


class Loop(Protocol):
    """An environment that is under way."""

    def update(
        self, learner: TrainState, hyper: Hyper, key: jax.Array, on_step: OnStep
    ) -> tuple[TrainState, Metrics] | None:
        """One iteration; None where `on_step` says False and the rollout is given up."""
        ...


class DeviceLoop:
    """An environment on the device: an iteration is one compiled call, then `on_step` is asked once."""

    def __init__(self, task: Task, learner: TrainState, hyper: Hyper, key: jax.Array):
        self.task = dataclasses.replace(task, training=task.training.structure())
        self.state: EnvironmentState = _begin_episodes(self.task, learner, key, hyper.world)

    def update(
        self, learner: TrainState, hyper: Hyper, key: jax.Array, on_step: OnStep
    ) -> tuple[TrainState, Metrics] | None:
        """One iteration."""
        self.state, metrics = _update_step(self.task, self.state._replace(learner=learner), hyper, key)
        on_step()
        return self.state.learner, metrics


class HostLoop:
    """Steps a vector environment, and learns from every `n_steps` of it as `environment.update_step` does."""

    def __init__(
        self, environment: HostVector, policy: Policy, training: ActorCriticTraining, seed: int | None
    ):
        self.environment, self.policy, self.training = environment, policy, training.structure()
        self.observation = environment.reset(seed)
        self.running: Running = no_episodes(environment.num_envs)

    def update(
        self, learner: TrainState, hyper: Hyper, key: jax.Array, on_step: OnStep
    ) -> tuple[TrainState, Metrics] | None:
        """One iteration; `on_step` is asked after every step of the environment."""
        key_noise, key_epochs = jax.random.split(jax.random.fold_in(key, learner.step))
        steps = self._rollout(learner.params, key_noise, on_step)
        if steps is None:
            return None
        learner, self.running, metrics = _improve(
            self.policy, self.training, learner, steps, self.observation, self.running, hyper, key_epochs
        )
        return learner, metrics

    def _rollout(self, params: Params, key: jax.Array, on_step: OnStep) -> Steps | None:
        space, shape = self.environment.action_space, (self.training.n_steps, self.environment.num_envs)
        noise_TxBxN = np.asarray(draw_noise(space, key, shape))
        taken = []
        for noise_BxN in noise_TxBxN:
            action, logprobs_B, values_B = jax.device_get(
                _act(self.policy, params, self.observation, noise_BxN)
            )
            moved = self.environment.step(action.reshape(-1, *space.shape))
            cut_B = moved.truncated_B & ~moved.terminated_B
            final_values_B = np.zeros_like(values_B)
            if cut_B.any():
                final_values_B = np.where(cut_B, _values(self.policy, params, moved.final_observation), 0)
            taken.append(
                (
                    self.observation,
                    action,
                    logprobs_B,
                    values_B,
                    moved.reward_B,
                    moved.terminated_B,
                    moved.truncated_B,
                    final_values_B.astype(np.float32),
                )
            )
            self.observation = moved.observation
            if not on_step():
                return None
        return Steps(*jax.tree.map(lambda *leaves: np.stack(leaves), *taken))


_begin_episodes = jax.jit(begin_episodes, static_argnums=0)
_update_step = jax.jit(update_step, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _act(
    policy: Policy, params: Params, observation: Any, noise_BxN: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    out = policy.bind(params)(observation)
    action = out.distribution.sample(noise_BxN)
    return action, out.distribution.logprobs(action), out.values_B


@functools.partial(jax.jit, static_argnums=0)
def _values(policy: Policy, params: Params, observation: Any) -> jax.Array:
    return policy.bind(params).values(observation)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _improve(
    policy: Policy,
    training: ActorCriticTraining,
    learner: TrainState,
    steps: Steps,
    observation: Any,
    running: Running,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[TrainState, Running, Metrics]:
    last_values_B = policy.bind(learner.params).values(observation)
    running, finished = follow_episodes(running, steps)
    learner, metrics = learn(policy, training, learner, steps, last_values_B, hyper, key)
    return learner, running, metrics | episode_metrics(finished)

"""An environment whose reward is replaced, e.g. by one that was learned from preferences."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mmrlhf_jax.envs.protocol import Environment, EnvParams, Observation, State, Step
from mmrlhf_jax.envs.spaces import Leaf, Space


class RelabelledState(NamedTuple):
    inner: State
    observation: Observation  # what the agent saw when it chose


class RelabelledParams(NamedTuple):
    inner: EnvParams
    reward: Any  # of the reward function: a pytree


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """`environment`, but the reward is `reward(params.reward, observation, action)`, a float32 scalar.

    The true reward stays in `info["true_reward"]`, to be watched, not learned from.
    """

    environment: Environment
    reward: Callable[[Any, Observation, jax.Array], jax.Array]

    @property
    def observation_space(self) -> Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> Leaf:
        return self.environment.action_space

    @property
    def default_params(self) -> RelabelledParams:
        """Those of the environment; the reward's are empty and must be given."""
        return RelabelledParams(self.environment.default_params, None)

    def reset(self, key: jax.Array, params: RelabelledParams) -> tuple[RelabelledState, Observation]:
        """As the environment's."""
        inner, observation = self.environment.reset(key, params.inner)
        return RelabelledState(inner, observation), observation

    def step(
        self, key: jax.Array, state: RelabelledState, action: jax.Array, params: RelabelledParams
    ) -> Step:
        """As the environment's, but for the reward."""
        moved = self.environment.step(key, state.inner, action, params.inner)
        return moved._replace(
            state=RelabelledState(moved.state, moved.observation),
            reward=self.reward(params.reward, state.observation, action),
            info={**moved.info, "true_reward": moved.reward},
        )

"""What an environment is: pure functions of keys, states and actions, with spaces known beforehand.

    environment = CartPole()
    params = environment.default_params
    state, observation = environment.reset(key, params)
    state, observation, reward, terminated, truncated, info = environment.step(key, state, action, params)

All of it can be jitted and vmapped; `params` is a pytree of traced numbers, so that a sweep over them
compiles once. `step` does not start a new episode by itself: `vector.step_all` does, and keeps the last
observation.
"""

from typing import Any, NamedTuple, Protocol

import jax

from mmrlhf_jax.envs.spaces import Leaf, Space

State = Any  # a pytree
Observation = Any  # an array, or a dict of arrays where the space is a Dict
EnvParams = Any  # a pytree of numbers


class Step(NamedTuple):
    """What one action led to; in the order of Gymnasium's `step`, after the state."""

    state: State
    observation: Observation
    reward: jax.Array  # () float32
    terminated: jax.Array  # () bool, the task itself has ended: nothing more can be earned
    truncated: jax.Array  # () bool, cut off, e.g. by a time limit: it would have gone on
    info: dict[str, jax.Array]


class Environment(Protocol):
    """An environment: hashable (a frozen dataclass, say), so that it may be static under jit."""

    @property
    def observation_space(self) -> Space:
        """Of what `reset` and `step` return."""
        ...

    @property
    def action_space(self) -> Leaf:
        """Of what `step` takes."""
        ...

    @property
    def default_params(self) -> EnvParams:
        """The numbers of the task as published."""
        ...

    def reset(self, key: jax.Array, params: EnvParams) -> tuple[State, Observation]:
        """The start of an episode."""
        ...

    def step(self, key: jax.Array, state: State, action: jax.Array, params: EnvParams) -> Step:
        """One action. What follows the end of an episode is undefined."""
        ...

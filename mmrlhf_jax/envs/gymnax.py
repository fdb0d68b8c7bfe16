"""Environments of gymnax 1.x (extra `envs`) under this package's protocol.

environment = from_gymnax("CartPole-v1")
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.protocol import EnvParams, Observation, State, Step
from mmrlhf_jax.envs.spaces import Box, Dict, Discrete, Leaf, Space
from mmrlhf_jax.errors import UserError


def from_gymnax(name: str) -> "Gymnax":
    """The gymnax environment of that name.

    Raises:
      UserError: gymnax is not installed, is older than 1.0, or has no such environment.
    """
    try:
        import gymnax
    except ImportError:
        raise UserError('gymnax is not installed: pip install "mmrlhf-jax[envs]"') from None
    try:
        environment, params = gymnax.make(name)
    except ValueError as error:
        raise UserError(f"gymnax has no environment {name!r}: {error}") from None
    return Gymnax.of(environment, params)


@dataclasses.dataclass(frozen=True)
class Gymnax:
    """A gymnax environment; its own auto-reset is left out, because it hides how an episode ended."""

    inner: Any  # a gymnax.environments.environment.Environment
    observation_space: Space
    action_space: Leaf

    @classmethod
    def of(cls, environment: Any, params: Any) -> "Gymnax":
        """Wraps an environment that is made already; its spaces are those under `params`."""
        if not hasattr(environment, "is_truncated"):
            raise UserError('this gymnax is older than 1.0: pip install "gymnax>=1.0"')
        return cls(
            environment,
            _space(environment.observation_space(params)),
            _leaf(environment.action_space(params)),
        )

    @property
    def default_params(self) -> EnvParams:
        return self.inner.default_params

    def reset(self, key: jax.Array, params: EnvParams) -> tuple[State, Observation]:
        """The start of an episode."""
        with jax.numpy_dtype_promotion("standard"):  # theirs adds floats and bools
            observation, state = self.inner.reset_env(key, params)
        return state, observation

    def step(self, key: jax.Array, state: State, action: jax.Array, params: EnvParams) -> Step:
        """One action. gymnax' six values, but those of the episode that ends, not of the next one."""
        with jax.numpy_dtype_promotion("standard"):
            observation, state, reward, terminated, info = self.inner.step_env(key, state, action, params)
            truncated = self.inner.is_truncated(state, params)
        reward = jnp.asarray(reward, jnp.float32)
        return Step(state, observation, reward, jnp.asarray(terminated), jnp.asarray(truncated), info)


def _space(space: Any) -> Space:
    if hasattr(space, "spaces"):
        return Dict(tuple((name, _leaf(part)) for name, part in space.spaces.items()))
    return _leaf(space)


def _leaf(space: Any) -> Leaf:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low"):
        low, high = (np.broadcast_to(np.asarray(b, float), space.shape) for b in (space.low, space.high))
        return Box(tuple(space.shape), tuple(low.ravel()), tuple(high.ravel()), np.dtype(space.dtype).name)
    raise UserError(f"{space!r} is no space that this package knows: use Box, Discrete, or a Dict of them")

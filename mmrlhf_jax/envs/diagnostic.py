"""Tasks so small that the right value and the right action are known: where learning fails, they say why.

After the probe environments of A. L. Jones, "Debugging RL, without the agonizing pain" (2021).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.spaces import Box, Discrete


class DiagnosticState(NamedTuple):
    signal: jax.Array  # () float32, -1 or 1
    time: jax.Array  # () int32, steps taken


class DiagnosticParams(NamedTuple):
    """reward = constant + observation s + action a + both s a, in the last step; 0 before."""

    constant: jax.Array | float = 0.0
    observation: jax.Array | float = 0.0
    action: jax.Array | float = 0.0
    both: jax.Array | float = 0.0
    steps: jax.Array | int = 1  # of an episode


# Name → the task. V is the value of an observation, gamma the discount; s is the signal that it shows.
DIAGNOSTICS = {
    "constant": DiagnosticParams(constant=1.0),  # V = 1: the value's loss and optimizer
    "observation": DiagnosticParams(observation=1.0),  # V = s: the gradient reaches the observation
    "delayed": DiagnosticParams(constant=1.0, steps=2),  # V = gamma, then 1: the discount
    "action": DiagnosticParams(action=1.0),  # action 1, V = 1: advantages and the policy's loss
    "both": DiagnosticParams(both=1.0),  # action 1 where s is 1, else 0; V = 1: all together
}


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """An observation (s, share of the episode that is over) with s = -1 or 1, and an action a = -1 or 1.

    All tasks of `DIAGNOSTICS` are this environment with other params, so one compilation serves them all.
    """

    @property
    def observation_space(self) -> Box:
        return Box((2,), (-1.0, 0.0), (1.0, 1.0))

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def default_params(self) -> DiagnosticParams:
        return DIAGNOSTICS["both"]

    def reset(self, key: jax.Array, params: DiagnosticParams) -> tuple[DiagnosticState, jax.Array]:
        """A signal that stays for the whole episode."""
        signal = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = DiagnosticState(signal, jnp.zeros((), jnp.int32))
        return state, _observe(state, params)

    def step(
        self, key: jax.Array, state: DiagnosticState, action: jax.Array, params: DiagnosticParams
    ) -> Step:
        """Terminated after `steps`."""
        sign = jnp.where(action == 1, 1.0, -1.0)
        earned = (
            params.constant
            + params.observation * state.signal
            + params.action * sign
            + params.both * state.signal * sign
        )
        state = state._replace(time=state.time + 1)
        over = state.time >= params.steps
        reward = jnp.where(over, earned, 0.0)
        return Step(state, _observe(state, params), reward, over, jnp.zeros((), bool), {})


def _observe(state: DiagnosticState, params: DiagnosticParams) -> jax.Array:
    share = state.time.astype(jnp.float32) / jnp.asarray(params.steps, jnp.float32)
    return jnp.stack([state.signal, share])

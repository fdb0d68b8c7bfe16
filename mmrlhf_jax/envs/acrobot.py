"""Acrobot-v1: swing the end of a double pendulum above a line, by a torque at its middle (Sutton 1996)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.spaces import Box, Discrete

MAX_VELOCITY_1, MAX_VELOCITY_2 = 4 * math.pi, 9 * math.pi  # rad/s


class AcrobotState(NamedTuple):
    physics_4: jax.Array  # float32: angle of the first link (0: hangs), of the second to it, both velocities
    time: jax.Array  # () int32, steps taken


class AcrobotParams(NamedTuple):
    gravity: jax.Array | float = 9.8  # m/s^2
    torque: jax.Array | float = 1.0  # N m, of the actions 0 (negative) and 2
    seconds: jax.Array | float = 0.2  # of a step
    max_steps: jax.Array | int = 500  # of an episode


@dataclasses.dataclass(frozen=True)
class Acrobot:
    """Dynamics (the book's, Runge-Kutta), limits and reward are Gymnasium's Acrobot-v1; solved from -100 on.

    Observation: cosine and sine of both angles, both velocities. Actions: torque -1, 0, 1. Both links are 1 m
    long, weigh 1 kg, and have their centre at 0.5 m and a moment of inertia of 1. The reward is -1 a step, 0
    for the last one.
    """

    @property
    def observation_space(self) -> Box:
        high = (1.0, 1.0, 1.0, 1.0, MAX_VELOCITY_1, MAX_VELOCITY_2)
        return Box((6,), tuple(-limit for limit in high), high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def default_params(self) -> AcrobotParams:
        return AcrobotParams()

    def reset(self, key: jax.Array, params: AcrobotParams) -> tuple[AcrobotState, jax.Array]:
        """All four numbers uniform in [-0.1, 0.1]."""
        physics_4 = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return AcrobotState(physics_4, jnp.zeros((), jnp.int32)), _observe(physics_4)

    def step(self, key: jax.Array, state: AcrobotState, action: jax.Array, params: AcrobotParams) -> Step:
        """Terminated above the line, truncated after `max_steps`."""
        torque = params.torque * (action - 1).astype(jnp.float32)
        angle1, angle2, velocity1, velocity2 = _runge_kutta(state.physics_4, torque, params)
        angle1, angle2 = _wrap(angle1), _wrap(angle2)
        velocity1 = jnp.clip(velocity1, -MAX_VELOCITY_1, MAX_VELOCITY_1)
        velocity2 = jnp.clip(velocity2, -MAX_VELOCITY_2, MAX_VELOCITY_2)
        physics_4 = jnp.stack([angle1, angle2, velocity1, velocity2])
        time = state.time + 1
        terminated = -jnp.cos(angle1) - jnp.cos(angle1 + angle2) > 1.0
        return Step(
            AcrobotState(physics_4, time),
            _observe(physics_4),
            jnp.where(terminated, 0.0, -1.0),
            terminated,
            time >= params.max_steps,
            {},
        )


def _observe(physics_4: jax.Array) -> jax.Array:
    angle1, angle2, velocity1, velocity2 = physics_4
    return jnp.stack(
        [jnp.cos(angle1), jnp.sin(angle1), jnp.cos(angle2), jnp.sin(angle2), velocity1, velocity2]
    )


def _wrap(angle: jax.Array) -> jax.Array:
    """The same angle within [-pi, pi]."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def _runge_kutta(physics_4: jax.Array, torque: jax.Array, params: AcrobotParams) -> jax.Array:
    """One step of the classical fourth-order method."""
    step = params.seconds
    k1 = _derivative(physics_4, torque, params)
    k2 = _derivative(physics_4 + step / 2 * k1, torque, params)
    k3 = _derivative(physics_4 + step / 2 * k2, torque, params)
    k4 = _derivative(physics_4 + step * k3, torque, params)
    return physics_4 + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _derivative(physics_4: jax.Array, torque: jax.Array, params: AcrobotParams) -> jax.Array:
    """Velocities and accelerations; equations of Sutton and Barto's book with the constants multiplied out.

    With the masses, lengths and moments above: d1 = 3.5 + cos b, d2 = 1.25 + cos(b) / 2.
    """
    a, b, a_dot, b_dot = physics_4
    sine, cosine = jnp.sin(b), jnp.cos(b)
    d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
    phi2 = 0.5 * params.gravity * jnp.sin(a + b)
    phi1 = -0.5 * b_dot * (b_dot + 2 * a_dot) * sine + 1.5 * params.gravity * jnp.sin(a) + phi2
    b_acc = (torque + d2 / d1 * phi1 - 0.5 * jnp.square(a_dot) * sine - phi2) / (1.25 - jnp.square(d2) / d1)
    a_acc = -(d2 * b_acc + phi1) / d1
    return jnp.stack([a_dot, b_dot, a_acc, b_acc])

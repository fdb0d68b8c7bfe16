"""CartPole-v1: keep a pole upright on a cart by pushing left and right (Barto, Sutton, Anderson 1983)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Step
from mmrlhf_jax.envs.spaces import Box, Discrete

ANGLE_LIMIT = 12 * 2 * math.pi / 360  # radians
POSITION_LIMIT = 2.4  # metres


class CartPoleState(NamedTuple):
    physics_4: jax.Array  # float32: position (m), its velocity (m/s), angle (rad), its velocity (rad/s)
    time: jax.Array  # () int32, steps taken


class CartPoleParams(NamedTuple):
    gravity: jax.Array | float = 9.8  # m/s^2
    cart_mass: jax.Array | float = 1.0  # kg
    pole_mass: jax.Array | float = 0.1  # kg
    half_length: jax.Array | float = 0.5  # m
    force: jax.Array | float = 10.0  # N
    seconds: jax.Array | float = 0.02  # of a step
    max_steps: jax.Array | int = 500  # of an episode


@dataclasses.dataclass(frozen=True)
class CartPole:
    """Dynamics (Euler), limits and reward of 1 a step are Gymnasium's CartPole-v1; solved from 475 on.

    Observation: position, velocity, angle, angular velocity. Actions: 0 pushes left, 1 right.
    """

    @property
    def observation_space(self) -> Box:
        high = (2 * POSITION_LIMIT, math.inf, 2 * ANGLE_LIMIT, math.inf)
        return Box((4,), tuple(-limit for limit in high), high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def default_params(self) -> CartPoleParams:
        return CartPoleParams()

    def reset(self, key: jax.Array, params: CartPoleParams) -> tuple[CartPoleState, jax.Array]:
        """All four numbers uniform in [-0.05, 0.05]."""
        physics_4 = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return CartPoleState(physics_4, jnp.zeros((), jnp.int32)), physics_4

    def step(self, key: jax.Array, state: CartPoleState, action: jax.Array, params: CartPoleParams) -> Step:
        """Terminated outside 2.4 m or 12 degrees, truncated after `max_steps`."""
        x, x_dot, theta, theta_dot = state.physics_4
        force = jnp.where(action == 1, params.force, -params.force)
        mass = params.cart_mass + params.pole_mass
        moment = params.pole_mass * params.half_length
        sine, cosine = jnp.sin(theta), jnp.cos(theta)
        push = (force + moment * jnp.square(theta_dot) * sine) / mass
        theta_acc = (params.gravity * sine - cosine * push) / (
            params.half_length * (4.0 / 3.0 - params.pole_mass * jnp.square(cosine) / mass)
        )
        x_acc = push - moment * theta_acc * cosine / mass
        physics_4 = jnp.stack(
            [
                x + params.seconds * x_dot,
                x_dot + params.seconds * x_acc,
                theta + params.seconds * theta_dot,
                theta_dot + params.seconds * theta_acc,
            ]
        )
        time = state.time + 1
        terminated = (jnp.abs(physics_4[0]) > POSITION_LIMIT) | (jnp.abs(physics_4[2]) > ANGLE_LIMIT)
        return Step(
            CartPoleState(physics_4, time), physics_4, jnp.ones(()), terminated, time >= params.max_steps, {}
        )

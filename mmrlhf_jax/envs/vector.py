"""Many copies of an environment side by side; an episode that ends is followed by a new one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Environment, EnvParams, Observation, State


class Moment(NamedTuple):
    """One step of B copies.

    Attributes:
      state, observation: those that the next action starts from; of a new episode where the last one ended.
      final_observation: what the step itself led to. Where an episode was cut off, its value stands for the
        rewards that were not seen (Pardo et al. 2018, arXiv:1712.00378).
    """

    state: State
    observation: Observation
    reward_B: jax.Array
    terminated_B: jax.Array
    truncated_B: jax.Array
    final_observation: Observation
    info: dict[str, jax.Array]


def reset_all(
    environment: Environment, key: jax.Array, params: EnvParams, count: int
) -> tuple[State, Observation]:
    """`count` episodes' starts, stacked."""
    return jax.vmap(environment.reset, in_axes=(0, None))(jax.random.split(key, count), params)


def step_all(
    environment: Environment, key: jax.Array, state: State, action: jax.Array, params: EnvParams
) -> Moment:
    """One action in each copy, and the start of a new episode where one ended (auto-reset)."""
    key_step, key_reset = jax.random.split(key)
    count = jax.tree.leaves(state)[0].shape[0]
    moved = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
        jax.random.split(key_step, count), state, action, params
    )
    done_B = moved.terminated | moved.truncated
    here = (moved.state, moved.observation)

    def restart() -> tuple[State, Observation]:
        fresh = reset_all(environment, key_reset, params, count)
        return jax.tree.map(lambda new, old: select(done_B, new, old), fresh, here)

    # Most steps end no episode, and then the work of a reset (pictures above all) is not done.
    next_state, observation = jax.lax.cond(jnp.any(done_B), restart, lambda: here)
    return Moment(
        next_state,
        observation,
        moved.reward,
        moved.terminated,
        moved.truncated,
        moved.observation,
        moved.info,
    )


def select(mask_B: jax.Array, chosen: Any, other: Any) -> jax.Array:
    """Rows of `chosen` where the mask is True, else of `other`."""
    return jnp.where(mask_B.reshape(-1, *[1] * (chosen.ndim - 1)), chosen, other)

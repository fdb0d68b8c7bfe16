"""Whole episodes in the rooms: what a policy, the oracle or chance makes of an instruction."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.rooms import Rooms, RoomsParams, RoomsState
from mmrlhf_jax.envs.vector import reset_all, select
from mmrlhf_jax.modules import Params
from mmrlhf_jax.policy.actions import draw_noise
from mmrlhf_jax.training.environment import Policy

# (state, observation, key) of E episodes → their actions (E,)
Act = Callable[[RoomsState, Observation, jax.Array], jax.Array]


class Played(NamedTuple):
    """E episodes.

    Attributes:
      success_E: bool, whether it did as told.
      steps_E: int32, steps taken.
      shortest_E: int32, steps that the oracle takes from the same start.
    """

    success_E: jax.Array
    steps_E: jax.Array
    shortest_E: jax.Array


class Film(NamedTuple):
    """The frames of E episodes, each of T + 1 moments; after an end the last one stands.

    Attributes:
      image_ExTxHxWxC: uint8.
      text_ExL: int32, the instruction.
      played: what came of it.
    """

    image_ExTxHxWxC: jax.Array
    text_ExL: jax.Array
    played: Played


def greedy(policy: Policy, params: Params) -> Act:
    """The policy's likeliest action."""

    def act(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        return policy.bind(params)(observation).distribution.mode()

    return act


def sampled(environment: Rooms, policy: Policy, params: Params) -> Act:
    """An action drawn from the policy."""

    def act(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        chosen = policy.bind(params)(observation).distribution
        return chosen.sample(draw_noise(environment.action_space, key, state.agent.shape))

    return act


def blind(act: Act) -> Act:
    """`act` with every picture black."""

    def blinded(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        return act(state, observation | {"image": jnp.zeros_like(observation["image"])}, key)

    return blinded


def misled(act: Act) -> Act:
    """`act` with each episode reading the instruction of the one before it in the batch."""

    def shuffled(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        return act(state, observation | {"text": jnp.roll(observation["text"], 1, axis=0)}, key)

    return shuffled


def oracle(environment: Rooms) -> Act:
    """Shortest ways."""

    def act(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        return jax.vmap(environment.oracle)(state)

    return act


def chance(environment: Rooms) -> Act:
    """Any action, all equally likely."""

    def act(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        shape = state.agent.shape
        return jax.random.randint(key, shape, 0, environment.action_space.n, jnp.int32)

    return act


def film(
    environment: Rooms, act: Act, world: RoomsParams, key: jax.Array, *, episodes: int, steps: int
) -> Film:
    """`episodes` episodes of at most `steps` steps, each with a room of its own, and their pictures."""
    key_reset, key_step = jax.random.split(key)
    return follow(
        environment, act, world, reset_all(environment, key_reset, world, episodes), key_step, steps=steps
    )


def follow(
    environment: Rooms,
    act: Act,
    world: RoomsParams,
    start: tuple[RoomsState, Observation],
    key: jax.Array,
    *,
    steps: int,
) -> Film:
    """What comes of E starts within `steps` steps."""
    state, observation = start
    shortest_E = jax.vmap(environment.remaining)(state)
    episodes = state.agent.shape[0]

    def step(carry: tuple, time: jax.Array) -> tuple[tuple, jax.Array]:
        state, observation, running_E, played = carry
        key_act, key_move = jax.random.split(jax.random.fold_in(key, time))
        action_E = act(state, observation, key_act)
        keys_E = jax.random.split(key_move, episodes)
        moved = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(keys_E, state, action_E, world)
        new = jax.tree.map(
            lambda new, old: select(running_E, new, old),
            (moved.state, moved.observation),
            (state, observation),
        )
        played = played._replace(
            success_E=played.success_E | (running_E & moved.info["success"]),
            steps_E=played.steps_E + running_E.astype(jnp.int32),
        )
        running_E &= ~moved.terminated & ~moved.truncated
        return (*new, running_E, played), new[1]["image"]

    nothing = Played(jnp.zeros(episodes, bool), jnp.zeros(episodes, jnp.int32), shortest_E)
    first = (state, observation, jnp.ones(episodes, bool), nothing)
    (_, _, _, played), images_TxE = jax.lax.scan(step, first, jnp.arange(steps))
    frames = jnp.concatenate([observation["image"][None], images_TxE])
    return Film(jnp.swapaxes(frames, 0, 1), observation["text"], played)


def play(
    environment: Rooms, act: Act, world: RoomsParams, key: jax.Array, *, episodes: int, steps: int
) -> Played:
    """As `film`, without the pictures."""
    return film(environment, act, world, key, episodes=episodes, steps=steps).played

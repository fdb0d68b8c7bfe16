"""How often an assistant does as told: by split, beside oracle and chance, and without picture or words."""

import functools
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.rooms import Rooms, RoomsParams, RoomsState
from mmrlhf_jax.envs.rooms_language import Split
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.modules import Params
from mmrlhf_jax.training.assistant.episodes import (
    Act,
    Film,
    Played,
    blind,
    chance,
    film,
    greedy,
    misled,
    oracle,
    play,
    sampled,
)
from mmrlhf_jax.training.environment import Policy

PLAYERS = {
    "greedy": "the policy's likeliest actions",
    "sampled": "actions drawn from the policy",
    "picture_black": "likeliest actions, every picture black",
    "words_swapped": "likeliest actions, each with another room's instruction",
    "oracle": "shortest ways",
    "chance": "any action",
}


def splits(level: int) -> tuple[Split, ...]:
    """Those that instructions of `level` have: pairs are of two things named."""
    return get_args(Split) if level == 3 else ("train", "combinations")


def any_of(acts: Sequence[Act], which: jax.Array) -> Act:
    """Number `which` of `acts`: one program for all, in which rooms are compiled once."""

    def act(state: RoomsState, observation: Observation, key: jax.Array) -> jax.Array:
        return jax.lax.switch(which, acts, state, observation, key)

    return act


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="episodes")
def play_members(
    environment: Rooms,
    policy: Policy,
    params_K: Params,
    world: RoomsParams,
    key: jax.Array,
    which: jax.Array,
    *,
    episodes: int,
) -> Played:
    """The same `episodes` rooms for each of K policies, played by number `which` of PLAYERS: (K, E) each."""

    def one(params: Params) -> Played:
        likeliest = greedy(policy, params)
        acts = {
            "greedy": likeliest,
            "sampled": sampled(environment, policy, params),
            "picture_black": blind(likeliest),
            "words_swapped": misled(likeliest),
            "oracle": oracle(environment),
            "chance": chance(environment),
        }
        act = any_of([acts[name] for name in PLAYERS], which)
        return play(environment, act, world, key, episodes=episodes, steps=environment.max_steps)

    return jax.vmap(one)(params_K)


def measure(
    environment: Rooms, policy: Policy, params_K: Params, key: jax.Array, *, episodes: int
) -> dict[str, Any]:
    """By split and player: share of episodes done as told, with a 95 % interval over rooms, and steps.

    Args:
      params_K: of K policies, on a leading axis.

    Returns:
      For each split a dict of `PLAYERS`, each with `success`, `ci95`, `of_each` of the K policies, `steps`
      (mean of the episodes done as told) and `detour` (those steps over the oracle's, 1 the best).
    """
    found: dict[str, Any] = {}
    for number, split in enumerate(splits(environment.level)):
        world = environment.params(split)
        key_split = jax.random.fold_in(key, number)
        found[split] = {}
        for which, name in enumerate(PLAYERS):
            chosen = jnp.array(which, jnp.int32)
            played = play_members(environment, policy, params_K, world, key_split, chosen, episodes=episodes)
            found[split][name] = _summarise(played)
    return found


def show(
    environment: Rooms, policy: Policy, params: Params, key: jax.Array, *, episodes: int
) -> dict[Split, Film]:
    """Films of the policy's likeliest actions, `episodes` of each split."""
    return {
        split: jax.device_get(
            _record(
                environment,
                policy,
                params,
                environment.params(split),
                jax.random.fold_in(key, number),
                episodes=episodes,
            )
        )
        for number, split in enumerate(splits(environment.level))
    }


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="episodes")
def _record(
    environment: Rooms, policy: Policy, params: Params, world: RoomsParams, key: jax.Array, *, episodes: int
) -> Film:
    act = greedy(policy, params)
    return film(environment, act, world, key, episodes=episodes, steps=environment.max_steps)


def _summarise(played: Played) -> dict[str, Any]:
    success_KxE, steps_KxE, shortest_KxE = (np.asarray(leaf) for leaf in played)
    members, episodes = success_KxE.shape
    rooms = np.tile(np.arange(episodes), members)
    interval = bootstrap_mean(success_KxE.ravel().astype(float), clusters=rooms)
    done_steps = steps_KxE[success_KxE]
    return {
        "success": interval.mean,
        "ci95": [interval.low, interval.high],
        "of_each": success_KxE.mean(axis=1).tolist(),
        "steps": float(done_steps.mean()) if done_steps.size else None,
        "detour": float(done_steps.sum() / shortest_KxE[success_KxE].sum()) if done_steps.size else None,
    }

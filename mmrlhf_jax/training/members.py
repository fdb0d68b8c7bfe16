"""Policies trained together in one vmapped program: seeds, values of swept rates, or both.

Members come setting by setting, and within each seed by seed; the first of a setting has the randomness of a
single run. What is frozen is shared, and a rate in which they agree stays one number.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.rollout import Hyper

State = TypeVar("State")


def member_rates(config: PPOConfig) -> tuple[Hyper, Any]:
    """Rates of all members, and where they have an axis: 0 for what differs, None for what is shared."""

    def differ(leaves: tuple[jax.Array, ...]) -> bool:
        return any(float(leaf) != float(leaves[0]) for leaf in leaves)

    with jax.ensure_compile_time_eval():  # which rates differ is static, in a dry run too
        each = [Hyper.of(variant) for variant in config.variants for _ in range(config.seeds)]
        axes = jax.tree.map(lambda *leaves: 0 if differ(leaves) else None, *each)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves) if differ(leaves) else leaves[0], *each), axes


def member_keys(config: PPOConfig, key: jax.Array) -> jax.Array:
    """A key for each member, (M,); `key` itself for a single one."""
    if config.members == 1:
        return key
    seeds = [key, *(jax.random.fold_in(key, seed) for seed in range(1, config.seeds))]
    return jnp.stack(seeds * len(config.variants))


def over_members(config: PPOConfig, step: Callable[..., Any]) -> Callable[..., Any]:
    """(state, frozen, hyper, key) → anything, done for every member; what is frozen has no axis."""
    if config.members == 1:
        return step
    return jax.vmap(step, in_axes=(0, None, member_rates(config)[1], 0))


def start_all(
    config: PPOConfig, start: Callable[[jax.Array, jax.Array], State], key: jax.Array
) -> tuple[State, jax.Array]:
    """First states and keys; (key, KL coefficient) → state is the start of one."""
    keys, kl_coef = member_keys(config, key), member_rates(config)[0].kl_coef
    if config.members == 1:
        return start(keys, kl_coef), keys
    return jax.vmap(start)(keys, jnp.broadcast_to(kl_coef, (config.members,))), keys


def member_of(state: Any, member: int, members: int) -> Any:
    """What belongs to one member, out of leaves with an axis of `members`."""
    return state if members == 1 else jax.tree.map(lambda leaf: leaf[member], state)

"""A compiled step of PPO on the tiny networks, and how its tests compare."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.reward.composite import TERMS, Normaliser, Views
from mmrlhf_jax.reward.model import Seen
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training import rollout as rollouts
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.networks import Frozen, no_views
from tests.tiny_networks import LENGTH, NETWORKS, PICTURES, make_rules

CONFIG = PPOConfig(
    batch=PICTURES,
    epochs=1,
    minibatches=1,
    kl_horizon=100.0,
    optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.0),
)
HYPER = ppo.Hyper.of(CONFIG)
KEY = jax.random.key(0)


class Step(NamedTuple):
    """A compiled iteration, and how often it was traced."""

    update: object
    traces: list[int]

    def __call__(self, state, frozen, hyper=HYPER, key=KEY):
        return self.update(state, frozen, hyper, key)


def compiled(config: PPOConfig) -> Step:
    traces = []

    @jax.jit
    def update(state, frozen, hyper, key):
        traces.append(1)
        return ppo.update_step(NETWORKS, config, state, frozen, hyper, key)

    return Step(update, traces)


def same(one, other) -> bool:
    """Whether two pytrees are equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def tiled(views: Views, times: int) -> Views:
    """The same pictures several times."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (times, *[1] * (leaf.ndim - 1))), views)


def frozen_without_judges() -> Frozen:
    """A policy, random pictures, and no judges."""
    rng = np.random.default_rng(0)
    policy_NxPxD, clip_NxD = (
        jnp.asarray(rng.normal(size=(PICTURES, *shape)), jnp.float32) for shape in ((4, 16), (3,))
    )
    views = no_views()._replace(policy_NxPxD=policy_NxPxD, clip_NxD=clip_NxD)
    views = views._replace(reward_model=Seen(clip_NxD, clip_NxD))
    scale = {name: jnp.asarray(0.5) for name in TERMS}
    return Frozen(
        NETWORKS.policy.init(jax.random.key(0)), {}, {}, {}, views, Normaliser(scale, scale), make_rules()
    )


def reward_by_hand(patch: pytest.MonkeyPatch) -> None:
    """The share of one token, instead of the judges, whose compilation takes long."""

    def share_of_one_token(judges, views, completions):
        ids, mask = completions
        share_B = jnp.sum((ids == 7) & mask, axis=1, dtype=jnp.float32) / LENGTH
        return {name: share_B for name in TERMS}

    patch.setattr(rollouts, "bind_judges", lambda networks, frozen: None)
    patch.setattr(rollouts, "raw_terms", share_of_one_token)

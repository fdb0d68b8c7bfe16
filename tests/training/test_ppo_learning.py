"""PPO on tiny networks learns rewards that are made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.reward.composite import TERMS, Normaliser
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training import rollout as rollouts
from mmrlhf_jax.training.config import PPOConfig, RewardWeights
from mmrlhf_jax.training.networks import Frozen
from tests.ppo_steps import CONFIG, KEY, Step, compiled, tiled
from tests.tiny_networks import LENGTH, make_frozen


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return make_frozen()


UNIT = Normaliser({name: jnp.asarray(0.0) for name in TERMS}, {name: jnp.asarray(1.0) for name in TERMS})


def only(values: jax.Array) -> dict[str, jax.Array]:
    """Raw terms of which the preference alone says something."""
    return {name: values if name == "preference" else jnp.zeros_like(values) for name in TERMS}


def train(step: Step, config: PPOConfig, frozen: Frozen, steps: int) -> list[dict[str, float]]:
    """The metrics of `steps` iterations."""
    state, hyper = ppo.init_state(frozen.reference, config, KEY), ppo.Hyper.of(config)
    rows = []
    for _ in range(steps):
        state, metrics = step(state, frozen, hyper)
        rows.append(metrics)
    return [finalize(row) for row in rows]


@pytest.mark.learning
def test_it_learns_a_hand_made_reward_and_a_large_penalty_holds_it_back(frozen, monkeypatch):
    def share_of_one_token(judges, views, completions):
        ids, mask = completions
        return only(jnp.sum((ids == 7) & mask, axis=1, dtype=jnp.float32) / LENGTH)

    monkeypatch.setattr(rollouts, "raw_terms", share_of_one_token)
    frozen = frozen._replace(normaliser=UNIT, views=tiled(frozen.views, 8))
    free = dataclasses.replace(
        CONFIG,
        batch=64,
        epochs=2,
        minibatches=2,
        weights=RewardWeights(0.0, 0.0, 1.0),
        missing_end_penalty=0.0,
        kl_coef=0.0,
        kl_horizon=1e6,
    )
    step = compiled(free)  # the penalty is part of the state, so one program serves both
    free_rows = train(step, free, frozen, 30)
    held_rows = train(step, dataclasses.replace(free, kl_coef=1.0), frozen, 30)

    def last(rows: list[dict[str, float]], name: str) -> float:
        return float(np.mean([row[name] for row in rows[-5:]]))

    before = free_rows[0]["rewards/preference/mean"]
    assert before < 0.2
    assert last(free_rows, "rewards/preference/mean") > before + 0.4
    assert last(held_rows, "objective/kl") < 0.3 * last(free_rows, "objective/kl")


@pytest.mark.learning
def test_it_learns_to_be_brief(frozen, monkeypatch):
    def brevity(judges, views, completions):
        return only(-jnp.sum(completions.mask_BxT, axis=1, dtype=jnp.float32))

    monkeypatch.setattr(rollouts, "raw_terms", brevity)
    config = dataclasses.replace(
        CONFIG, batch=64, epochs=2, weights=RewardWeights(0.0, 0.0, 1.0), kl_coef=0.0
    )
    frozen = frozen._replace(normaliser=UNIT, views=tiled(frozen.views, 8))
    rows = train(compiled(config), config, frozen, 40)
    assert np.mean([row["objective/length"] for row in rows[:3]]) > 4
    assert np.mean([row["objective/length"] for row in rows[-5:]]) < 2

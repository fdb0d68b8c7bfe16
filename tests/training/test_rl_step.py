"""Iterations of the other algorithms on tiny networks, and several iterations in one call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.reward.composite import TERMS
from mmrlhf_jax.rl.generate import Limits
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as rl
from mmrlhf_jax.training import rollout as rollouts
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.networks import Frozen
from mmrlhf_jax.training.rollout import Hyper
from tests.ppo_steps import frozen_without_judges, reward_by_hand
from tests.tiny_networks import LENGTH, NETWORKS, PICTURES

pytestmark = pytest.mark.medium

OPTIMIZER = OptimizerConfig(learning_rate=0.01, weight_decay=0.0)
GRPO = PPOConfig(
    algorithm="grpo",
    batch=4 * PICTURES,
    group=4,
    epochs=1,
    minibatches=1,
    microbatches=4,
    kl_horizon=100.0,
    optimizer=OPTIMIZER,
)
LIMITED = dataclasses.replace(NETWORKS, limits=Limits(min_length=2, top_k=12, top_p=0.8))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return frozen_without_judges()


@pytest.fixture(scope="module", autouse=True)
def hand_made_reward():
    with pytest.MonkeyPatch.context() as patch:
        reward_by_hand(patch)
        yield


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def grpo(frozen):
    """States and metrics of three iterations of GRPO within limits, and how often the step was traced."""
    traces = []

    @jax.jit
    def update(state, frozen, hyper, key):
        traces.append(1)
        return rl.update_step(LIMITED, GRPO, state, frozen, hyper, key)

    state, hyper = rl.init_state(frozen.reference, GRPO, KEY), Hyper.of(GRPO)
    states, rows = [state], []
    for guard in ("allow", "disallow", "disallow"):  # what is compiled may come from the host
        with jax.transfer_guard(guard):
            state, metrics = update(state, frozen, hyper, KEY)
        states.append(state)
        rows.append(metrics)
    return states, [finalize(row) for row in rows], len(traces)


@pytest.mark.slow
def test_grpo_starts_every_rollout_at_a_ratio_of_one_within_its_limits(grpo):
    _, rows, traces = grpo
    assert traces == 1
    for row in rows:
        assert row["val/ratio"] == pytest.approx(1.0, abs=1e-5)
        assert row["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-9)
        assert row["policy/clipfrac_avg"] == 0.0 and row["skipped_steps"] == 0.0
        assert 3 <= row["objective/length"] <= LENGTH  # two words and an end at least
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert rows[0]["loss/kl_avg"] == pytest.approx(0.0, abs=1e-6)
    assert rows[2]["loss/kl_avg"] > 1e-4


@pytest.mark.slow
def test_grpo_pays_for_the_kl_in_the_loss_and_not_in_the_reward(grpo):
    for row in grpo[1]:
        assert row["objective/rlhf_reward"] == pytest.approx(row["objective/scores"], abs=1e-5)


@pytest.mark.slow
def test_grpo_has_no_critic(grpo):
    states, rows, _ = grpo
    assert "loss/value_avg" not in rows[0]
    first, last = (state.params for state in (states[0], states[-1]))
    assert set(first) == set(last) == {"decoder"}
    moved = [np.any(a != b) for a, b in zip(leaves(first["decoder"]), leaves(last["decoder"]), strict=True)]
    assert all(moved)


def test_completions_of_a_picture_are_compared_and_every_update_has_an_order_of_its_own(frozen, monkeypatch):
    """What a picture earns whatever is said of it gives no advantage to any of its completions."""

    def brightness(judges, views, completions):
        return {name: 3.0 * views.clip_NxD[:, 0] for name in TERMS}

    def advantages(networks, config, state, frozen, rollout, hyper, key):
        largest = jnp.max(jnp.abs(rollout.advantages_BxT)), jnp.ones(())
        drawn = jax.random.uniform(key), jnp.ones(())
        return state.params, state.opt_state, {"largest": largest, "drawn": drawn}

    monkeypatch.setattr(rollouts, "raw_terms", brightness)
    monkeypatch.setattr(rl, "improve", advantages)
    config = dataclasses.replace(GRPO, algorithm="dr_grpo", missing_end_penalty=0.0)
    state = rl.init_state(frozen.reference, config, KEY)
    step = jax.jit(lambda s, f: rl.update_step(NETWORKS, config, s, f, Hyper.of(config), KEY))
    following, metrics = step(state, frozen)
    row, again, later = (finalize(m) for m in (metrics, step(state, frozen)[1], step(following, frozen)[1]))
    assert row["largest"] == pytest.approx(0.0, abs=1e-4) and abs(row["objective/scores"]) > 0.1
    assert row["drawn"] == again["drawn"] != later["drawn"]
    assert np.ptp(np.asarray(frozen.views.clip_NxD[:, 0])) > 0.01  # pictures do earn different rewards


@pytest.mark.slow
def test_scanned_steps_are_single_steps_and_members_are_single_runs(frozen):
    """Keys and rates of their own, one program, and what is frozen is not copied."""
    config = PPOConfig(
        batch=PICTURES, kl_horizon=100.0, optimizer=OPTIMIZER, epochs=1, minibatches=2, steps=2
    )
    hyper, keys = Hyper.of(config), jax.random.split(jax.random.key(5), 2)
    rates, coefs = jnp.array([0.01, 0.03]), jnp.array([0.05, 0.2])
    axes = Hyper(*[None] * len(hyper))._replace(learning_rate=0, kl_coef=0)

    def train(frozen, hyper, key):
        return rl.train(NETWORKS, config, frozen, hyper, key)

    single = jax.jit(train)
    hypers = hyper._replace(learning_rate=rates, kl_coef=coefs)
    together = jax.jit(jax.vmap(train, in_axes=(None, axes, 0)))
    states, metrics = together(frozen, hypers, keys)
    for member in range(2):
        own = hyper._replace(learning_rate=rates[member], kl_coef=coefs[member])
        state, rows = single(frozen, own, keys[member])
        for want, got in zip(leaves(state), leaves(states), strict=True):
            np.testing.assert_allclose(got[member], want, rtol=1e-4, atol=1e-5)
        for name, (total, _) in rows.items():
            np.testing.assert_allclose(metrics[name][0][member], total, rtol=1e-3, atol=1e-3)
    assert np.any(np.asarray(metrics["objective/scores"][0][0] != metrics["objective/scores"][0][1]))

    step = jax.jit(lambda *inputs: rl.update_step(NETWORKS, config, *inputs))
    stepped = rl.init_state(frozen.reference, config, KEY)._replace(kl_coef=coefs[1])
    for i in range(config.steps):
        stepped, one = step(stepped, frozen, own, keys[1])
        for name, (total, _) in one.items():
            assert float(rows[name][0][i]) == pytest.approx(float(total), rel=1e-3, abs=1e-3), name
    for want, got in zip(leaves(stepped), leaves(state), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_first_member_is_the_single_run_and_the_others_are_not(frozen):
    config = PPOConfig(batch=PICTURES, kl_horizon=100.0, optimizer=OPTIMIZER, seeds=3)
    state, keys = rl.start_members(config, frozen.reference, KEY)
    alone, key = rl.start_members(dataclasses.replace(config, seeds=1), frozen.reference, KEY)
    assert keys[0] == key and len({jax.random.key_data(k).tobytes() for k in keys}) == 3
    for one, all_of_them in zip(leaves(alone), leaves(state), strict=True):
        assert all_of_them.shape == (3, *one.shape)
        np.testing.assert_array_equal(all_of_them, np.broadcast_to(one, all_of_them.shape))

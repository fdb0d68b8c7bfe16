"""The optimizer step that every stage takes, against optax's own AdamW."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine

CONFIG = OptimizerConfig(0.02, warmup_steps=5, weight_decay=0.1, max_grad_norm=0.5, b1=0.8, b2=0.95, eps=1e-3)
STEPS = 30


def start() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
        "scale": jnp.asarray(2.0),
    }


def loss(params: dict[str, jax.Array], step: int) -> jax.Array:
    x = jnp.asarray(np.random.default_rng(step).normal(size=(5, 3)), jnp.float32)
    return jnp.sum((params["scale"] * (x @ params["kernel"]) + params["bias"][None] - 1.0) ** 2)


def train(config: OptimizerConfig = CONFIG, steps: int = STEPS):
    params, optimizer = start(), make_optimizer(config)
    state = optimizer.init(params)
    norms = []
    for step in range(steps):
        rate = warmup_cosine(config, jnp.asarray(step), STEPS)
        gradients = jax.grad(loss)(params, step)
        params, state, metrics = apply_gradients(optimizer, gradients, params, state, rate)
        norms.append(float(metrics["grad_norm"][0] / metrics["grad_norm"][1]))
        assert float(metrics["skipped_steps"][0]) == 0.0
    return params, norms


def test_updates_are_those_of_optax_adamw_with_the_same_schedule():
    # step t takes the schedule at t + 1, so that the first step is not one of rate 0
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.02, 5, STEPS, end_value=0.002)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            lambda count: schedule(count + 1),
            b1=0.8,
            b2=0.95,
            eps=1e-3,
            weight_decay=0.1,
            mask={"kernel": True, "bias": False, "scale": False},
        ),
    )
    params = start()
    state = reference.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(STEPS):
            updates, state = reference.update(jax.grad(loss)(params, step), state, params)
            params = optax.apply_updates(params, updates)
    got, norms = train()
    for name, want in params.items():
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=1e-6)
    assert max(norms) > 0.5  # the norm is told before clipping


@pytest.mark.parametrize("name", ["weight_decay", "max_grad_norm", "b1", "b2", "eps", "learning_rate"])
def test_every_setting_has_an_effect(name):
    changed = dataclasses.replace(CONFIG, **{name: 0.5 * getattr(CONFIG, name)})
    one, other = train(steps=4)[0], train(changed, steps=4)[0]
    assert float(jnp.max(jnp.abs(one["kernel"] - other["kernel"]))) > 1e-6


def test_only_matrices_decay():
    params, optimizer = start(), make_optimizer(CONFIG)
    nothing = jax.tree.map(jnp.zeros_like, params)
    after, _, _ = apply_gradients(optimizer, nothing, params, optimizer.init(params), 0.1)
    np.testing.assert_allclose(after["kernel"], params["kernel"] * (1 - 0.1 * 0.1), rtol=1e-6)
    for name in ("bias", "scale"):
        np.testing.assert_array_equal(after[name], params[name])


def test_slower_parts_move_by_their_share_and_the_others_in_full():
    config = dataclasses.replace(CONFIG, max_grad_norm=1e9)
    params = {"tower": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}}
    gradients = jax.tree.map(lambda leaf: 3.0 * leaf, params)

    def moves(**options):
        optimizer = make_optimizer(config, **options)
        after, _, _ = apply_gradients(optimizer, gradients, params, optimizer.init(params), 0.1)
        return jax.tree.map(lambda new, old: np.asarray(new - old), after, params)

    plain, slow = moves(), moves(slower={"tower": 0.25})
    np.testing.assert_allclose(slow["tower"]["w"], 0.25 * plain["tower"]["w"], rtol=1e-4)
    for name in ("w", "b"):
        np.testing.assert_array_equal(slow["head"][name], plain["head"][name])
    assert (plain["tower"]["w"] < 0).all()


def rates(config: OptimizerConfig, steps: int) -> np.ndarray:
    return np.array([float(warmup_cosine(config, jnp.asarray(step), steps)) for step in range(steps)])


def test_the_rate_rises_linearly_then_falls_by_a_half_cosine_to_a_tenth():
    got = rates(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 20)
    np.testing.assert_allclose(got[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    falling = np.arange(1, 17) / 16
    np.testing.assert_allclose(got[4:], 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * falling)), rtol=1e-5)
    assert got[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 50), (2, 50), (3, 1), (4, 0), (1, 0), (10, 10_000)])
def test_short_runs_have_a_schedule_too(steps, warmup):
    got = rates(OptimizerConfig(learning_rate=1.0, warmup_steps=warmup), steps)
    assert np.isfinite(got).all() and (got > 0).all() and got.max() <= 1.0
    assert got.max() == pytest.approx(1.0) or warmup == 0 or steps == 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad):
    params, optimizer = start(), make_optimizer(CONFIG)
    gradients = jax.grad(loss)(params, 0)
    params, state, _ = apply_gradients(optimizer, gradients, params, optimizer.init(params), 0.1)
    broken = {**gradients, "bias": gradients["bias"].at[2].set(bad)}
    after, state_after, metrics = apply_gradients(optimizer, broken, params, state, 0.1)
    for before, now in zip(
        jax.tree.leaves((params, state)), jax.tree.leaves((after, state_after)), strict=True
    ):
        np.testing.assert_array_equal(before, now)
        assert before.dtype == now.dtype
    assert float(metrics["skipped_steps"][0]) == 1.0
    assert np.isfinite(float(metrics["grad_norm"][0]))
    healthy, _, metrics = apply_gradients(optimizer, gradients, after, state_after, 0.1)
    assert float(metrics["skipped_steps"][0]) == 0.0
    assert float(jnp.max(jnp.abs(healthy["kernel"] - after["kernel"]))) > 0

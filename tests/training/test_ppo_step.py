"""One PPO iteration on tiny networks: what must hold exactly, whatever the numbers are."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.reward.composite import TERMS, Normaliser, Views
from mmrlhf_jax.rl.objective import LossRates, loss_weight, objective
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training import rollout as rollouts
from mmrlhf_jax.training.config import PPOConfig, RewardWeights
from mmrlhf_jax.training.networks import FROZEN_PARTS, Frozen
from mmrlhf_jax.types import Completions, PolicyState, Rollout
from tests.tiny_networks import LENGTH, NETWORKS, PICTURES, make_frozen

pytestmark = pytest.mark.medium

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


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return make_frozen()


@pytest.fixture(scope="module")
def start(frozen) -> PolicyState:
    return ppo.init_state(frozen.reference, CONFIG)


@pytest.fixture(scope="module")
def step() -> Step:
    """One gradient step on the whole rollout."""
    return compiled(CONFIG)


@pytest.fixture(scope="module")
def several() -> Step:
    """Two passes of two gradient steps."""
    return compiled(dataclasses.replace(CONFIG, epochs=2, minibatches=2))


@pytest.fixture(scope="module")
def first(step, start, frozen):
    """State and metrics after the first iteration."""
    state, metrics = step(start, frozen)
    return state, finalize(metrics)


@pytest.fixture(scope="module")
def later(step, first, frozen):
    """State and metrics after three iterations: the policy has left the reference."""
    state = first[0]
    for _ in range(2):
        state, metrics = step(state, frozen)
    return state, finalize(metrics)


def same(one, other) -> bool:
    """Whether two pytrees are equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def test_the_ratio_is_one_where_the_policy_has_not_moved_yet(first, later):
    for _, metrics in (first, later):
        assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
        assert metrics["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-9)
        assert metrics["policy/clipfrac_avg"] == 0.0


def test_the_ratio_moves_in_later_minibatches(several, start, frozen):
    metrics = finalize(several(start, frozen)[1])
    assert metrics["policy/approxkl_avg"] > 1e-6


def test_the_kl_is_zero_at_first_and_not_later(first, later):
    assert first[1]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(later[1]["objective/kl"]) > 1e-3


def test_the_logged_terms_add_up_to_the_score_that_is_optimised(first, later):
    for _, metrics in (first, later):
        weighted = sum(metrics[f"rewards/{name}/weighted"] for name in TERMS)
        penalty = CONFIG.missing_end_penalty * (1 - metrics["objective/ended"])
        assert metrics["objective/scores"] == pytest.approx(weighted - penalty, abs=1e-4)
    assert 0 < first[1]["objective/ended"] < 1  # so that the penalty was seen at work


def test_the_reward_is_score_minus_coefficient_times_kl(first, later):
    for _, metrics in (first, later):
        want = metrics["objective/scores"] - metrics["objective/kl_coef"] * metrics["objective/kl"]
        assert metrics["objective/rlhf_reward"] == pytest.approx(want, abs=1e-4)


def test_the_logged_mean_is_the_raw_term(first):
    for name in TERMS:
        raw = first[1][f"rewards/{name}/mean"]
        want = getattr(CONFIG.weights, name) * (raw - 0.5) / 0.5
        assert first[1][f"rewards/{name}/weighted"] == pytest.approx(want, abs=1e-4)


def test_lengths_are_whole_tokens_within_bounds(first):
    assert 1 <= first[1]["objective/length"] <= LENGTH
    assert (first[1]["objective/length"] * PICTURES) % 1 == pytest.approx(0.0, abs=1e-4)


def test_only_the_trainable_parts_are_in_the_state_and_they_all_move(start, first, frozen):
    assert set(start.params) == set(frozen.reference) - set(FROZEN_PARTS) == {"decoder", "value_head"}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start.params, first[0].params)
    assert all(jax.tree.leaves(moved)), moved
    assert int(first[0].step) == 1


def test_what_is_frozen_does_not_change(step, start, frozen):
    before = jax.tree.map(np.array, frozen)
    copy_of_start = jax.tree.map(np.array, start)
    jax.block_until_ready(step(start, frozen))
    assert same(before, frozen) and same(copy_of_start, start)  # nor is any of it given away
    for name, part in start.params.items():
        for own, reference in zip(
            jax.tree.leaves(part), jax.tree.leaves(frozen.reference[name]), strict=True
        ):
            assert own is not reference  # a donated state must not take the reference with it


def tiled(views: Views, times: int) -> Views:
    """The same pictures several times."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (times, *[1] * (leaf.ndim - 1))), views)


@jax.jit
def roll(frozen: Frozen, state: PolicyState) -> Rollout:
    """A rollout of four completions a picture, as `update_step` makes it."""
    policy = NETWORKS.policy.bind({**frozen.reference, **state.params})
    views = tiled(frozen.views, 4)
    completions = ppo.write(NETWORKS, policy, views, KEY, 1.0)
    ledger = ppo.judge(NETWORKS, frozen, views, completions, HYPER)
    return ppo.evaluate_rollout(NETWORKS, CONFIG.choices, state, frozen, views, completions, ledger, HYPER)[0]


@jax.jit
def differentiate(frozen: Frozen, params, batch: Rollout):
    """((loss, metrics), gradients) of the policy with the trainable `params`."""
    rates = LossRates(*(jnp.asarray(rate) for rate in (0.2, 3.0, 0.2, 0.1, 0.01, 0.05)))
    weight = loss_weight(CONFIG.choices, batch.completions.mask_BxT)

    def loss(params):
        fresh = ppo.reread(NETWORKS, {**frozen.reference, **params}, batch, HYPER.temperature)
        return objective(CONFIG.choices, fresh, batch, rates, weight)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.fixture(scope="module")
def rollout(frozen, later) -> Rollout:
    return roll(frozen, later[0])


def test_first_values_are_zero_and_later_ones_are_not(start, frozen, rollout):
    assert not np.asarray(start.params["value_head"]["kernel"]).any()
    assert not np.asarray(roll(frozen, start).values_BxT).any()
    assert np.asarray(rollout.values_BxT).any()


def test_a_rollouts_advantages_are_white_and_zero_behind_the_end(rollout):
    mask = np.asarray(rollout.completions.mask_BxT)
    advantages = np.asarray(rollout.advantages_BxT)
    assert not mask.all() and not advantages[~mask].any()
    assert advantages[mask].mean() == pytest.approx(0.0, abs=1e-5)
    assert advantages[mask].std() == pytest.approx(1.0, abs=1e-4)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves_weighted_by_tokens(frozen, later, rollout):
    (whole, metrics), gradients = differentiate(frozen, later[0].params, rollout)
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part::2], rollout) for part in range(2)]
    results = [differentiate(frozen, later[0].params, half) for half in halves]
    tokens = np.array([float(half.completions.mask_BxT.sum()) for half in halves])
    share = tokens / tokens.sum()
    assert share[0] != share[1]
    assert float(whole) == pytest.approx(
        sum(s * float(loss) for s, ((loss, _), _) in zip(share, results, strict=True)), rel=1e-5
    )
    for name, (total, weight) in metrics.items():
        parts = [part[name] for (_, part), _ in results]
        assert float(total) == pytest.approx(sum(float(s) for s, _ in parts), rel=1e-4, abs=1e-4)
        assert float(weight) == sum(float(w) for _, w in parts) == tokens.sum()
    both = jax.tree.map(
        lambda a, b: share[0] * np.asarray(a) + share[1] * np.asarray(b), *(g for _, g in results)
    )
    for want, got in zip(jax.tree.leaves(both), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_gradients_of_the_loss_are_those_of_finite_differences(frozen, later, rollout):
    """Along one random direction; values are stepped symmetrically, so the second order cancels."""
    params = later[0].params
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    way = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])
    gradients = jax.tree.leaves(differentiate(frozen, params, rollout)[1])
    slope = sum(float(jnp.sum(g * w)) for g, w in zip(gradients, jax.tree.leaves(way), strict=True))

    def along(size: float) -> float:
        moved = jax.tree.map(lambda p, w: p + size * w, params, way)
        return float(differentiate(frozen, moved, rollout)[0][0])

    assert slope == pytest.approx((along(1e-3) - along(-1e-3)) / 2e-3, rel=0.03, abs=1e-3)
    assert abs(slope) > 1e-2


def test_padding_behind_the_end_changes_neither_loss_nor_gradient(frozen, later, rollout):
    ids, mask = rollout.completions
    assert not mask.all()
    dirty = rollout._replace(completions=Completions(jnp.where(mask, ids, 7), mask))
    assert same(
        differentiate(frozen, later[0].params, rollout), differentiate(frozen, later[0].params, dirty)
    )


def test_the_coefficient_follows_the_kl(first, later):
    # far below the target of 6 nats, a fall by 20 % of samples / horizon
    fall = 1 - 0.2 * PICTURES / 100.0
    assert float(first[0].kl_coef) == pytest.approx(CONFIG.kl_coef * fall, rel=1e-5)
    assert float(later[0].kl_coef) == pytest.approx(CONFIG.kl_coef * fall**3, rel=1e-5)
    assert later[1]["objective/kl_coef"] == pytest.approx(CONFIG.kl_coef * fall**2, rel=1e-5)


def test_it_is_compiled_once_whatever_the_rates_and_sends_nothing_to_the_host(step, start, frozen):
    state, _ = step(start, frozen)
    hypers = [
        HYPER,
        ppo.Hyper.of(dataclasses.replace(CONFIG, clip=0.3, gamma=0.5, weights=RewardWeights(1.0, 0.0, 2.0))),
        HYPER._replace(temperature=jnp.asarray(0.5), kl_horizon=jnp.asarray(jnp.inf)),
    ]
    keys = [jax.random.key(seed) for seed in range(3)]
    with jax.transfer_guard("disallow"):
        for hyper, key in zip(hypers, keys, strict=True):
            state, metrics = step(state, frozen, hyper, key)
    jax.block_until_ready((state, metrics))
    assert len(step.traces) == 1


def test_the_guard_would_notice_an_input_from_the_host():
    double = jax.jit(lambda x: 2 * x)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
        double(np.ones(3, np.float32))


def test_rates_are_not_frozen_into_the_program(step, start, frozen):
    usual, _ = step(start, frozen)
    for name, value in {"learning_rate": 0.0, "gamma": 0.0, "missing_end_penalty": 9.0}.items():
        other, _ = step(start, frozen, HYPER._replace(**{name: jnp.asarray(value)}))
        assert not same(usual.params, other.params), name
        assert name != "learning_rate" or same(other.params, start.params)


def test_a_gradient_that_is_not_a_number_changes_nothing_and_is_counted(step, several, later, frozen):
    state, _ = later
    for update in (step, several):
        after, metrics = update(state, frozen, HYPER._replace(value_weight=jnp.asarray(jnp.nan)))
        assert same(after.params, state.params) and same(after.opt_state, state.opt_state)
        assert finalize(metrics)["skipped_steps"] == 1.0
        assert int(after.step) == int(state.step) + 1
    healthy = finalize(step(state, frozen)[1])
    assert healthy["skipped_steps"] == 0.0 and healthy["grad_norm"] > 0


def test_a_seed_is_reproduced_bit_for_bit_and_another_one_differs(several, start, frozen):
    one, again = several(start, frozen), several(start, frozen)
    assert same(one, again)
    other = several(start, frozen, key=jax.random.key(1))
    assert not same(one[0].params, other[0].params)
    assert finalize(one[1])["objective/scores"] != finalize(other[1])["objective/scores"]


def test_steps_sample_anew(step, start, frozen):
    """The same policy at two step numbers writes other completions, even of one and the same picture."""
    alike = frozen._replace(views=tiled(jax.tree.map(lambda leaf: leaf[:1], frozen.views), PICTURES))
    still = HYPER._replace(learning_rate=jnp.asarray(0.0))
    one = finalize(step(start, alike, still)[1])
    other = finalize(step(start._replace(step=jnp.asarray(1, jnp.int32)), alike, still)[1])
    assert one["objective/scores"] != other["objective/scores"]


def test_without_the_other_weights_the_total_is_the_preference_alone(step, start, frozen):
    alone = ppo.Hyper.of(dataclasses.replace(CONFIG, missing_end_penalty=0.0, weights=RewardWeights(0, 0, 1)))
    metrics = finalize(step(start, frozen, alone)[1])
    assert metrics["rewards/fluency/weighted"] == metrics["rewards/image_accuracy/weighted"] == 0.0
    want = (metrics["rewards/preference/mean"] - 0.5) / 0.5
    assert metrics["objective/scores"] == pytest.approx(want, abs=1e-4)


def test_hyper_takes_every_rate_from_the_config():
    values = {
        name: 0.01 * (i + 1)
        for i, name in enumerate(ppo.Hyper._fields)
        if name not in ("learning_rate", "dual_clip", "weights")
    }
    config = PPOConfig(
        **{**values, "kl_horizon": 1e6, "dual_clip": 3.0},
        weights=RewardWeights(0.1, 0.2, 0.3),
        optimizer=OptimizerConfig(learning_rate=0.7),
    )
    hyper = ppo.Hyper.of(config)
    for name, value in {**values, "kl_horizon": 1e6, "dual_clip": 3.0, "learning_rate": 0.7}.items():
        assert float(getattr(hyper, name)) == pytest.approx(value)
    got = {name: float(value) for name, value in hyper.weights.items()}
    weights = {"fluency": 0.1, "image_accuracy": 0.2, "preference": 0.3}
    assert got == pytest.approx(dict.fromkeys(got, 0.0) | weights)


def test_the_normaliser_is_that_of_samples_of_the_reference(frozen, monkeypatch):
    """For a term whose mean is known: whether the first token is a certain one."""
    token, temperature = 7, 0.5

    def first_token(judges, views, completions):
        return {"first": (completions.ids_BxT[:, 0] == token).astype(jnp.float32)}

    monkeypatch.setattr(rollouts, "raw_terms", first_token)
    config = dataclasses.replace(CONFIG, temperature=temperature)
    looked = frozen._replace(views=tiled(frozen.views, 16))
    (mean, std), by_picture = rollouts.reference_statistics(NETWORKS, config, looked, KEY)

    nothing = Completions(jnp.zeros((PICTURES, 1), jnp.int32), jnp.ones((PICTURES, 1), bool))
    policy = NETWORKS.policy.bind(frozen.reference)
    logits = policy.score(frozen.views.policy_NxPxD, *begin_prompts(PICTURES), *nothing).logits_BxTxV
    allowed = np.where(NETWORKS.forbidden, -np.inf, np.asarray(logits[:, 0]) / temperature)
    chance_P = np.exp(allowed)[:, token] / np.exp(allowed).sum(-1)
    chance = chance_P.mean()
    spread = np.sqrt(chance * (1 - chance))
    assert float(mean["first"]) == pytest.approx(chance, abs=4 * spread / np.sqrt(64 * PICTURES))
    assert float(std["first"]) == pytest.approx(spread, rel=0.3)
    assert by_picture["first"].shape == (16 * PICTURES,)
    own_P = np.asarray(by_picture["first"]).reshape(16, PICTURES).mean(axis=0)
    noise_P = np.sqrt(chance_P * (1 - chance_P) / (16 * rollouts.REFERENCE_SAMPLES))
    assert np.all(np.abs(own_P - chance_P) < 4.5 * noise_P + 1e-6)


UNIT = Normaliser({name: jnp.asarray(0.0) for name in TERMS}, {name: jnp.asarray(1.0) for name in TERMS})


def only(values: jax.Array) -> dict[str, jax.Array]:
    """Raw terms of which the preference alone says something."""
    return {name: values if name == "preference" else jnp.zeros_like(values) for name in TERMS}


def train(step: Step, config: PPOConfig, frozen: Frozen, steps: int) -> list[dict[str, float]]:
    """The metrics of `steps` iterations."""
    state, hyper = ppo.init_state(frozen.reference, config), ppo.Hyper.of(config)
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


def test_prompts_begin_with_the_begin_token():
    prompts = begin_prompts(3)
    np.testing.assert_array_equal(prompts.ids_BxL, [[1]] * 3)
    assert np.asarray(prompts.mask_BxL).all()

"""One PPO iteration on tiny networks: what must hold exactly, whatever the numbers are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.reward.composite import TERMS
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training.config import RewardWeights
from mmrlhf_jax.training.networks import FROZEN_PARTS, Frozen
from mmrlhf_jax.types import PolicyState
from tests.ppo_steps import CONFIG, HYPER, KEY, Step, compiled, same, tiled
from tests.tiny_networks import LENGTH, PICTURES, make_frozen

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return make_frozen()


@pytest.fixture(scope="module")
def start(frozen) -> PolicyState:
    return ppo.init_state(frozen.reference, CONFIG, KEY)


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

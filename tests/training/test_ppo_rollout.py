"""A rollout of PPO on tiny networks, and the loss on it with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.rl.objective import LossRates, loss_weight, objective
from mmrlhf_jax.training import policy as ppo
from mmrlhf_jax.training.adaptation import bind
from mmrlhf_jax.training.networks import Frozen
from mmrlhf_jax.types import Completions, PolicyState, Rollout
from tests.ppo_steps import CONFIG, HYPER, KEY, compiled, same, tiled
from tests.tiny_networks import NETWORKS, make_frozen

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return make_frozen()


@pytest.fixture(scope="module")
def start(frozen) -> PolicyState:
    return ppo.init_state(frozen.reference, CONFIG, KEY)


@pytest.fixture(scope="module")
def later(start, frozen) -> PolicyState:
    """The state after three iterations: the policy has left the reference."""
    state, step = start, compiled(CONFIG)
    for _ in range(3):
        state, _ = step(state, frozen)
    return state


@jax.jit
def roll(frozen: Frozen, state: PolicyState) -> Rollout:
    """A rollout of four completions a picture, as `update_step` makes it."""
    policy = bind(NETWORKS.policy, frozen.reference, state.params, 1.0)
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
        fresh = ppo.reread(NETWORKS, frozen.reference, params, batch, HYPER)
        return objective(CONFIG.choices, fresh, batch, rates, weight)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.fixture(scope="module")
def rollout(frozen, later) -> Rollout:
    return roll(frozen, later)


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
    (whole, metrics), gradients = differentiate(frozen, later.params, rollout)
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part::2], rollout) for part in range(2)]
    results = [differentiate(frozen, later.params, half) for half in halves]
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
    params = later.params
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
    assert same(differentiate(frozen, later.params, rollout), differentiate(frozen, later.params, dirty))


def test_prompts_begin_with_the_begin_token():
    prompts = begin_prompts(3)
    np.testing.assert_array_equal(prompts.ids_BxL, [[1]] * 3)
    assert np.asarray(prompts.mask_BxL).all()

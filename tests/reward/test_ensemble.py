"""Ensembles: every member is a reward model of its own, and the pooled rewards are what they are called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.config import EnsembleConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import define
from mmrlhf_jax.reward.ensemble import MEMBER_PARTS, RewardEnsemble, bootstrap_weights, pool
from mmrlhf_jax.reward.model import Judged, RewardModel, Seen
from tests.parameters import draw
from tests.reward.sizes import CLIP, IDS, MASK

REWARDS = np.array([[1.0, -2.0, 0.5], [3.0, 2.0, 0.5], [2.0, 3.0, 0.5], [0.0, 1.0, 0.5]], np.float32)
MEMBERS = 3


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("mean", [1.5, 1.0, 0.5]),
        ("worst", [0.0, -2.0, 0.5]),
        ("mean_minus_variance", [1.5 - 0.4 * 1.25, 1.0 - 0.4 * 3.5, 0.5]),
    ],
)
def test_pooled_rewards(pooling, wanted):
    np.testing.assert_allclose(pool(jnp.asarray(REWARDS), pooling, 0.4), wanted, rtol=1e-6)


def test_disagreement_is_the_members_spread():
    judged = Judged(jnp.asarray(REWARDS[0]), None, jnp.asarray(REWARDS))
    np.testing.assert_allclose(judged.disagreement_B, REWARDS.std(axis=0), rtol=1e-6)
    alone = Judged(jnp.asarray(REWARDS[0]), None)
    assert alone.members_KxB.shape == (1, 3) and not np.any(alone.disagreement_B)


def test_bootstrap_weights_are_counts_of_resamples():
    key = jax.random.key(0)
    multinomial = np.asarray(bootstrap_weights(key, 4, 2000, "multinomial"))
    poisson = np.asarray(bootstrap_weights(key, 4, 2000, "poisson"))
    np.testing.assert_array_equal(multinomial.sum(axis=1), 2000)
    for weights in (multinomial, poisson):
        assert weights.dtype == np.float32 and (weights == weights.round()).all() and weights.min() == 0
        np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.1)
        np.testing.assert_allclose(weights.var(axis=1), 1, atol=0.15)
        # (1 - 1/n)^n: the share that a bootstrap leaves out
        np.testing.assert_allclose((weights == 0).mean(axis=1), np.exp(-1), atol=0.04)
        assert np.abs(np.corrcoef(weights) - np.eye(4)).max() < 0.1, "members resample on their own"
    assert poisson.sum() != poisson.size
    np.testing.assert_array_equal(bootstrap_weights(key, 2, 5, "none"), np.ones((2, 5)))


@pytest.mark.parametrize("kind", ["poisson", "multinomial"])
def test_a_members_resample_does_not_depend_on_the_others(kind):
    few, many = (bootstrap_weights(jax.random.key(3), members, 50, kind) for members in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_impossible_ensembles_are_refused():
    for wrong in ({"members": 0}, {"kind": "towers"}, {"pooling": "median"}, {"variance_weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            EnsembleConfig(**wrong)


@functools.cache
def ensemble(kind: str, pooling: str = "mean"):
    """The definition, parameters, and the compiled judgement."""
    config = RewardConfig(CLIP, "weighted_sum", 8, ensemble=EnsembleConfig(MEMBERS, kind, pooling, 0.4))
    definition = define(lambda rngs: RewardEnsemble(config, rngs=rngs))
    params = draw(definition.abstract()) | {"level": jnp.zeros(MEMBERS)}
    return definition, params, jax.jit(lambda params, *inputs: definition.bind(params).judge(*inputs))


SINGLE = define(lambda rngs: RewardModel(RewardConfig(CLIP, "weighted_sum", 8), rngs=rngs))


@pytest.fixture(scope="module")
def seen() -> Seen:
    noise = np.random.default_rng(0)
    tokens, embed = (jnp.asarray(noise.normal(size=shape), jnp.float32) for shape in ((2, 5, 8), (2, 8)))
    return Seen(tokens, embed)


def member(params: dict, kind: str, k: int) -> dict:
    """The parameters of the single model that member `k` is."""
    own = {name: jax.tree.map(lambda leaf: leaf[k], params[name]) for name in MEMBER_PARTS[kind]}
    return {
        name: own.get(name, part) for name, part in params.items() if name not in ("variance_weight", "level")
    }


@pytest.mark.medium
@pytest.mark.parametrize("kind", list(MEMBER_PARTS))
def test_every_member_is_a_reward_model_of_its_own(kind, seen):
    _, params, judge = ensemble(kind)
    assert params["fusion"]["null"].shape == ((3, 2, 8) if kind == "fusions" else (2, 8))
    assert params["head"]["kernel"].shape == (3, 8, 1) and params["captioner_weight"].shape == (3,)
    judged = judge(params, seen, IDS, MASK)
    single = jax.jit(lambda params: SINGLE.bind(params).judge(seen, IDS, MASK))
    alone = [single(member(params, kind, k)) for k in range(MEMBERS)]
    np.testing.assert_allclose(judged.rewards_KxB, [one.reward_B for one in alone], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(judged.weights_BxM, np.mean([one.weights_BxM for one in alone], axis=0), 1e-4)
    np.testing.assert_allclose(judged.reward_B, np.mean(judged.rewards_KxB, axis=0), rtol=1e-5)
    assert np.all(judged.disagreement_B > 1e-3)


@pytest.mark.medium
def test_the_variance_counts_as_the_parameter_says_without_a_new_program(seen):
    _, params, judge = ensemble("fusions", "mean_minus_variance")
    for weight in (0.0, 0.7):
        judged = judge({**params, "variance_weight": jnp.asarray(weight, jnp.float32)}, seen, IDS, MASK)
        mean, var = np.mean(judged.rewards_KxB, axis=0), np.var(judged.rewards_KxB, axis=0)
        np.testing.assert_allclose(judged.reward_B, mean - weight * var, rtol=1e-4, atol=1e-5)
    assert judge._cache_size() == 1


@pytest.mark.medium
def test_members_start_apart_and_the_first_one_as_the_single_model_would():
    definition, _, _ = ensemble("fusions")
    key = jax.random.key(7)
    params = definition.init(key, without=("clip",))
    single = SINGLE.init(key, without=("clip",))
    for name in ("fusion", "head"):
        jax.tree.map(
            lambda k, one: np.testing.assert_allclose(k[0], one, rtol=1e-6), params[name], single[name]
        )
    kernels = np.asarray(params["head"]["kernel"])[..., 0]
    assert np.abs(np.corrcoef(kernels) - np.eye(MEMBERS)).max() < 0.95
    assert float(params["variance_weight"]) == pytest.approx(0.4)

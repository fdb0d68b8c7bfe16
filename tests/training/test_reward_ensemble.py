"""Training of ensembles and of many seeds at once; an ensemble in its folder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, RewardConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.config import EnsembleConfig, OptimizerConfig, PoolingConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import save_model
from mmrlhf_jax.reward.define import define_reward_model, load_reward_model
from mmrlhf_jax.reward.ensemble import MEMBER_PARTS
from mmrlhf_jax.reward.transfer import split_towers
from mmrlhf_jax.training import reward
from mmrlhf_jax.training.config import JudgementAugmentConfig, RewardStageConfig
from mmrlhf_jax.training.judgements import Judgements, member_rewards, rewards
from mmrlhf_jax.training.learning_curve import rows_of_share
from mmrlhf_jax.training.lessons import Lessons, with_views
from mmrlhf_jax.training.objectives import Comparisons
from tests.parameters import draw

pytestmark = pytest.mark.medium

TOWER = TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)
CLIP = CLIPConfig(VisionConfig(8, 4, TOWER), TextConfig(32, 4, TOWER), 8)
ENSEMBLE = RewardConfig(CLIP, "concat", 8, ensemble=EnsembleConfig(3, variance_weight=0.5))
SINGLE = define_reward_model(dataclasses.replace(ENSEMBLE, ensemble=EnsembleConfig()))
MODEL = define_reward_model(ENSEMBLE)
CONFIG = RewardStageConfig(
    batch=6,
    steps=40,
    augment=JudgementAugmentConfig(shift=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, max_grad_norm=1e6),
)
FROZEN = dataclasses.replace(CONFIG, transfer="frozen")
random = np.random.default_rng(0)
JUDGEMENTS = Judgements(
    jnp.asarray(random.integers(0, 256, (4, 8, 8, 3)), jnp.uint8),
    jnp.asarray(random.integers(0, 4, (6, 1)), jnp.int32),
    jnp.asarray(random.integers(3, 32, (6, 2, 4)), jnp.int32),
    {},
)
CLIP_PARAMS = draw(SINGLE.abstract()["clip"])
KEY = jax.random.key(0)
OBJECTIVE = Comparisons()


def lessons(weights_KxR) -> Lessons:
    may_N, nothing = jnp.ones(4, bool), jnp.zeros(1, bool)
    return Lessons(JUDGEMENTS, None, may_N, may_N, nothing, jnp.asarray(weights_KxR, jnp.float32))


def start(model, config=CONFIG, key=KEY):
    """(state, parameters that stay)."""
    trained, kept = split_towers("clip", CLIP_PARAMS, config.transfer, key, rank=2)
    return reward.init_state(model, OBJECTIVE, trained, config, key), kept


@functools.cache
def compiled(model, config=CONFIG):
    return jax.jit(functools.partial(reward.update_step, model, OBJECTIVE, config))


def told(params):
    """All but the head's bias: its gradient cancels between two answers, and its rounding becomes a step."""
    return {**params, "head": {"kernel": params["head"]["kernel"]}}


def part(params, k: int):
    """The parts that member `k` has of its own."""
    return {name: jax.tree.map(lambda leaf: leaf[k], params[name]) for name in MEMBER_PARTS["fusions"]}


def test_a_member_learns_from_its_own_resample_alone():
    """Weights of zero leave a member as it was; equal weights of other members change nothing in it."""
    update, (state, kept) = compiled(MODEL, FROZEN), start(MODEL, FROZEN)
    weights = np.array([[1, 2, 0, 1, 1, 1], [0] * 6, [3, 0, 0, 0, 2, 1]])
    after, metrics = update(state, kept, lessons(weights), KEY)
    other, _ = update(state, kept, lessons(weights * np.array([[1], [5], [0]])), KEY)
    moved = [distance(part(after.params, k), part(state.params, k)) for k in range(3)]
    assert moved[0] > 1e-3 and moved[2] > 1e-3 and moved[1] == 0
    jax.tree.map(np.testing.assert_array_equal, part(after.params, 0), part(other.params, 0))
    assert np.asarray(metrics["loss"][0]) > 0
    assert float(after.params["variance_weight"]) == 0.5 and not np.any(after.params["level"])


def distance(one, other) -> float:
    """The largest difference of two pytrees."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)))


def test_a_members_step_is_the_single_models():
    """The members' gradients are a third of the single model's, which Adam does not see."""
    # Without its epsilon, which a third of a small gradient would feel and the whole of it would not.
    exact = dataclasses.replace(FROZEN, optimizer=dataclasses.replace(FROZEN.optimizer, eps=1e-30))
    update, (state, kept) = compiled(MODEL, exact), start(MODEL, exact)
    after, _ = update(state, kept, lessons(np.ones((3, 6))), KEY)
    single, (_, _) = compiled(SINGLE, exact), start(SINGLE, exact)
    for k in range(3):
        own = part(state.params, k)
        alone = reward.TrainState(state.step, own, reward.reward_optimizer(exact, own).init(own))
        moved, _ = single(alone, kept, lessons(np.ones((1, 6))), KEY)
        pair = told(part(after.params, k)), told(moved.params)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, atol=2e-4), *pair)


def test_many_seeds_are_one_program_and_each_is_the_single_run():
    traces = []

    def update(state, kept, taught, key):
        traces.append(1)
        return reward.update_step(SINGLE, OBJECTIVE, CONFIG, state, kept, taught, key)

    keys = jax.random.split(KEY, 2)
    taught = lessons(np.ones((1, 6)))
    states = jax.vmap(lambda key: start(SINGLE, key=key)[0])(keys)
    together = jax.jit(jax.vmap(update, in_axes=(0, None, None, 0)))
    for _ in range(2):
        states, metrics = together(states, {}, taught, keys)
    assert len(traces) == 1 and metrics["loss"][0].shape == (2,)
    for k in range(2):
        state = start(SINGLE, key=keys[k])[0]
        for _ in range(2):
            state, _ = compiled(SINGLE)(state, {}, taught, keys[k])
        own = jax.tree.map(lambda leaf, k=k: leaf[k], states.params)
        assert distance(told(own), told(state.params)) < 1e-4


def test_frozen_pictures_are_encoded_once_and_give_the_same_step():
    state, kept = start(SINGLE, FROZEN)
    taught = lessons(np.ones((1, 6)))
    seeing = with_views(taught, SINGLE, {**kept, **state.params}, FROZEN.augment, KEY)
    assert seeing.seen.tokens_BxPxD.shape[:2] == (4, 1)
    plain, quick = (compiled(SINGLE, FROZEN)(state, kept, seen, KEY)[0] for seen in (taught, seeing))
    assert distance(told(plain.params), told(quick.params)) < 1e-4
    varied = dataclasses.replace(FROZEN.augment, shift=2.0)
    views = np.asarray(with_views(taught, SINGLE, {**kept, **state.params}, varied, KEY).seen.embed_BxE)
    assert views.shape[:2] == (4, 4) and np.abs(views[:, 1:] - views[:, :1]).max(axis=2).min() > 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble")
    params = draw(MODEL.abstract())
    save_model(path / "model", ENSEMBLE, reward.levelled(MODEL, params, JUDGEMENTS))
    save_model(
        path / "single", dataclasses.replace(ENSEMBLE, ensemble=EnsembleConfig()), draw(SINGLE.abstract())
    )
    return path


def test_an_ensemble_comes_back_and_is_pooled_as_asked(folder):
    model, params = load_reward_model(folder / "model")
    members = member_rewards(model, params, JUDGEMENTS)
    means = members.mean(axis=(0, 2))
    np.testing.assert_allclose(means, means.mean(), atol=1e-4, err_msg="members are on one level")
    assert members.shape == (6, 3, 2)
    np.testing.assert_allclose(rewards(model, params, JUDGEMENTS), members.mean(axis=1), atol=1e-5)
    for pooling, want in (
        ("worst", members.min(axis=1)),
        ("mean_minus_variance", members.mean(axis=1) - 0.2 * members.var(axis=1)),
    ):
        again, params = load_reward_model(folder / "model", PoolingConfig(pooling, 0.2))
        np.testing.assert_allclose(rewards(again, params, JUDGEMENTS), want, atol=1e-4)
    load_reward_model(folder / "single")
    with pytest.raises(UserError, match="single reward model"):
        load_reward_model(folder / "single", PoolingConfig("worst"))


def test_a_model_that_reads_other_tokens_is_refused(folder):
    one, other = (
        CaptionTokenizer.train([text], vocab_size=300) for text in ("a dog, a dog", "the cat, the cat")
    )
    one.save(folder / "model")
    load_reward_model(folder / "model", tokenizer=one)
    for wrong, tokenizer in ((folder / "model", other), (folder / "single", one)):
        with pytest.raises(UserError, match="other tokens"):
            load_reward_model(wrong, tokenizer=tokenizer)


def test_measures_of_an_ensemble_tell_where_it_disagrees(folder, capsys):
    model, params = load_reward_model(folder / "model")
    result = reward.measure(model, OBJECTIVE, params, JUDGEMENTS)
    members = member_rewards(model, params, JUDGEMENTS)
    spread = (members[..., 0] - members[..., 1]).std(axis=1)
    assert result["disagreement"]["mean"] == pytest.approx(spread.mean(), rel=1e-4)
    right = rewards(model, params, JUDGEMENTS) @ np.array([1, -1]) > 0
    agreeing = np.argsort(spread)[:3]
    assert result["disagreement"]["accuracy_agreeing"] == pytest.approx(right[agreeing].mean())
    reward.print_measures({"held_out": result, "raters_agreement": 0.8})
    shown = capsys.readouterr().out
    assert "calibration_error" in shown and "disagreement/mean" in shown and len(shown.splitlines()) == 1


def test_shares_of_the_judgements_contain_one_another():
    few, more, every = (np.asarray(rows_of_share(KEY, 40, share)) for share in (0.1, 0.3, 1.0))
    assert few.shape == more.shape == every.shape == (40,)
    assert len(set(few)) == 4 and len(set(more)) == 12 and len(set(every)) == 40
    assert set(few) < set(more) and np.bincount(few).max() == 10
    assert len(set(np.asarray(rows_of_share(KEY, 40, 0.001)))) == 1

"""One step of reward training on a tiny model, for judgements of every shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, RewardConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.data.ratings import RatingSet, write_ratings
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.training import reward
from mmrlhf_jax.training.config import JudgementAugmentConfig, RewardStageConfig
from mmrlhf_jax.training.config.loss import LossConfig
from mmrlhf_jax.training.judgements import encode, judge, rewards
from mmrlhf_jax.training.lessons import make_lessons
from mmrlhf_jax.training.objectives import objective_of
from mmrlhf_jax.training.setting import load_preferences
from tests.parameters import draw

pytestmark = pytest.mark.medium  # compiles for long

TOWER = TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)
CLIP = CLIPConfig(VisionConfig(8, 4, TOWER), TextConfig(32, 4, TOWER), 8)
MODEL = define_reward_model(RewardConfig(CLIP, "weighted_sum", 8))
PARAMS = draw(MODEL.abstract())
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
CONFIG = RewardStageConfig(
    fusion_width=8,
    batch=6,
    steps=60,
    augment=JudgementAugmentConfig(shift=0.0),
    optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=1, weight_decay=0.0),
)
INDEX = np.array([0, 1, 2, 3, 0, 1], np.int32)
ANSWERS = ["abc", "bd", "cab", "de", "ea", "b"]
LOSS = LossConfig(0.0, ties="davidson")


class Letters:
    """Stands for the tokenizer: each letter a token, and the end."""

    def encode_batch(self, texts, max_length):
        rows = [[*(ord(letter) - 90 for letter in text), 2][:max_length] for text in texts]
        return np.array([row + [0] * (max_length - len(row)) for row in rows], np.int32)


def pairs() -> PreferenceSet:
    tie = np.array([True, False, False, True, False, False])
    return PreferenceSet(
        PICTURES,
        INDEX,
        [""] * 6,
        ANSWERS,
        ANSWERS[::-1],
        rejected_image_index_P=INDEX[::-1].copy(),
        tie_P=tie,
    )


def ratings() -> RatingSet:
    stars = np.array([1, 2, 5, 3, np.nan, 4], np.float32)
    columns = {"truth": stars, "style": np.array([1, 1, 2, 2, 1, 2], np.float32)}
    return RatingSet(PICTURES, INDEX, [""] * 6, ANSWERS, columns, {"truth": (1, 5), "style": (1, 5)})


def clicks() -> ClickLog:
    shown = [ANSWERS[:3], ANSWERS[2:4], ANSWERS[3:], ANSWERS[:2], ANSWERS[:3], ANSWERS[1:4]]
    length = np.array([len(answers) for answers in shown])
    position = np.where(np.arange(3) < length[:, None], np.arange(3), -1).astype(np.int32)
    clicked = np.zeros((6, 3), bool)
    clicked[np.arange(6), [0, 1, 2, 0, 1, 0]] = True
    everywhere = [True] * 6
    return ClickLog(PICTURES, INDEX, [""] * 6, shown, position, clicked, extras={"random_order": everywhere})


def start(judged):
    """Objective, judgements, state and the compiled step of these judgements."""
    objective = objective_of(judged, LOSS)
    judgements = objective.to_device(judged, Letters(), 4, learn=True)
    params = {name: part for name, part in PARAMS.items()}
    learned = objective.init()
    if learned:
        params[reward.LEARNED] = learned
    optimizer = reward.reward_optimizer(CONFIG, params)
    state = reward.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    state = reward.anchor(MODEL, objective, CONFIG, state, {}, judgements)
    update = jax.jit(functools.partial(reward.update_step, MODEL, objective, CONFIG))
    lessons = make_lessons(judgements, Letters(), CONFIG.augment, jax.random.key(0))
    return objective, judgements, state, lambda state: update(state, {}, lessons, jax.random.key(0))


@pytest.mark.parametrize("judged", [pairs(), ratings(), clicks()], ids=["pairs", "ratings", "clicks"])
def test_a_step_takes_the_objectives_loss_and_learning_lowers_it(judged):
    objective, judgements, state, update = start(judged)
    learned, networks = reward.split_learned(state.params)
    reward_RxS = rewards(MODEL, networks, judgements)
    assert reward_RxS.shape == judgements.ids_RxSxT.shape[:2]
    want = np.mean(objective.losses(learned, jnp.asarray(reward_RxS), judgements.said))
    state, metrics = update(state)  # the batch is the whole set
    first = finalize(metrics)
    assert first["loss"] == pytest.approx(float(want), rel=1e-4)
    assert set(objective.shown) <= set(first)
    for _ in range(59):
        state, metrics = update(state)
    assert finalize(metrics)["loss"] < first["loss"] - 0.02
    moved, _ = reward.split_learned(state.params)
    jax.tree.map(
        lambda now, before: np.testing.assert_array_less(0, np.abs(now - before).max()), moved, learned
    )
    measured = reward.measure(MODEL, objective, state.params, judgements)
    assert {objective.headline, f"{objective.headline}_picture_shuffled"} <= set(measured)


def test_every_answer_is_judged_with_its_own_picture():
    """All at once as one by one; a picture that answers share is encoded once."""
    _, judgements, _, _ = start(pairs())

    @jax.jit
    def judge_one(params, pixels, ids):
        bound = MODEL.bind(params)
        return judge(bound, encode(bound, pixels), ids).reward_B

    def alone(image_index, ids):
        pixels = to_pixels(judgements.image_NxHxWxC[np.asarray(image_index)])
        return judge_one(PARAMS, pixels[:, None], ids[:, None])

    index_RxI, ids_RxSxT = judgements.image_index_RxI, judgements.ids_RxSxT
    got = rewards(MODEL, PARAMS, judgements)
    for side in range(2):
        np.testing.assert_allclose(got[:, side], alone(index_RxI[:, side], ids_RxSxT[:, side]), atol=1e-5)
    shared = rewards(MODEL, PARAMS, judgements._replace(image_index_RxI=index_RxI[:, :1]))
    np.testing.assert_allclose(shared[:, 1], alone(index_RxI[:, 0], ids_RxSxT[:, 1]), atol=1e-5)
    assert np.abs(shared[:, 1] - got[:, 1]).max() > 1e-3


def test_thresholds_start_where_the_rewards_are():
    objective, judgements, state, _ = start(ratings())
    mean = float(np.mean(rewards(MODEL, PARAMS, judgements)))
    assert abs(mean) > 0.05
    for got, want in zip(
        jax.tree.leaves(state.params[reward.LEARNED]), jax.tree.leaves(objective.init(mean)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_file_decides_what_is_read(tmp_path):
    """A file of one's own is split by picture; one of ratings is measured on held-out comparisons too."""
    write_ratings(tmp_path / "mine.jsonl", ratings())
    config = RewardStageConfig(run=tmp_path / "run", preferences=tmp_path / "mine.jsonl")
    parts = load_preferences(config, 8)
    assert set(parts) == {"train", "held_out"} and all(isinstance(part, RatingSet) for part in parts.values())
    assert not set(parts["train"].image_index_R) & set(parts["held_out"].image_index_R)
    for name in ("held_out", "held_out_rubric"):
        write_preferences(config.folder("collect") / f"{name}.parquet", pairs())
    assert set(load_preferences(config, 8)) == {"train", "held_out", "raters", "rubric"}

"""Features on disk train the reward model that features in memory train, and are made once."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, RewardConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.features import MappedRows
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.reward.define import define_reward_model
from mmrlhf_jax.reward.transfer import split_towers
from mmrlhf_jax.training import frozen_views, lessons, reward
from mmrlhf_jax.training.config import JudgementAugmentConfig, RewardStageConfig
from mmrlhf_jax.training.frozen_views import is_mapped, lesson_stream, look_once
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.lessons import make_lessons
from mmrlhf_jax.training.objectives import Comparisons
from mmrlhf_jax.training.pictures import order_key

pytest.importorskip("grain", reason="the extra data is not installed")
pytestmark = pytest.mark.medium

TOWER = TransformerConfig(16, 1, 2, 16)
MODEL = define_reward_model(
    RewardConfig(CLIPConfig(VisionConfig(16, 8, TOWER), TextConfig(280, 8, TOWER), 8), "weighted_sum", 8)
)
TOKENIZER = CaptionTokenizer.train(["a dog", "a cat"], 280)
OBJECTIVE, KEY = Comparisons(), jax.random.key(4)
CONFIG = RewardStageConfig(
    steps=6, batch=4, transfer="frozen", augment=JudgementAugmentConfig(shift=2.0, word_dropout=0.3)
)
PICTURES, ROWS = 7, 10
random = np.random.default_rng(0)
JUDGEMENTS = Judgements(
    jnp.asarray(random.integers(0, 256, (PICTURES, 16, 16, 3)), jnp.uint8),
    jnp.asarray(random.integers(0, PICTURES, (ROWS, 1)), jnp.int32),
    jnp.asarray(random.integers(3, 259, (ROWS, 2, 8)), jnp.int32),
    {"margin": jnp.asarray(random.uniform(size=ROWS), jnp.float32)},
)
TAUGHT = make_lessons(JUDGEMENTS, TOKENIZER, CONFIG.augment, KEY)
PARAMS = MODEL.init(KEY)
TRAINED, FROZEN = split_towers("clip", PARAMS["clip"], "frozen", KEY, rank=2)


def looked(folder: Path, config: RewardStageConfig = CONFIG, taught=TAUGHT, frozen=FROZEN):
    return look_once(config, folder, taught, MODEL, PARAMS, frozen, KEY)


@pytest.fixture(scope="module")
def in_memory():
    return looked(Path("never written"))


def test_small_features_stay_in_memory_and_are_kept_where_that_is_wanted(
    in_memory, tmp_path: Path, monkeypatch
):
    assert not Path("never written").exists() and not is_mapped(in_memory)
    config = dataclasses.replace(CONFIG, features=tmp_path / "kept")
    kept = looked(tmp_path / "stage", config)
    assert not is_mapped(kept) and not (tmp_path / "stage").exists()
    jax.tree.map(np.testing.assert_array_equal, kept.seen, in_memory.seen)

    def never(*_):
        raise AssertionError("the pictures were looked at again")

    monkeypatch.setattr(lessons, "varied", never)
    monkeypatch.setattr(lessons, "view_shapes", lambda *_: jax.eval_shape(lambda: in_memory.seen))
    monkeypatch.setattr(frozen_views, "view_shapes", lambda *_: jax.eval_shape(lambda: in_memory.seen))
    jax.tree.map(np.testing.assert_array_equal, looked(tmp_path / "stage", config).seen, in_memory.seen)


def test_features_of_another_tower_or_set_are_refused_or_made_anew(tmp_path: Path, monkeypatch):
    config = dataclasses.replace(CONFIG, features=tmp_path)
    looked(tmp_path, config)
    other = jax.tree.map(lambda leaf: leaf + 1, FROZEN)
    with pytest.raises(UserError, match="features of another model"):
        looked(tmp_path, config, frozen=other)
    darker = TAUGHT._replace(judgements=JUDGEMENTS._replace(image_NxHxWxC=JUDGEMENTS.image_NxHxWxC // 2))
    with pytest.raises(UserError, match="features of another data"):
        looked(tmp_path, config, darker)
    with pytest.raises(UserError, match="features of another views"):
        looked(tmp_path, dataclasses.replace(config, augment=JudgementAugmentConfig(shift=3.0)))
    monkeypatch.setattr(frozen_views, "IN_MEMORY", 0)
    stage = tmp_path / "stage"
    before = np.array(looked(stage).seen.tokens_BxPxD[:])
    assert np.abs(looked(stage, taught=darker).seen.tokens_BxPxD[:] - before).max() > 1e-3


def test_large_ones_are_mapped_and_give_the_same_steps(in_memory, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(frozen_views, "IN_MEMORY", 0)
    mapped = looked(tmp_path)
    assert is_mapped(mapped) and isinstance(mapped.seen.tokens_BxPxD, MappedRows)
    assert (tmp_path / "features" / "manifest.json").exists()
    start = reward.init_state(MODEL, OBJECTIVE, TRAINED, CONFIG, KEY)
    update = jax.jit(
        lambda state: reward.update_step(MODEL, OBJECTIVE, CONFIG, state, FROZEN, in_memory, KEY)
    )
    step = jax.jit(
        lambda state, rows: reward.learn_rows(
            MODEL, OBJECTIVE, CONFIG, state, FROZEN, rows, mapped.starts_V, KEY
        )
    )
    stream = lesson_stream(mapped, CONFIG, order_key(KEY)).batches
    state = start
    for position in range(4):
        start, wanted = update(start)
        state, metrics = step(state, stream.at(position))
        assert metrics.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)
    stream.close()


def test_features_are_for_frozen_towers():
    with pytest.raises(UserError, match="--transfer frozen"):
        RewardStageConfig(features=Path("somewhere"))

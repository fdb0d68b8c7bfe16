"""Attribution of a reward model's choices: against its rewards, computed one question at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, RewardConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.modules import define
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.training.attribution import attribute_choices
from mmrlhf_jax.training.evaluate import mean_attribution
from mmrlhf_jax.training.report import attribution_rows
from tests.parameters import draw

pytestmark = pytest.mark.medium  # compiles for long

CLIP = CLIPConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    text=TextConfig(11, 6, TransformerConfig(width=12, layers=1, heads=2, mlp_width=8)),
    projection_width=8,
)
PAIRS = 16


@pytest.fixture(scope="module")
def comparisons():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    texts = generator.integers(3, 11, (2, PAIRS, 5)).astype(np.int32)
    texts[:, ::3, 3:] = 0  # padding
    return jnp.asarray(images), jnp.asarray(np.arange(PAIRS) % 5), *jnp.asarray(texts)


MODEL = define(lambda rngs: RewardModel(RewardConfig(CLIP, "concat", 8), rngs=rngs))


def attributed(comparisons, **options):
    return attribute_choices(MODEL, draw(MODEL.abstract()), *comparisons, emap_rows=4, batch=16, **options)


def test_accuracies_are_those_of_the_rewards(comparisons):
    image_NxHxWxC, index_P, chosen_PxT, rejected_PxT = comparisons
    found, params = attributed(comparisons), draw(MODEL.abstract())

    @jax.jit
    def margins(present_Px2):
        bound = MODEL.bind(params)
        seen = bound.encode(to_pixels(image_NxHxWxC[index_P]))
        rewards = [
            bound.judge(seen, ids, ids != 0, present_Px2).reward_B for ids in (chosen_PxT, rejected_PxT)
        ]
        return rewards[0] - rewards[1]

    def accuracy(image, text):
        return np.mean(np.asarray(margins(jnp.tile(jnp.array([[image, text]]), (PAIRS, 1)))) > 0)

    assert found["accuracy"] == accuracy(True, True) and found["picture_absent"] == accuracy(False, True)
    assert found["text_absent"] == found["nothing"] == 0.5  # both answers are then the same
    expected = (accuracy(True, True) - accuracy(False, True)) / 2
    assert found["picture_shapley"] == pytest.approx(expected)
    assert found["pairs"] == PAIRS


def test_a_large_set_is_sampled(comparisons):
    found = attributed(comparisons, rows=12)
    assert found["pairs"] == 12 and 0 <= found["accuracy"] <= 1


def test_seeds_are_averaged_and_warnings_kept():
    seeds = [
        {"accuracy": accuracy, "picture_share": share, "picture_gain": gain, "pairs": 9, "warning": warning}
        for accuracy, share, gain, warning in (
            (0.7, None, {"mean": 0.0, "low": -0.1, "high": 0.1}, "the picture adds nothing"),
            (0.8, 0.4, {"mean": 0.2, "low": 0.1, "high": 0.3}, None),
        )
    ]
    found = mean_attribution(seeds)
    assert found is not None and found["accuracy"] == pytest.approx(0.75) and found["picture_share"] == 0.4
    assert found["picture_gain"] == pytest.approx(0.1) and found["picture_gain_ci95"] == [-0.1, 0.3]
    assert found["warnings"] == ["the picture adds nothing"]
    others = dict.fromkeys(("picture_absent", "text_shuffled", "emap", "emap_full"), 0.5)
    gain, share, *_ = attribution_rows({**found, **others})
    assert gain.interval == "[-0.100, 0.300]" and share.after == 0.4
    assert share.interval == "the picture adds nothing"
    assert mean_attribution([None]) is None and attribution_rows(None) == []

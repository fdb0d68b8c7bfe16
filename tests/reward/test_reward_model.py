"""The reward model looks at the picture and reads the text, whatever the fusion."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    FusionName,
    RewardConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.modules import define
from mmrlhf_jax.reward.model import MODALITIES, RewardModel

METHODS = get_args(FusionName)
CLIP = CLIPConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    text=TextConfig(11, 6, TransformerConfig(width=12, layers=1, heads=2, mlp_width=8)),
    projection_width=8,
)
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
IDS = np.array([[3, 4, 2, 0, 0], [5, 6, 7, 8, 2]], np.int32)
MASK = IDS > 0


@functools.cache
def model(method: str):
    """Parameters, and the compiled judgement of encoded pictures."""
    config = RewardConfig(CLIP, method, fusion_width=8)
    definition = define(lambda rngs: RewardModel(config, rngs=rngs))
    judge = jax.jit(lambda params, *inputs: definition.bind(params).judge(*inputs))
    encode = jax.jit(lambda params, pixels: definition.bind(params).encode(pixels))
    return definition, definition.init(jax.random.key(0)), encode, judge


def test_encode_puts_the_class_token_first():
    definition, params, encode, _ = model("concat")
    image = encode(params, PIXELS)
    seen = definition.bind(params).vision(PIXELS)
    assert image.shape == (2, 1 + 4, 8)
    np.testing.assert_allclose(image[:, 0], seen.pooled_BxD, atol=1e-5)
    np.testing.assert_allclose(image[:, 1:], seen.tokens_BxTxD, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_reward_depends_on_picture_and_text(method):
    definition, params, _, _ = model(method)

    def total(params, pixels):
        bound = definition.bind(params)
        return jnp.sum(jnp.sin(bound.judge(bound.encode(pixels), IDS, MASK).reward_B))

    param_grads, pixel_grads = jax.jit(jax.grad(total, argnums=(0, 1)))(params, PIXELS)
    assert np.all(np.any(pixel_grads, axis=-1))
    read = np.any(param_grads["text"]["embed"]["embedding"], axis=-1)
    assert set(np.flatnonzero(read)) == set(IDS[MASK]), "every real token counts, padding does not"
    assert np.any(param_grads["head"]["kernel"])


@pytest.mark.parametrize("method", METHODS)
def test_padding_of_text_changes_nothing(method):
    _, params, encode, judge = model(method)
    image = encode(params, PIXELS)
    wanted = judge(params, image, IDS, MASK)
    assert wanted.reward_B.shape == (2,) and abs(wanted.reward_B[0] - wanted.reward_B[1]) > 1e-5
    wider = judge(params, image, np.pad(IDS, ((0, 0), (0, 1)), constant_values=9), np.pad(MASK, ((0, 0), (0, 1))))
    dirty = judge(params, image, IDS + 9 * ~MASK, MASK)
    np.testing.assert_allclose(wider.reward_B, wanted.reward_B, atol=1e-6)
    np.testing.assert_allclose(dirty.reward_B, wanted.reward_B, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_the_modalities(method):
    _, params, encode, judge = model(method)
    weights = judge(params, encode(params, PIXELS), IDS, MASK).weights_BxM
    if method == "concat":
        assert weights is None
    else:
        assert weights.shape == (2, len(MODALITIES))
        np.testing.assert_allclose(np.sum(weights, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_without_its_picture_an_answer_is_judged_by_its_text(method):
    """A picture that is masked may hold anything, even NaN; the text still counts."""
    _, params, encode, judge = model(method)
    image = encode(params, PIXELS)
    text_only = np.array([[False, True], [False, True]])
    wanted = judge(params, image, IDS, MASK, text_only)
    blank = judge(params, image.at[:].set(jnp.nan), IDS, MASK, text_only)
    np.testing.assert_array_equal(blank.reward_B, wanted.reward_B)
    assert np.all(np.abs(wanted.reward_B - judge(params, image, IDS, MASK).reward_B) > 1e-6)
    assert abs(wanted.reward_B[0] - wanted.reward_B[1]) > 1e-6

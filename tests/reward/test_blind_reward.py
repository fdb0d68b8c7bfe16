"""Reward models that go by the words alone, and the two towers that a policy lends its own one to."""

import dataclasses

import jax
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, RewardConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import equal_params
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.reward.backbone import fresh_towers
from mmrlhf_jax.reward.define import define_reward_model, input_sizes
from tests.reward.sizes import CLIP, IDS, MASK, PIXELS

pytestmark = pytest.mark.medium

DECODER = DecoderConfig(vocab_size=320, width=8, layers=1, heads=2, kv_heads=1, mlp_width=8)
POLICY = PolicyConfig(CLIP.vision, DECODER, max_length=6, prompt_length=4)
TOWERS = RewardConfig(CLIP, "attention", 8)
BACKBONES = {"towers": TOWERS, "policy": RewardConfig(clip=None, policy=POLICY)}


def rewards(config: RewardConfig, params, pixels: np.ndarray, *modality) -> np.ndarray:
    definition = define_reward_model(config)

    @jax.jit
    def judge(params, pixels, *modality):
        model = definition.bind(params)
        return model.judge(model.encode(pixels), IDS, MASK, *modality).reward_B

    return np.asarray(judge(params, pixels, *modality))


@pytest.mark.parametrize("name", BACKBONES)
def test_without_the_picture_a_model_judges_as_if_it_were_absent(name):
    seeing = BACKBONES[name]
    blind = dataclasses.replace(seeing, picture=False)
    params = define_reward_model(seeing).init(jax.random.key(0))
    one = rewards(blind, params, PIXELS)
    np.testing.assert_array_equal(one, rewards(blind, params, -PIXELS))
    absent = rewards(seeing, params, PIXELS, np.tile([False, True], (2, 1)))
    np.testing.assert_allclose(one, absent, atol=1e-6)
    assert np.abs(rewards(seeing, params, PIXELS) - one).max() > 1e-5


def test_places_for_a_picture_that_is_never_seen_are_refused():
    places = dataclasses.replace(POLICY, image_token_id=11)
    with pytest.raises(UserError, match="image_token_id"):
        define_reward_model(RewardConfig(clip=None, policy=places, picture=False))


def test_a_policy_lends_its_picture_tower_and_nothing_else():
    policy = define_policy(POLICY)
    tokenizer = CaptionTokenizer.train(["so that was the trip", "wow"], 320)
    captioner = Captioner(POLICY, policy, policy.init(jax.random.key(1)), tokenizer)
    backbone = fresh_towers(captioner, seed=0)
    assert backbone.name == "clip" and backbone.max_length == 3 + 6
    assert equal_params(backbone.params["vision"], captioner.params["vision"])
    config = RewardConfig(clip=backbone.architecture, fusion="concat", fusion_width=8)
    assert jax.tree.map(np.shape, backbone.params) == jax.tree.map(
        np.shape, define_reward_model(config).abstract()["clip"]
    )
    assert input_sizes(config) == input_sizes(BACKBONES["policy"]) == (8, 9)

"""Reward models on SigLIP and on a vision-language policy: one interface, each read as trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import (
    CLIPConfig,
    DecoderConfig,
    PolicyConfig,
    RewardConfig,
    SigLIPConfig,
    TextConfig,
    TransformerConfig,
    VisionConfig,
)
from mmrlhf_jax.config import EnsembleConfig
from mmrlhf_jax.encoders.vit import from_pixels, to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.reward.backbone import load_backbone
from mmrlhf_jax.reward.define import define_reward_model
from tests.parameters import draw
from tests.reward.sizes import CLIP, IDS, MASK, PIXELS

pytestmark = pytest.mark.medium

TOWER = TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)
SIGLIP = SigLIPConfig(
    VisionConfig(8, 4, TOWER, class_token=False, patch_bias=True, pre_norm=False, pooling="attention"),
    TextConfig(11, 6, TOWER, causal=False, pooling="final"),
)
DECODER = DecoderConfig(vocab_size=12, width=8, layers=2, heads=2, kv_heads=1, mlp_width=8)
POLICY = PolicyConfig(CLIP.vision, DECODER, max_length=6)
BOTH = np.ones((2, 2), bool)


@functools.cache
def made(config: RewardConfig):
    """The definition, parameters, and compiled `encode` and `judge`."""
    definition = define_reward_model(config)
    encode = jax.jit(lambda params, pixels: definition.bind(params).encode(pixels))
    judge = jax.jit(lambda params, *inputs: definition.bind(params).judge(*inputs))
    return definition, draw(definition.abstract()), encode, judge


SIGLIP_REWARD = RewardConfig(clip=None, siglip=SIGLIP, fusion="concat", fusion_width=8, text_pad_id=1)
POLICY_REWARD = RewardConfig(clip=None, policy=POLICY)
PLACES_REWARD = RewardConfig(
    clip=None, policy=PolicyConfig(CLIP.vision, DECODER, max_length=6, image_token_id=11)
)
HEADS = RewardConfig(clip=None, policy=POLICY, ensemble=EnsembleConfig(3, "heads", "worst"))


def test_one_backbone_has_to_be_given():
    for wrong in ({"siglip": SIGLIP}, {"clip": None}, {"policy": POLICY}):
        with pytest.raises(UserError, match="one backbone"):
            RewardConfig(**wrong)
    with pytest.raises(UserError, match="heads"):
        RewardConfig(clip=None, policy=POLICY, ensemble=EnsembleConfig(2))
    assert [c.backbone for c in (RewardConfig(), SIGLIP_REWARD, POLICY_REWARD)] == [
        "clip",
        "siglip",
        "policy",
    ]


def test_siglip_reads_its_padding_and_its_own_scale_of_pixels():
    definition, params, encode, judge = made(SIGLIP_REWARD)
    seen = encode(params, PIXELS)
    image = np.asarray(from_pixels(jnp.asarray(PIXELS)))
    padded = np.pad(np.where(MASK, IDS, 1), ((0, 0), (0, 1)), constant_values=1)

    @jax.jit
    def answer(params, pixels):
        bound = definition.bind(params)
        return bound.siglip(pixels, padded), bound.read(seen, IDS, MASK).similarity_B

    wanted, similarity = answer(params, jnp.asarray(image / 127.5 - 1))
    np.testing.assert_allclose(seen.embed_BxE, wanted.image_embeds, atol=1e-5)
    diagonal = np.diag(wanted.logits_per_image) - params["siglip"]["logit_bias"]
    np.testing.assert_allclose(similarity, diagonal, rtol=1e-4)
    assert judge(params, seen, IDS, MASK).reward_B.shape == (2,)


def test_pictures_of_another_size_are_brought_to_the_towers():
    _, params, encode, _ = made(SIGLIP_REWARD)
    large = np.repeat(np.repeat(PIXELS, 2, axis=1), 2, axis=2)
    assert encode(params, large).tokens_BxPxD.shape == encode(params, PIXELS).tokens_BxPxD.shape


def test_pixels_and_back():
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(from_pixels(to_pixels(jnp.asarray(image))), image, atol=1e-3)


@pytest.mark.parametrize("config", [POLICY_REWARD, PLACES_REWARD], ids=["first", "places"])
def test_a_policys_reward_is_a_head_on_the_last_token(config):
    """Row by row, without padding, through the decoder alone."""
    definition, params, encode, judge = made(config)
    seen = encode(params, PIXELS)
    got = judge(params, seen, IDS, MASK).reward_B

    @jax.jit
    def alone(params, picture, ids):
        policy = definition.bind(params).policy
        begin, text = policy.decoder.embed(jnp.array([[1]])), policy.decoder.embed(ids)
        parts = [picture, begin, text] if config is POLICY_REWARD else [begin, picture, text]
        x = jnp.concatenate(parts, axis=1)
        return policy.decoder(x, jnp.ones(x.shape[:2], bool))[0, -1]

    for row in range(2):
        hidden = alone(params, seen.tokens_BxPxD[row : row + 1], IDS[row][MASK[row]][None])
        wanted = hidden @ params["head"]["kernel"][:, 0] + params["head"]["bias"][0]
        np.testing.assert_allclose(got[row], wanted, rtol=1e-4, atol=1e-5)
    dirty = judge(params, seen, IDS + 8 * ~MASK, MASK).reward_B
    np.testing.assert_allclose(dirty, got, atol=1e-5)


@pytest.mark.parametrize("config", [POLICY_REWARD, PLACES_REWARD], ids=["first", "places"])
def test_what_is_missing_is_not_looked_at(config):
    _, params, encode, judge = made(config)
    seen = encode(params, PIXELS)
    nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), seen)
    no_picture = np.array([[False, True]] * 2)
    blind = judge(params, seen, IDS, MASK, no_picture).reward_B
    np.testing.assert_array_equal(judge(params, nothing, IDS, MASK, no_picture).reward_B, blind)
    assert np.all(np.abs(blind - judge(params, seen, IDS, MASK, BOTH).reward_B) > 1e-4)
    no_text = np.array([[True, False]] * 2)
    one, other = (judge(params, seen, ids, MASK, no_text).reward_B for ids in (IDS, 10 - IDS))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert abs(one[0] - one[1]) > 1e-4


def test_several_heads_on_a_policy():
    _, params, encode, judge = made(HEADS)
    judged = judge({**params, "level": jnp.zeros(3)}, encode(params, PIXELS), IDS, MASK)
    assert judged.rewards_KxB.shape == (3, 2) and np.all(judged.disagreement_B > 1e-3)
    np.testing.assert_allclose(judged.reward_B, np.min(judged.rewards_KxB, axis=0))
    shifted = judge({**params, "level": jnp.array([0.0, 1.0, 0.0])}, encode(params, PIXELS), IDS, MASK)
    np.testing.assert_allclose(judged.rewards_KxB - shifted.rewards_KxB, [[0, 0], [1, 1], [0, 0]], atol=1e-5)


def test_backbones_from_folders(root):
    clip = load_backbone(root / "tests/golden/clip_gelu")
    assert clip.name == "clip" and isinstance(clip.architecture, CLIPConfig)
    length = clip.max_length
    ids = clip.tokenizer.encode_batch(["a", "a a a"], length)
    assert ids.shape == (2, length) and ids.dtype == np.int32 and (ids[:, 0] != 0).all()
    assert (ids[0] != 0).sum() < (ids[1] != 0).sum(), "padding is 0"
    model = define_reward_model(RewardConfig(clip.architecture, "concat", 8))
    abstract = model.abstract()["clip"]
    jax.tree.map(lambda want, have: np.testing.assert_equal(have.shape, want.shape), abstract, clip.params)
    llava = load_backbone(root / "tests/golden/llava_llama_clip")
    assert llava.name == "policy" and llava.architecture.image_token_id is not None
    with pytest.raises(UserError, match="type 'vit'"):
        load_backbone(root / "tests/golden/vit")
    with pytest.raises(UserError, match="tokenizer"):
        load_backbone(root / "tests/golden/siglip")

"""The reward model looks at the picture and reads the text, whatever the fusion."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, FusionName, PolicyConfig, RewardConfig
from mmrlhf_jax.fusion import Masks
from mmrlhf_jax.modules import define
from mmrlhf_jax.reward.model import FROZEN_PARTS, MODALITIES, RewardModel, Seen
from tests.parameters import draw
from tests.reward.sizes import CLIP, IDS, MASK, PIXELS

pytestmark = pytest.mark.medium  # compiles for long

METHODS = get_args(FusionName)
WEIGHTLESS = ("concat", "concat_linear", "cross_attention", "film", "low_rank", "tensor")
DECODER = DecoderConfig(vocab_size=11, width=8, layers=1, heads=2, kv_heads=1, mlp_width=8)
BOTH = np.ones((2, 2), bool)


@functools.cache
def model(method: str):
    """The definition, its parameters and the compiled judgement of what was seen.

    Two methods come with the frozen parts, the others without, which compile in half of the time.
    """
    frozen = (PolicyConfig(CLIP.vision, DECODER, max_length=6), DECODER)
    config = RewardConfig(CLIP, method, 8, *(frozen if method in ("concat", "attention") else ()))
    definition = define(lambda rngs: RewardModel(config, rngs=rngs))
    judge = jax.jit(lambda params, *inputs: definition.bind(params).judge(*inputs))
    return definition, draw(definition.abstract()), judge


@functools.cache
def compiled_gradients(method: str):
    """Of the rewards' sum, for parameters and what was seen."""
    definition = model(method)[0]

    def total(params, seen, there):
        return jnp.sum(definition.bind(params).judge(seen, IDS, MASK, there).reward_B)

    return jax.jit(jax.grad(total, argnums=(0, 1)))


@pytest.fixture(scope="module")
def seen() -> Seen:
    """Encoded pictures; all models here have the same sizes."""
    tokens, embed, captioner = (
        np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(2, 5, 8), (2, 8), (2, 4, 8)])
    )
    embed /= np.linalg.norm(embed, axis=1, keepdims=True)
    return Seen(*(jnp.asarray(array, jnp.float32) for array in (tokens, embed, captioner)))


def test_encode():
    """The class token stands first; the embedding is CLIP's; the captioner's tokens are its own."""
    definition, params, _ = model("concat")

    @jax.jit
    def answer(params):
        bound = definition.bind(params)
        clip = bound.clip
        return (
            bound.encode(PIXELS),
            clip.vision(PIXELS),
            clip.encode_image(PIXELS),
            bound.captioner.encode(PIXELS),
        )

    seen, tower, embed, captioner = answer(params)
    assert seen.tokens_BxPxD.shape == (2, 1 + 4, 8)
    np.testing.assert_allclose(seen.tokens_BxPxD[:, 0], tower.pooled_BxD, atol=1e-5)
    np.testing.assert_allclose(seen.tokens_BxPxD[:, 1:], tower.tokens_BxTxD, atol=1e-5)
    wanted = np.asarray(embed) / np.linalg.norm(embed, axis=1, keepdims=True)
    np.testing.assert_allclose(seen.embed_BxE, wanted, atol=1e-5)
    np.testing.assert_allclose(seen.captioner_BxPxD, captioner, atol=1e-5)


def mean_token(logprobs_BxT: np.ndarray) -> np.ndarray:
    return np.array([row[mask].mean() for row, mask in zip(np.asarray(logprobs_BxT), MASK, strict=True)])


def test_the_terms_add_up(seen):
    """A head on the fusion, CLIP's scaled cosines, mean log-likelihoods of a token, each by its weight."""
    definition, params, judge = model("concat")

    @jax.jit
    def parts(params):
        bound = definition.bind(params)
        features = {"image": seen.tokens_BxPxD, "text": bound.clip.text(IDS, MASK).tokens_BxTxD}
        fused = bound.fusion(features, Masks(None, {"text": MASK}))
        begin = np.full((2, 1), 1, np.int32)
        read = np.concatenate([begin, IDS[:, :-1]], axis=1)
        read_mask = np.concatenate([begin > 0, MASK[:, :-1]], axis=1)
        decoder = bound.language_model
        return (
            bound.head(jax.nn.gelu(fused.vector_BxD))[:, 0],
            bound.clip.encode_text(IDS, MASK),
            bound.captioner.score(seen.captioner_BxPxD, begin, begin > 0, IDS, MASK).logits_BxTxV,
            decoder.logits(decoder(decoder.embed(read), read_mask)),
        )

    headed, text, written, blind = parts(params)
    text = np.asarray(text) / np.linalg.norm(text, axis=1, keepdims=True)
    scaled = np.exp(params["clip"]["logit_scale"]) * np.sum(seen.embed_BxE * text, axis=1)
    terms = [headed, params["similarity_weight"] * scaled]
    for name, logits in (("captioner_weight", written), ("language_model_weight", blind)):
        logprobs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), IDS[..., None], axis=-1)[..., 0]
        terms.append(params[name] * mean_token(logprobs))
    assert all(np.abs(term).max() > 1e-3 for term in terms)
    np.testing.assert_allclose(judge(params, seen, IDS, MASK, BOTH).reward_B, sum(terms), rtol=1e-4)


def test_a_model_without_the_frozen_parts_has_their_parameters_neither():
    config = RewardConfig(CLIP, "concat", 8)
    definition = define(lambda rngs: RewardModel(config, rngs=rngs))
    assert not set(definition.abstract()) & set(FROZEN_PARTS)
    assert set(FROZEN_PARTS) < set(model("concat")[1])
    bound = definition.bind(draw(definition.abstract()))
    seen = bound.encode(PIXELS)
    assert seen.captioner_BxPxD is None and bound.judge(seen, IDS, MASK).reward_B.shape == (2,)


@pytest.mark.parametrize("method", METHODS)
def test_fusion_sees_picture_and_text(method, seen):
    """With weights of 0 elsewhere, so that the fusion must do it; a baseline sees one of them."""
    _, params, _ = model(method)
    others = ("similarity_weight", "captioner_weight", "language_model_weight")
    params = {**params, **dict.fromkeys(others, jnp.zeros(()))}
    param_grads, seen_grads = compiled_gradients(method)(params, seen, BOTH)
    looked = np.any(seen_grads.tokens_BxPxD, axis=-1)
    assert np.all(looked == (method != "text_only")) and not np.any(seen_grads.embed_BxE)
    read = np.any(param_grads["clip"]["text"]["embed"]["embedding"], axis=-1)
    wanted = set() if method == "image_only" else set(IDS[MASK])
    assert set(np.flatnonzero(read)) == wanted, "every real token counts, padding does not"
    assert np.any(param_grads["head"]["kernel"])


def test_similarity_sees_picture_and_text(seen):
    """With a head of zeros, so that the similarity must do it."""
    _, params, _ = model("concat")
    params = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    param_grads, seen_grads = compiled_gradients("concat")(params, seen, BOTH)
    assert np.any(seen_grads.embed_BxE, axis=-1).all() and not np.any(seen_grads.tokens_BxPxD)
    assert np.any(param_grads["clip"]["text"]["embed"]["embedding"]) and param_grads["similarity_weight"] != 0


@pytest.mark.parametrize("method", METHODS)
def test_padding_of_text_changes_nothing(method, seen):
    _, params, judge = model(method)
    wanted = judge(params, seen, IDS, MASK, BOTH).reward_B
    assert wanted.shape == (2,) and abs(wanted[0] - wanted[1]) > 1e-3
    np.testing.assert_allclose(judge(params, seen, IDS + 9 * ~MASK, MASK, BOTH).reward_B, wanted, atol=1e-5)


def test_no_mask_means_that_both_are_there(seen):
    _, params, judge = model("weighted_sum")
    bare, both = judge(params, seen, IDS, MASK), judge(params, seen, IDS, MASK, BOTH)
    np.testing.assert_allclose(bare.reward_B, both.reward_B, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_the_modalities(method, seen):
    _, params, judge = model(method)
    weights = judge(params, seen, IDS, MASK, np.array([[True, True], [False, True]])).weights_BxM
    if method in WEIGHTLESS:
        assert weights is None
    else:
        assert weights.shape == (2, len(MODALITIES))
        np.testing.assert_allclose(np.sum(weights, axis=1), 1, atol=1e-6)
    if method in ("weighted_sum", "weighted_sum_learned", "gated"):
        assert weights[1].tolist() == [0, 1] and 0 < weights[0, 0] < 1


@pytest.mark.parametrize("method", METHODS)
def test_without_its_picture_an_answer_is_judged_by_its_text(method, seen):
    """What is masked may hold anything, even NaN: neither reward nor gradient sees it."""
    _, params, judge = model(method)
    there = np.array([[False, True], [False, True]])
    nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), seen)
    wanted = judge(params, seen, IDS, MASK, there).reward_B
    np.testing.assert_array_equal(judge(params, nothing, IDS, MASK, there).reward_B, wanted)
    assert np.all(np.abs(wanted - judge(params, seen, IDS, MASK, BOTH).reward_B) > 1e-4)
    assert (abs(wanted[0] - wanted[1]) > 1e-4) == (method != "image_only")
    grads, _ = compiled_gradients(method)(params, nothing, there)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert grads["similarity_weight"] == grads["captioner_weight"] == 0
    assert np.any(grads["clip"]["text"]["embed"]["embedding"]) == (method != "image_only")


@pytest.mark.parametrize("method", METHODS)
def test_without_its_text_every_answer_is_the_same(method, seen):
    _, params, judge = model(method)
    there = np.array([[True, False], [True, False]])
    one, other = (judge(params, seen, ids, MASK, there).reward_B for ids in (IDS, 10 - IDS))
    np.testing.assert_array_equal(one, other)
    assert (abs(one[0] - one[1]) > 1e-4) == (method != "text_only")


@pytest.mark.parametrize("method", METHODS)
def test_the_head_reads_what_the_fusion_asks_for(method, seen):
    """Late fusion stays a sum of one modality's scores only without a nonlinearity before the head."""
    definition, params, judge = model(method)
    others = ("similarity_weight", "captioner_weight", "language_model_weight")
    params = {**params, **dict.fromkeys(others, jnp.zeros(()))}

    @jax.jit
    def fuse(params):
        bound = definition.bind(params)
        features = {"image": seen.tokens_BxPxD, "text": bound.clip.text(IDS, MASK).tokens_BxTxD}
        return bound.fusion(features, Masks(None, {"text": MASK})).vector_BxD

    vector = np.asarray(fuse(params))
    if method not in ("late", "concat_linear"):
        vector = np.asarray(jax.nn.gelu(vector))
    wanted = vector @ np.asarray(params["head"]["kernel"])[:, 0] + params["head"]["bias"]
    np.testing.assert_allclose(judge(params, seen, IDS, MASK, BOTH).reward_B, wanted, rtol=1e-4, atol=1e-5)

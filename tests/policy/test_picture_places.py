"""Pictures in the middle of a prompt, any layer of the tower, and a tower that is not trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.sampling import forbidden_tokens, sample_completions
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.types import Prompts
from tests.parameters import draw

PLACE = 3  # id of a picture's place
CONFIG = PolicyConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=3, heads=2, mlp_width=8)),
    decoder=DecoderConfig(vocab_size=11, width=16, layers=2, heads=4, kv_heads=2, mlp_width=16),
    feature_layer=-2,
    image_token_id=PLACE,
)
DEFINITION = define(lambda rngs: VisionLanguagePolicy(CONFIG, rngs=rngs))
PROMPT = np.array(
    [[0, 0, 1, 3, 3, 3, 3, 5], [1, 6, 3, 3, 4, 3, 3, 5]], np.int32
)  # the second is split in two
PROMPT_MASK = PROMPT > 0
IDS = np.array([[4, 5, 6, 7], [8, 2, 0, 0]], np.int32)
MASK = IDS > 0
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@jax.jit
def encode(params, pixels_BxHxWxC):
    return DEFINITION.bind(params).encode(pixels_BxHxWxC)


@jax.jit
def score(params, image_BxPxD, prompt_BxL, prompt_mask_BxL, ids_BxT, mask_BxT):
    return DEFINITION.bind(params).score(image_BxPxD, prompt_BxL, prompt_mask_BxL, ids_BxT, mask_BxT)


@pytest.fixture(scope="module")
def image(params):
    return encode(params, PIXELS)


def test_places_are_filled_in_their_order(params, image):
    policy = DEFINITION.bind(params)
    x, mask = policy.merge(image, PROMPT, PROMPT_MASK)
    words = np.array(policy.decoder.embed(PROMPT))
    words[0, 3:7], words[1, 2:4], words[1, 5:7] = image[0], image[1, :2], image[1, 2:]
    np.testing.assert_array_equal(x, words)
    np.testing.assert_array_equal(mask, PROMPT_MASK)


def test_pictures_that_stand_first_are_the_same_as_places_at_the_beginning(params, image):
    before = define(
        lambda rngs: VisionLanguagePolicy(dataclasses.replace(CONFIG, image_token_id=None), rngs=rngs)
    )
    text = np.array([[1, 6, 5], [1, 7, 8]], np.int32)
    places = np.concatenate([np.full((2, 4), PLACE, np.int32), text], axis=1)
    ours = score(params, image, places, places > 0, IDS, MASK)
    theirs = jax.jit(lambda params: before.bind(params).score(image, text, text > 0, IDS, MASK))(params)
    np.testing.assert_allclose(ours.logits_BxTxV, theirs.logits_BxTxV, atol=1e-6)


def test_each_row_sees_its_own_picture(params, image):
    plain = score(params, image, PROMPT, PROMPT_MASK, IDS, MASK).logits_BxTxV
    other = score(params, image.at[0].multiply(-1), PROMPT, PROMPT_MASK, IDS, MASK).logits_BxTxV
    assert np.abs(other[0] - plain[0]).min(axis=-1).max() > 1e-4
    np.testing.assert_array_equal(other[1], plain[1])


def test_a_place_in_the_completion_is_a_word(params, image):
    """Only prompts have pictures; otherwise text about "<image>" would show one twice."""
    ids = np.array([[PLACE, 5, 6, 7], [8, 2, 0, 0]], np.int32)
    one, other = (
        score(params, pictures, PROMPT, PROMPT_MASK, ids, MASK).logits_BxTxV
        for pictures in (image, image.at[:, -1].add(1.0))
    )
    words = dict(params, decoder=dict(params["decoder"]))
    embedding = params["decoder"]["embedding"]["embedding"]
    words["decoder"]["embedding"] = {"embedding": embedding.at[PLACE].add(1.0)}
    assert np.abs(other[0, 0] - one[0, 0]).max() > 1e-4, "the picture matters"
    changed = score(words, image, PROMPT, PROMPT_MASK, ids, MASK).logits_BxTxV
    assert np.abs(changed[0, 1, :PLACE] - one[0, 1, :PLACE]).max() > 1e-4, "and so does the word"


def test_padding_changes_nothing(params, image):
    wanted = score(params, image, PROMPT, PROMPT_MASK, IDS, MASK)
    wider = np.pad(PROMPT, ((0, 0), (3, 0)))
    scored = score(params, image, wider, np.pad(PROMPT_MASK, ((0, 0), (3, 0))), IDS, MASK)
    np.testing.assert_allclose(scored.logits_BxTxV[MASK], wanted.logits_BxTxV[MASK], atol=1e-5)
    np.testing.assert_allclose(scored.values_BxT[MASK], wanted.values_BxT[MASK], atol=1e-5)


def test_greedy_tokens_are_the_likeliest_of_the_full_forward_and_never_a_place(params, image):
    """Through the cache, from padded prompts; the embedding of the place is made the most attractive one."""
    params = dict(params, decoder=dict(params["decoder"]))
    embedding = params["decoder"]["embedding"]["embedding"]
    params["decoder"]["embedding"] = {"embedding": embedding.at[PLACE].multiply(9.0)}
    never = forbidden_tokens(11, 11, special=(0, 1), image_token_id=PLACE)

    @jax.jit
    def write(params):
        policy = DEFINITION.bind(params)
        prompts = Prompts(jnp.asarray(PROMPT), jnp.asarray(PROMPT_MASK))
        return sample_completions(
            policy,
            image,
            prompts,
            jax.random.key(0),
            length=6,
            forbidden_V=never,
            temperature=0.0,
            end_id=-1,
        )

    done = write(params)
    logits = score(params, image, PROMPT, PROMPT_MASK, *done).logits_BxTxV
    assert np.any(np.argmax(logits, axis=-1) == PLACE), "it would have been written"
    wanted = np.argmax(np.where(never, -np.inf, logits), axis=-1)
    np.testing.assert_array_equal(done.ids_BxT, wanted)


def test_mean_logprob_puts_the_picture_behind_the_begin_token(params, image):
    prompt = np.concatenate([np.ones((2, 1), np.int32), np.full((2, 4), PLACE, np.int32)], axis=1)
    logits = score(params, image, prompt, prompt > 0, IDS, MASK).logits_BxTxV
    wanted = np.asarray(token_logprobs(logits, IDS, MASK)).sum(axis=1) / MASK.sum(axis=1)
    found = DEFINITION.bind(params).mean_logprob(image, IDS, MASK, begin_id=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "tokens", "count"), [(-1, "all", 5), (1, "patches", 4), (0, "but_first", 4)]
)
def test_the_tower_gives_the_layer_and_tokens_that_are_asked(params, layer, tokens, count):
    config = dataclasses.replace(CONFIG, feature_layer=layer, feature_tokens=tokens)
    policy = define(lambda rngs: VisionLanguagePolicy(config, rngs=rngs)).bind(params)
    wanted = policy.vision.features(PIXELS, layer=layer)[:, -count:]
    np.testing.assert_array_equal(policy.look(PIXELS), wanted)
    assert policy.encode(PIXELS).shape == (2, count, 16) and count == config.picture_tokens


def loss(params, pixels):
    policy = DEFINITION.bind(params)
    scored = policy.score(policy.encode(pixels), PROMPT, PROMPT_MASK, IDS, MASK)
    logprobs = token_logprobs(scored.logits_BxTxV, IDS, MASK)
    return jnp.sum(logprobs) + jnp.sum(jnp.where(MASK, jnp.square(scored.values_BxT), 0.0))


@pytest.fixture(scope="module")
def gradients(params):
    return jax.jit(jax.grad(loss))(params, PIXELS)


def test_blocks_above_the_layer_learn_nothing_and_all_others_do(gradients):
    still = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]
        if not np.any(leaf)
    }
    assert still and all(
        name.startswith(("vision.transformer.blocks.2", "vision.post_norm")) for name in still
    )


@pytest.mark.parametrize("frozen", [("vision",), ("vision", "project_in", "project_out")])
def test_frozen_parts_get_no_gradient_and_the_others_the_same(params, gradients, frozen):
    """Freezing as training does it: what is not among the trained parameters is an argument of its own."""
    trained = {name: part for name, part in params.items() if name not in frozen}
    rest = {name: params[name] for name in frozen}

    @jax.jit
    def compute(trained, rest):
        return jax.grad(lambda trained: loss({**rest, **trained}, PIXELS))(trained)

    found = compute(trained, rest)
    assert found.keys() == set(params) - set(frozen)
    wanted = {name: gradients[name] for name in found}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_pictures_encoded_once_give_the_same_gradient(params, gradients, image):
    """With a frozen tower and projector, `encode` is no part of the step."""

    @jax.jit
    @jax.grad
    def compute(trained):
        policy = DEFINITION.bind({**params, **trained})
        scored = policy.score(image, PROMPT, PROMPT_MASK, IDS, MASK)
        logprobs = token_logprobs(scored.logits_BxTxV, IDS, MASK)
        return jnp.sum(logprobs) + jnp.sum(jnp.where(MASK, jnp.square(scored.values_BxT), 0.0))

    found = compute({name: params[name] for name in ("decoder", "value_head")})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        {name: gradients[name] for name in found},
    )

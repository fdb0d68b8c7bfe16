"""The policy's two ways to the same logits, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import define
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from tests.parameters import draw

CONFIG = PolicyConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    decoder=DecoderConfig(vocab_size=11, width=16, layers=2, heads=4, kv_heads=2, mlp_width=16),
)
DEFINITION = define(lambda rngs: VisionLanguagePolicy(CONFIG, rngs=rngs))
PROMPT = np.array([[0, 0, 1], [1, 5, 6]], np.int32)
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


def test_pictures_become_words(image):
    assert image.shape == (2, 4, 16)  # four patches, the class token is left out


def test_a_fresh_value_head_says_nothing(params, image):
    value_head = jax.jit(lambda key: DEFINITION.init(key)["value_head"])(jax.random.key(0))
    scored = score({**params, "value_head": value_head}, image, PROMPT, PROMPT_MASK, IDS, MASK)
    assert scored.values_BxT.shape == (2, 4) and not np.any(scored.values_BxT)


def test_sampling_sees_the_logits_of_scoring(params, image):
    """Prefill and decode_step, one token at a time, for prompts of 1 and 3 tokens."""

    @jax.jit
    def stepwise(params):
        policy = DEFINITION.bind(params)
        first, cache = policy.prefill(image, PROMPT, PROMPT_MASK, capacity=3)

        def step(cache, inputs):
            logits, cache = policy.decode_step(inputs[0], cache, inputs[1])
            return cache, logits

        slots = 4 + 3 + jnp.arange(3)  # after the patches and the prompt
        _, rest = jax.lax.scan(step, cache, (IDS[:, :3].T, slots))
        return jnp.concatenate([first[None], rest]).transpose(1, 0, 2)

    wanted = score(params, image, PROMPT, PROMPT_MASK, IDS, MASK).logits_BxTxV
    np.testing.assert_allclose(stepwise(params)[MASK], wanted[MASK], atol=1e-5)


def test_padding_changes_nothing(params, image):
    wanted = score(params, image, PROMPT, PROMPT_MASK, IDS, MASK)
    wider = np.pad(PROMPT, ((0, 0), (2, 0)), constant_values=9)
    wider_mask = np.pad(PROMPT_MASK, ((0, 0), (2, 0)))
    longer, longer_mask = np.pad(IDS, ((0, 0), (0, 1)), constant_values=9), np.pad(MASK, ((0, 0), (0, 1)))
    for scored in (
        score(params, image, wider, wider_mask, longer, longer_mask),
        score(params, image, PROMPT + 3 * ~PROMPT_MASK, PROMPT_MASK, IDS + 3 * ~MASK, MASK),
    ):
        np.testing.assert_allclose(scored.logits_BxTxV[:, :4][MASK], wanted.logits_BxTxV[MASK], atol=1e-5)
        np.testing.assert_allclose(scored.values_BxT[:, :4][MASK], wanted.values_BxT[MASK], atol=1e-5)


@pytest.mark.parametrize("position", range(4))
def test_logits_and_values_see_only_what_came_before(params, image, position):
    """Another token at t changes what is said from t + 1 on, and nothing before."""
    other = IDS.copy()
    other[0, position] = 10
    before, after = (score(params, image, PROMPT, PROMPT_MASK, ids, MASK) for ids in (IDS, other))
    for one, two in (
        (before.logits_BxTxV[0], after.logits_BxTxV[0]),
        (before.values_BxT[0], after.values_BxT[0]),
    ):
        np.testing.assert_allclose(two[: position + 1], one[: position + 1], atol=1e-6)
        moved = np.abs(two - one).reshape(4, -1).max(axis=1)
        assert np.all(moved[position + 1 :] > 1e-5)


def test_the_picture_and_every_part_of_the_policy_learn(params):
    def loss(params, pixels):
        policy = DEFINITION.bind(params)
        scored = policy.score(policy.encode(pixels), PROMPT, PROMPT_MASK, IDS, MASK)
        logprobs = token_logprobs(scored.logits_BxTxV, IDS, MASK)
        return jnp.sum(logprobs) + jnp.sum(jnp.where(MASK, jnp.square(scored.values_BxT), 0.0))

    param_grads, pixel_grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, PIXELS)
    assert np.all(pixel_grads != 0)
    # Only the tower's last norm of the class token is cut off, and that norm serves the patches too.
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(param_grads)[0]
        if not np.any(leaf)
    ]
    assert not still

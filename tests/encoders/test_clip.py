"""The text tower, the meeting of both towers, and their loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP, contrastive_loss, unit_length
from mmrlhf_jax.modules import define
from tests.parameters import draw

CONFIG = CLIPConfig(
    vision=VisionConfig(8, 4, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)),
    text=TextConfig(11, 6, TransformerConfig(width=12, layers=2, heads=3, mlp_width=16)),
    projection_width=5,
)
DEFINITION = define(lambda rngs: CLIP(CONFIG, rngs=rngs))
IDS = np.array([[3, 4, 5, 6, 7, 2], [8, 9, 2, 0, 0, 0]], np.int32)
MASK = np.array([[True] * 6, [True] * 3 + [False] * 3])


@pytest.fixture(scope="module")
def params():
    return {**draw(DEFINITION.abstract()), "logit_scale": jnp.log(1 / 0.07)}


@jax.jit
def read(params, ids_BxT, mask_BxT):
    return DEFINITION.bind(params).text(ids_BxT, mask_BxT)


def test_text_is_causal(params):
    """d token_t / d input_s = 0 for s > t, and not 0 for the others; all ids of the row are different."""

    def summed(embedding):
        text = {**params["text"], "embed": {"embedding": embedding}}
        return jnp.sum(jnp.sin(read({**params, "text": text}, IDS[:1], MASK[:1]).tokens_BxTxD[0]), axis=-1)

    jacobian_TxVxD = jax.jit(jax.jacrev(summed))(params["text"]["embed"]["embedding"])
    felt_TxS = np.any(jacobian_TxVxD[:, IDS[0]], axis=-1)
    np.testing.assert_array_equal(felt_TxS, np.tril(np.ones((6, 6), bool)))


def test_padding_of_text_changes_nothing(params):
    padded = read(params, IDS[1:], MASK[1:])
    for other in (read(params, IDS[1:, :3], MASK[1:, :3]), read(params, IDS[1:] + 7 * ~MASK[1:], MASK[1:])):
        np.testing.assert_allclose(other.tokens_BxTxD[:, :3], padded.tokens_BxTxD[:, :3], atol=1e-5)
        np.testing.assert_allclose(other.pooled_BxD, padded.pooled_BxD, atol=1e-5)


def test_last_real_token_stands_for_the_text(params):
    with jax.disable_jit():  # one program may compute a vector twice, summed in two orders
        encoded = read(params, IDS, MASK)
    np.testing.assert_array_equal(encoded.pooled_BxD[0], encoded.tokens_BxTxD[0, 5])
    np.testing.assert_array_equal(encoded.pooled_BxD[1], encoded.tokens_BxTxD[1, 2])


def test_order_of_words_matters(params):
    turned = IDS[:1, [1, 0, 2, 3, 4, 5]]
    difference = read(params, turned, MASK[:1]).pooled_BxD - read(params, IDS[:1], MASK[:1]).pooled_BxD
    assert np.abs(difference).max() > 1e-5


def test_logits_are_scaled_cosines(params):
    pixels = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))

    @jax.jit
    def both(params):
        clip = DEFINITION.bind(params)
        return clip.encode_image(pixels), clip.encode_text(IDS, MASK), clip(pixels, IDS, MASK)

    image, text, out = both(params)
    image = np.asarray(image) / np.linalg.norm(image, axis=1, keepdims=True)
    text = np.asarray(text) / np.linalg.norm(text, axis=1, keepdims=True)
    np.testing.assert_allclose(out.image_embeds, image, atol=1e-5)
    np.testing.assert_allclose(out.text_embeds, text, atol=1e-5)
    cosines = image @ text.T  # pictures in rows
    np.testing.assert_allclose(out.logits_per_image, cosines / 0.07, rtol=1e-4, atol=1e-4)
    hot = both({**params, "logit_scale": jnp.asarray(9.0)})[2]
    np.testing.assert_allclose(hot.logits_per_image, 100 * cosines, rtol=1e-4, atol=1e-3)


def test_unit_length_of_nothing_is_nothing():
    value, grad = jax.value_and_grad(lambda x: jnp.sum(unit_length(x)))(jnp.zeros((1, 3)))
    assert value == 0 and np.isfinite(grad).all()


def hand_loss(logits, positives):
    """Each picture picks a text and each text a picture; the target is shared among the positives."""
    logits = np.asarray(logits, np.float64)
    picks = []
    for scores, target in ((logits, positives), (logits.T, positives.T)):
        for row, wanted in zip(scores, target, strict=True):
            logprobs = row - np.log(np.exp(row).sum())
            picks.append(np.mean([-logprobs[j] for j in range(len(row)) if wanted[j]]))
    return np.mean(picks)


DUPLICATES = np.eye(4, dtype=bool)
DUPLICATES[0, 2] = DUPLICATES[2, 0] = True


@pytest.mark.parametrize("positives", [np.eye(4, dtype=bool), DUPLICATES], ids=["distinct", "duplicates"])
def test_contrastive_loss_and_its_gradient(positives):
    logits = np.random.default_rng(0).normal(size=(4, 4))
    loss = jax.jit(jax.value_and_grad(contrastive_loss))
    value, grad = loss(jnp.asarray(logits, jnp.float32), jnp.asarray(positives))
    np.testing.assert_allclose(value, hand_loss(logits, positives), rtol=1e-5)
    step = 1e-5
    for i, j in np.ndindex(4, 4):
        nudge = np.zeros((4, 4))
        nudge[i, j] = step
        slope = (hand_loss(logits + nudge, positives) - hand_loss(logits - nudge, positives)) / (2 * step)
        np.testing.assert_allclose(grad[i, j], slope, atol=1e-5)


def test_hard_negatives_compete_for_pictures_alone():
    logits = np.random.default_rng(1).normal(size=(3, 5))
    rows = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)])
    columns = np.mean([np.log(np.exp(logits[:, j]).sum()) - logits[j, j] for j in range(3)])
    loss = contrastive_loss(jnp.asarray(logits, jnp.float32), jnp.eye(3, 5, dtype=bool))
    np.testing.assert_allclose(loss, (rows + columns) / 2, rtol=1e-5)


def test_contrastive_loss_known_values():
    eye = jnp.eye(4, dtype=bool)
    np.testing.assert_allclose(contrastive_loss(jnp.zeros((4, 4)), eye), np.log(4), rtol=1e-6)
    np.testing.assert_allclose(contrastive_loss(50.0 * jnp.eye(4), eye), 0, atol=1e-6)
    # Two pictures of one name: the best answer is undecided between them, which costs half of the rows ln 2.
    best = contrastive_loss(jnp.where(DUPLICATES, 50.0, 0.0), jnp.asarray(DUPLICATES))
    np.testing.assert_allclose(best, 0.5 * np.log(2), rtol=1e-5)

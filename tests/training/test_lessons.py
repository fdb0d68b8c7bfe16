"""What a step sees of the judgements: as they are by default, varied consistently where that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.augment import random_view
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config import JudgementAugmentConfig, RewardStageConfig
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.lessons import draw, make_lessons, take

KEY = jax.random.key(0)
TEXTS = [["dog face", "left arrow"], ["cat face", "red cat"], ["smiling face", "tired face"]] * 4
TOKENIZER = CaptionTokenizer.train([text for row in TEXTS for text in row], vocab_size=400)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
IDS = TOKENIZER.encode_batch([text for row in TEXTS for text in row], 9).reshape(12, 2, 9)
ROWS = jnp.arange(12)
JUDGEMENTS = Judgements(
    jnp.asarray(PICTURES), jnp.asarray(np.arange(12) % 3, jnp.int32)[:, None], jnp.asarray(IDS), {}
)


def lessons(augment: JudgementAugmentConfig, judgements: Judgements = JUDGEMENTS):
    return make_lessons(judgements, TOKENIZER, augment, KEY)


def said(ids) -> list[list[str]]:
    texts = TOKENIZER.decode_batch(np.asarray(ids).reshape(-1, ids.shape[-1]))
    return np.reshape(texts, ids.shape[:2]).tolist()


def test_by_default_pictures_are_moved_as_before_and_answers_stay():
    augment = RewardStageConfig().augment
    pixels, ids = draw(lessons(augment), ROWS, KEY, augment)
    viewed = random_view(jnp.asarray(PICTURES[np.arange(12) % 3]), KEY, shift=4.0, zoom=0.0)
    np.testing.assert_array_equal(pixels[:, 0], to_pixels(viewed))
    np.testing.assert_array_equal(ids, IDS)


def test_a_picture_is_mirrored_only_where_all_answers_about_it_allow_it():
    augment = JudgementAugmentConfig(shift=0.0, flip=1.0)
    pixels, _ = draw(lessons(augment), ROWS, KEY, augment)
    plain = to_pixels(jnp.asarray(PICTURES))
    np.testing.assert_allclose(pixels[0, 0], plain[0], atol=1e-6)  # "left arrow" was said about it
    np.testing.assert_allclose(pixels[1, 0], plain[1][:, ::-1], atol=1e-6)
    assert lessons(JudgementAugmentConfig(colour=0.1)).may_recolour_N.tolist() == [True, False, True]


def test_mixed_rows_join_pictures_and_answers_alike():
    augment = JudgementAugmentConfig(shift=0.0, mix=1.0)
    pixels, ids = draw(lessons(augment), ROWS, KEY, augment)
    plain = np.asarray(to_pixels(jnp.asarray(PICTURES)))[np.arange(12) % 3]
    fits = [sum((row != 0).sum(-1).max() for row in (IDS[i], IDS[(i + 1) % 12])) - 1 <= 9 for i in range(12)]
    both = np.array(
        [[" ".join(pair) for pair in zip(TEXTS[i], TEXTS[(i + 1) % 12], strict=True)] for i in range(12)]
    )
    mixed = np.array(said(ids)) == np.array(both)
    assert (mixed[:, 0] == mixed[:, 1]).all() and mixed.any() and mixed[np.array(fits)].all()
    halves = (plain + np.roll(plain, -1, axis=0)) / 2
    np.testing.assert_allclose(pixels[:, 0], np.where(mixed[:, :1, None, None], halves, plain), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(ids)[~mixed[:, 0]], IDS[~mixed[:, 0]])


def test_words_are_dropped_and_replaced_on_their_own_for_each_answer():
    augment = JudgementAugmentConfig(shift=0.0, word_dropout=0.5)
    _, ids = draw(lessons(augment), ROWS, KEY, augment)
    short = 0
    for got, full in zip(np.ravel(said(ids)), np.ravel(TEXTS), strict=True):
        assert got and set(got.split()) <= set(full.split())
        short += got != full
    assert 6 < short < 22
    augment = JudgementAugmentConfig(shift=0.0, synonyms=1.0)
    _, ids = draw(lessons(augment), ROWS, KEY, augment)
    words = {text.split()[0] for row in said(ids) for text in row if text.endswith("face")}
    assert "smile" in words and "dog" in words


def test_only_plain_comparisons_are_mixed():
    tied = JUDGEMENTS._replace(said={"tie": jnp.zeros(12, bool)})
    with pytest.raises(UserError, match=r"augment\.mix"):
        lessons(JudgementAugmentConfig(mix=0.5), tied)
    with pytest.raises(UserError, match=r"augment\.mix"):
        RewardStageConfig(transfer="frozen", augment=JudgementAugmentConfig(mix=0.5))


def test_some_rows_are_a_set_of_their_own():
    tied = JUDGEMENTS._replace(said={"tie": jnp.arange(12) % 2 == 0})
    part = take(lessons(JudgementAugmentConfig(), tied), jnp.array([4, 4, 1]))
    np.testing.assert_array_equal(part.judgements.ids_RxSxT, IDS[[4, 4, 1]])
    assert part.judgements.said["tie"].tolist() == [True, True, False]
    assert part.weights_KxR.shape == (1, 3) and part.judgements.image_index_RxI[:, 0].tolist() == [1, 1, 1]

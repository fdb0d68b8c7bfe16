"""Augmentation beyond moving and scaling: each leaves true what it must, and does what it is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.augment import (
    drop_words,
    fits_joined,
    join_texts,
    mix_pictures,
    random_colour,
    random_crop,
    random_cutout,
    random_flip,
    random_view,
    vary,
)

PICTURES, SIZE = 64, 16
KEY = jax.random.key(0)
ALL, NONE = np.ones(PICTURES, bool), np.zeros(PICTURES, bool)
NOISE = np.random.default_rng(0).integers(0, 256, (PICTURES, SIZE, SIZE, 3)).astype(np.float32)


def test_the_defaults_are_the_random_view_of_before_bit_for_bit():
    varied = vary(jnp.asarray(NOISE, jnp.uint8), KEY, ALL, ALL, shift=4.0, zoom=0.1)
    view = random_view(jnp.asarray(NOISE, jnp.uint8), KEY, shift=4.0, zoom=0.1)
    np.testing.assert_array_equal(varied, view)
    np.testing.assert_array_equal(vary(jnp.asarray(NOISE), KEY, ALL, ALL), NOISE)


def test_everything_together_stays_in_range_and_follows_the_key():
    strong = jax.jit(
        functools.partial(vary, shift=2.0, zoom=0.1, crop=0.3, flip=0.5, colour=0.4, cutout=0.25)
    )
    one, again, other = (strong(NOISE, jax.random.key(seed), ALL, ALL) for seed in (0, 0, 1))
    assert one.shape == NOISE.shape and one.dtype == jnp.float32
    assert float(one.min()) >= -1e-3 and float(one.max()) <= 255 + 1e-3
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any(axis=(1, 2, 3)).all()


def test_a_crop_is_a_window_of_the_picture_enlarged():
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float32) * 10 + 20
    ramps = np.tile(np.stack([row, column, row], axis=-1), (PICTURES, 1, 1, 1))
    crops = np.asarray(random_crop(jnp.asarray(ramps), KEY, crop=0.5))
    inner = crops[:, 2:-2, 2:-2]  # at the rim white is mixed in
    slopes = np.diff(inner[..., 0], axis=1).mean(axis=(1, 2)) / 10  # the window's side as a share
    assert 0.49 < slopes.min() < 0.56 and 0.94 < slopes.max() < 1.01
    np.testing.assert_allclose(np.diff(inner[..., 1], axis=2).mean(axis=(1, 2)) / 10, slopes, atol=1e-3)
    middles = inner[..., :2].mean(axis=(1, 2)) / 10 - 2 - (SIZE - 1) / 2  # in pixels from the middle
    assert np.all(np.abs(middles) <= (1 - slopes[:, None]) * SIZE / 2 + 0.1), "no window leaves the picture"
    assert np.abs(middles).max() > 2.5 and abs(np.corrcoef(middles.T)[0, 1]) < 0.4


def test_flips_are_mirror_images_and_only_where_allowed():
    allowed = np.arange(PICTURES) % 2 == 0
    flipped = np.asarray(random_flip(jnp.asarray(NOISE), KEY, allowed, flip=0.5))
    mirrored = (flipped == NOISE[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == NOISE).all(axis=(1, 2, 3))
    assert (mirrored | same).all() and same[~allowed].all()
    assert 6 < mirrored[allowed].sum() < 26
    certain = np.asarray(random_flip(jnp.asarray(NOISE), KEY, allowed, flip=1.0))
    np.testing.assert_array_equal(certain[allowed], NOISE[allowed][:, :, ::-1])


def test_colours_move_within_bounds_and_only_where_allowed():
    allowed = np.arange(PICTURES) % 2 == 0
    middling = 100 + NOISE / 10
    coloured = np.asarray(random_colour(jnp.asarray(middling), KEY, allowed, colour=0.3))
    np.testing.assert_array_equal(coloured[~allowed], middling[~allowed])
    luma = middling @ np.array([0.299, 0.587, 0.114])
    new = coloured[allowed] @ np.array([0.299, 0.587, 0.114])
    brightness = new.mean(axis=(1, 2)) / luma[allowed].mean(axis=(1, 2))
    contrast = new.std(axis=(1, 2)) / luma[allowed].std(axis=(1, 2)) / brightness
    apart, before = (
        np.abs(image[..., 0] - image[..., 2]).mean(axis=(1, 2))
        for image in (coloured[allowed], middling[allowed])
    )
    saturation = apart / before / brightness / contrast
    for factor in (brightness, contrast, saturation):
        assert 0.69 < factor.min() < 0.8 and 1.2 < factor.max() < 1.31
    assert np.abs(np.corrcoef([brightness, contrast, saturation]) - np.eye(3)).max() < 0.6


def test_cutout_whitens_one_square():
    cut = np.asarray(random_cutout(jnp.zeros_like(NOISE), KEY, cutout=0.25))[..., 0]
    assert set(np.unique(cut)) == {0.0, 255.0}
    area = (cut > 0).sum(axis=(1, 2))
    side = SIZE // 4
    assert area.max() == side**2 and area.min() >= (side // 2) ** 2 and np.median(area) >= side * (side - 1)
    rows, columns = (cut > 0).any(axis=2).sum(axis=1), (cut > 0).any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(rows * columns, area)
    assert len({tuple(np.argwhere(one)[0]) for one in cut > 0}) > 30, "each picture has its own"


def test_mixed_pictures_are_halves_of_two():
    mixed = np.asarray(mix_pictures(jnp.asarray(NOISE), np.arange(PICTURES) != 3))
    np.testing.assert_array_equal(mixed[3], NOISE[3])
    np.testing.assert_allclose(mixed[5], (NOISE[5] + NOISE[6]) / 2)
    np.testing.assert_allclose(mixed[-1], (NOISE[-1] + NOISE[0]) / 2)


IDS = np.array([[5, 6, 2, 0, 0, 0], [7, 8, 9, 2, 0, 0], [5, 6, 7, 8, 9, 2], [2, 0, 0, 0, 0, 0]], np.int32)


def test_joined_texts_follow_one_another_and_end_once():
    fits = fits_joined(jnp.asarray(IDS), pad_id=0)
    assert fits.tolist() == [True, False, True, True]
    joined = join_texts(jnp.asarray(IDS), fits, pad_id=0)
    np.testing.assert_array_equal(joined[0], [5, 6, 7, 8, 9, 2])
    np.testing.assert_array_equal(joined[1], IDS[1])
    np.testing.assert_array_equal(joined[2], [5, 6, 7, 8, 9, 2])  # an empty text follows
    np.testing.assert_array_equal(joined[3], IDS[0])


def test_whole_words_are_dropped_and_the_rest_moves_up():
    starts = np.zeros(12, bool)
    starts[[5, 7, 9, 10]] = True  # 6 and 8 go on with a word
    row = np.array([5, 6, 7, 8, 9, 10, 2, 0, 0], np.int32)

    dropped = drop_words(jnp.tile(jnp.asarray(row), (2000, 1)), KEY, starts, rate=0.3, pad_id=0, end_id=2)
    kept = np.zeros(4)
    for ids in np.asarray(dropped):
        end = ids.tolist().index(2)
        assert not ids[end + 1 :].any()
        text, left = ids[:end].tolist(), []
        for number, word in enumerate([(5, 6), (7, 8), (9,), (10,)]):
            if word[0] in text:
                left += word
                kept[number] += 1
        assert text == left and text, "words are whole and in order, and one at least is left"
    # a row that would lose all four keeps them
    np.testing.assert_allclose(kept / 2000, 0.7 + 0.3**4, atol=0.04)
    np.testing.assert_array_equal(drop_words(IDS, KEY, starts, rate=0.0, pad_id=0, end_id=2), IDS)


@pytest.mark.parametrize("ids", [[2, 0, 0], [5, 6, 2]])
def test_a_text_of_no_or_one_word_is_left_alone(ids):
    starts = np.arange(8) == 5
    batch = jnp.tile(jnp.asarray(ids, jnp.int32), (50, 1))
    np.testing.assert_array_equal(drop_words(batch, KEY, starts, rate=0.9, pad_id=0, end_id=2), batch)

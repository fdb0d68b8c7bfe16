"""Random shifts of pictures."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.augment import random_shift

PICTURES = jnp.arange(64 * 6 * 5 * 3, dtype=jnp.int32).reshape(64, 6, 5, 3)


def shift_by_hand(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    """The picture moved by whole pixels, the edge's colours in the gap."""
    rows = np.clip(np.arange(picture.shape[0]) - down, 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(picture.shape[1]) - right, 0, picture.shape[1] - 1)
    return picture[rows][:, columns]


def test_every_picture_is_moved_by_whole_pixels_within_bounds_and_on_its_own():
    shifted = np.asarray(random_shift(PICTURES, jax.random.key(0), pixels=2))
    seen = []
    for before, after in zip(np.asarray(PICTURES), shifted, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if (shift_by_hand(before, down, right) == after).all()
        ]
        assert len(fits) == 1
        seen += fits
    # 64 draws of 25 moves: both directions, the extremes and the picture in place are all among them
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}
    assert any(down != right for down, right in seen)


def test_no_shift_leaves_pictures_alone_and_keys_decide():
    np.testing.assert_array_equal(random_shift(PICTURES, jax.random.key(0), pixels=0), PICTURES)
    one, again, other = (random_shift(PICTURES, jax.random.key(seed), pixels=3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_dtype_is_kept():
    pictures = jnp.zeros((2, 8, 8, 3), jnp.uint8)
    assert random_shift(pictures, jax.random.key(0), pixels=4).dtype == jnp.uint8

"""Random views of pictures: moved and scaled within bounds, each on its own, nothing turned or recoloured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.augment import random_view

PICTURES, SIZE = 64, 32


def square_pictures() -> jax.Array:
    """White pictures with a 12 x 8 block in the middle, dark in red, less so in green, not at all in blue."""
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[10:22, 12:20] = (55, 155, 255)
    return jnp.asarray(np.tile(picture, (PICTURES, 1, 1, 1)))


def darkness(pictures: jax.Array) -> np.ndarray:
    """How far the red of each picture is from white, (N, H, W)."""
    return 255.0 - np.asarray(pictures, np.float64)[..., 0]


def centres(pictures: jax.Array) -> np.ndarray:
    """Centre of mass of each picture's darkness, (N, 2), relative to the picture's middle."""
    mass = darkness(pictures)
    at = np.arange(SIZE) + 0.5 - SIZE / 2
    moments = np.stack([(mass.sum(2) * at).sum(1), (mass.sum(1) * at).sum(1)], axis=1)
    return moments / mass.sum((1, 2))[:, None]


def test_pictures_are_moved_in_both_directions_within_bounds_and_on_their_own():
    moved = random_view(square_pictures(), jax.random.key(0), shift=4.0, zoom=0.0)
    offsets = centres(moved)
    assert np.abs(offsets).max() <= 4.0 + 1e-3
    # 64 draws: both ends of both directions are nearly reached, and the two directions are not one
    assert (offsets.max(0) > 3.0).all() and (offsets.min(0) < -3.0).all()
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.5
    assert len(np.unique(offsets.round(4), axis=0)) == PICTURES
    # moving neither adds nor takes away colour
    mass = darkness(square_pictures()).sum((1, 2))
    np.testing.assert_allclose(darkness(moved).sum((1, 2)), mass, rtol=1e-4)


def test_pictures_are_scaled_about_their_middle_within_bounds():
    scaled = random_view(square_pictures(), jax.random.key(1), shift=0.0, zoom=0.25)
    np.testing.assert_allclose(centres(scaled), 0.0, atol=1e-2)
    areas = darkness(scaled).sum((1, 2)) / darkness(square_pictures()).sum((1, 2))
    factors = np.sqrt(areas)
    assert factors.min() > 0.75 - 0.02 and factors.max() < 1.25 + 0.02
    assert factors.min() < 0.82 and factors.max() > 1.18


def test_colours_and_sides_stay_as_they_are():
    pictures = np.full((PICTURES, SIZE, SIZE, 3), 255, np.uint8)
    pictures[:, 8:24, 8:14] = (0, 255, 255)  # red's darkness on the left
    pictures[:, 8:24, 18:24] = (255, 255, 0)  # blue's on the right
    views = random_view(jnp.asarray(pictures), jax.random.key(2), shift=4.0, zoom=0.1)
    dark = 255.0 - np.asarray(views)
    at = np.arange(SIZE)
    red, blue = ((dark[..., c].sum(1) * at).sum(1) / dark[..., c].sum((1, 2)) for c in (0, 2))
    assert (blue - red > 7).all()
    np.testing.assert_allclose(dark[..., 1], 0.0, atol=1e-3)


def test_what_comes_in_from_outside_is_white():
    black = jnp.zeros((PICTURES, SIZE, SIZE, 3), jnp.uint8)
    views = np.asarray(random_view(black, jax.random.key(3), shift=8.0, zoom=0.0))
    corners = views[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    # whichever way a picture went, at least one corner is uncovered and the middle is not
    assert (corners.max(1) > 250).mean() > 0.8
    np.testing.assert_allclose(views[:, SIZE // 2, SIZE // 2], 0.0, atol=1e-3)
    white = random_view(jnp.full_like(black, 255), jax.random.key(3), shift=8.0, zoom=0.3)
    np.testing.assert_allclose(white, 255.0, atol=1e-3)


def test_values_stay_in_range():
    noise = jax.random.randint(jax.random.key(4), (4, SIZE, SIZE, 3), 0, 256).astype(jnp.uint8)
    views = random_view(noise, jax.random.key(5), shift=3.0, zoom=0.2)
    assert views.dtype == jnp.float32 and views.shape == noise.shape
    assert float(views.min()) >= -1e-3 and float(views.max()) <= 255 + 1e-3


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_without_shift_and_zoom_pictures_are_left_alone(dtype):
    pictures = square_pictures().astype(dtype)
    view = random_view(pictures, jax.random.key(0), shift=0.0, zoom=0.0)
    assert view.dtype == jnp.float32
    np.testing.assert_array_equal(view, np.asarray(pictures, np.float32))


def test_the_key_decides():
    one, again, other = (
        random_view(square_pictures()[:2], jax.random.key(seed), shift=3.0, zoom=0.1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()

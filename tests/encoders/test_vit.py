"""The picture tower: pixels, patches and what sees what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.positions import interpolate_positions
from mmrlhf_jax.encoders.vit import AttentionPool, VisionTransformer, patches, to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import define
from tests.parameters import draw

CONFIG = VisionConfig(16, 8, TransformerConfig(width=8, layers=1, heads=2, mlp_width=16))
DEFINITION = define(lambda rngs: VisionTransformer(CONFIG, rngs=rngs))


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@pytest.fixture(scope="module")
def pixels_BxHxWxC():
    return jax.random.normal(jax.random.key(1), (2, 16, 16, 3))


@jax.jit
def forward(params, pixels_BxHxWxC):
    return DEFINITION.bind(params)(pixels_BxHxWxC)


def test_patches_are_row_major():
    """Each number says row, column, channel: 213 is row 2, column 1, channel 3."""
    row, column, channel = np.meshgrid(range(4), range(6), range(1, 4), indexing="ij")
    picture = jnp.asarray(100 * row + 10 * column + channel)[None]
    cut = np.asarray(patches(picture, 2))
    assert cut.shape == (1, 6, 12)
    assert cut[0, 0].tolist() == [1, 2, 3, 11, 12, 13, 101, 102, 103, 111, 112, 113]
    assert cut[0, 1].tolist() == [21, 22, 23, 31, 32, 33, 121, 122, 123, 131, 132, 133]
    assert cut[0, :, 0].tolist() == [1, 21, 41, 201, 221, 241]


def test_to_pixels_has_the_constants_of_clip():
    """Black and white, as CLIP's image processors give them."""
    picture = np.zeros((2, 1, 1, 3), np.uint8)
    picture[1] = 255
    pixels = to_pixels(jnp.asarray(picture))
    assert pixels.dtype == jnp.float32
    np.testing.assert_allclose(pixels[0, 0, 0], [-1.7922626, -1.7520971, -1.4802198], rtol=1e-5)
    np.testing.assert_allclose(pixels[1, 0, 0], [1.9303361, 2.0748837, 2.1458961], rtol=1e-5)


def test_shapes_and_norm(params, pixels_BxHxWxC):
    plain = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    encoded = forward({**params, "post_norm": plain}, pixels_BxHxWxC)
    assert encoded.tokens_BxTxD.shape == (2, 4, 8) and encoded.pooled_BxD.shape == (2, 8)
    for vectors in encoded:
        np.testing.assert_allclose(np.mean(vectors, axis=-1), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(vectors, axis=-1), 1, atol=1e-3)


def test_every_pixel_is_seen_by_its_own_row_alone(params, pixels_BxHxWxC):
    grads = jax.grad(lambda x: jnp.sum(jnp.sin(forward(params, x).pooled_BxD[0])))(pixels_BxHxWxC)
    assert np.all(grads[0] != 0) and not np.any(grads[1])


def test_positions_tell_patches_apart(params, pixels_BxHxWxC):
    """Swapping the upper and the lower half gives another picture."""
    swapped = jnp.concatenate([pixels_BxHxWxC[:, 8:], pixels_BxHxWxC[:, :8]], axis=1)
    difference = forward(params, swapped).pooled_BxD - forward(params, pixels_BxHxWxC).pooled_BxD
    assert np.abs(difference).max() > 1e-3
    without = {**params, "positions": jnp.zeros_like(params["positions"])}
    np.testing.assert_allclose(
        forward(without, swapped).pooled_BxD, forward(without, pixels_BxHxWxC).pooled_BxD, atol=1e-5
    )


def test_layers_and_sizes_that_are_not_there(params):
    tower = DEFINITION.bind(params)
    with pytest.raises(UserError, match="layer 2 of a tower of 1 layers: choose -2 to 1"):
        tower.features(jnp.zeros((1, 16, 16, 3)), layer=2)
    with pytest.raises(UserError, match="20x16 pixels"):
        tower(jnp.zeros((1, 16, 20, 3)))


def test_features_count_from_both_ends(params, pixels_BxHxWxC):
    tower = DEFINITION.bind(params)
    np.testing.assert_array_equal(
        tower.features(pixels_BxHxWxC), tower.features(pixels_BxHxWxC, layer=1), "the last one"
    )
    entering = tower.features(pixels_BxHxWxC, layer=-2)
    np.testing.assert_array_equal(entering, tower.features(pixels_BxHxWxC, layer=0))
    np.testing.assert_allclose(tower.transformer(entering), tower.features(pixels_BxHxWxC), atol=1e-6)


def test_attention_pool_weighs_its_tokens():
    """Order does not matter, and a token that fits the query outweighs the others."""
    definition = define(lambda rngs: AttentionPool(CONFIG.transformer, rngs=rngs))
    pool = definition.bind(draw(definition.abstract(), seed=4))
    x_BxTxD = jax.random.normal(jax.random.key(5), (2, 6, 8))
    wanted = pool(x_BxTxD)
    np.testing.assert_allclose(pool(x_BxTxD[:, ::-1]), wanted, atol=1e-5)
    assert wanted.shape == (2, 8) and np.abs(pool(x_BxTxD[:, :5]) - wanted).max() > 1e-3


def test_positions_at_another_size():
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    np.testing.assert_array_equal(interpolate_positions(grid, (4, 4), (4, 4)), grid)
    np.testing.assert_allclose(interpolate_positions(jnp.ones((16, 3)), (4, 4), (7, 2)), 1, atol=1e-6)
    turned = grid.reshape(4, 4, 3).swapaxes(0, 1).reshape(16, 3)  # rows are rows and columns columns
    wide, high = interpolate_positions(grid, (4, 4), (2, 8)), interpolate_positions(turned, (4, 4), (8, 2))
    np.testing.assert_allclose(wide.reshape(2, 8, 3), high.reshape(8, 2, 3).swapaxes(0, 1), atol=1e-6)


def test_tokens_stand_in_the_order_of_the_patches(params, pixels_BxHxWxC):
    """A patch moves its own token more than any other token."""
    before = forward(params, pixels_BxHxWxC).tokens_BxTxD
    changed = pixels_BxHxWxC.at[:, 8:, :8].add(1.0)  # the third patch of four: lower left
    moved = np.abs(forward(params, changed).tokens_BxTxD - before).sum(axis=-1)
    assert moved.argmax(axis=1).tolist() == [2, 2]


def test_what_no_patch_covers_is_not_seen():
    """As the convolution of the originals: SigLIP so400m has 27 x 27 patches of 14 pixels in 384 x 384."""
    config = VisionConfig(19, 8, TransformerConfig(width=8, layers=1, heads=2, mlp_width=8))
    definition = define(lambda rngs: VisionTransformer(config, rngs=rngs))
    tower = definition.bind(draw(definition.abstract()))
    pixels = jax.random.normal(jax.random.key(6), (1, 19, 19, 3))
    grads = jax.grad(lambda pixels: jnp.sum(jnp.sin(tower(pixels).tokens_BxTxD)))(pixels)
    assert np.all(grads[:, :16, :16] != 0) and not np.any(grads[:, 16:]) and not np.any(grads[:, :, 16:])
    np.testing.assert_allclose(tower(pixels).pooled_BxD, tower(pixels[:, :16, :16]).pooled_BxD, atol=1e-6)

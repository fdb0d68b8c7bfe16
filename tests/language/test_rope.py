"""Rotary positions: by hand, and the published frequencies of the scaled kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling
from mmrlhf_jax.language.rope import attention_factor, frequencies, rotate, rotation


def config(head_width: int, theta: float, **scaling) -> DecoderConfig:
    rope = RopeScaling(**scaling)
    return DecoderConfig(heads=1, kv_heads=1, head_dim=head_width, rope_theta=theta, rope_scaling=rope)


def turned(x, position: int, architecture: DecoderConfig):
    turn = rotation(jnp.asarray([[position]]), architecture)
    return rotate(jnp.asarray(x)[None, None, None], turn)[0, 0, 0]


def test_rotate_by_hand():
    """Two pairs of coordinates, (0, 2) and (1, 3), turned by p and by p / sqrt(theta)."""
    x, position = np.array([1.0, 2.0, 3.0, 4.0], np.float32), 5
    wanted = np.empty(4)
    for pair, angle in ((0, position), (1, position / 10)):
        number = (x[pair] + 1j * x[pair + 2]) * np.exp(1j * angle)
        wanted[pair], wanted[pair + 2] = number.real, number.imag
    np.testing.assert_allclose(turned(x, position, config(4, 100.0)), wanted, rtol=1e-5)


def test_rotated_products_depend_on_distance_alone():
    query, key = jax.random.normal(jax.random.key(2), (2, 8))
    architecture = config(8, 1e4)

    def product(m: int, n: int) -> jax.Array:
        return jnp.sum(turned(query, m, architecture) * turned(key, n, architecture))

    np.testing.assert_allclose(product(7, 3), product(24, 20), rtol=1e-4)
    assert abs(product(7, 3) - product(3, 7)) > 1e-3


def test_far_positions_keep_their_precision_in_half_the_bits():
    x = np.array([1.0, 0.0], np.float32)
    wanted = [np.cos(1001), np.sin(1001)]  # bfloat16 cannot tell 1001 from 1000
    half = turned(jnp.asarray(x, jnp.bfloat16), 1001, config(2, 1e4))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wanted, atol=1e-2)


def test_linear_divides_positions():
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    stretched, plain = config(4, 100.0, kind="linear", factor=4.0), config(4, 100.0)
    np.testing.assert_allclose(turned(x, 12, stretched), turned(x, 3, plain), rtol=1e-5)


def test_llama3_slows_the_long_waves_alone():
    """Llama 3.1's setting: waves under 2048 positions kept, over 8192 eight times longer, a blend between."""
    given = config(128, 5e5, kind="llama3", factor=8.0, original_positions=8192)
    ratio = frequencies(given) / frequencies(config(128, 5e5))
    wave = 2 * np.pi / frequencies(config(128, 5e5))
    assert np.all(ratio[wave < 2048] == 1) and np.allclose(ratio[wave > 8192], 1 / 8)
    between = (wave > 2048) & (wave < 8192)
    smooth = (8192 / wave[between] - 1) / (4 - 1)
    np.testing.assert_allclose(ratio[between], (1 - smooth) / 8 + smooth, rtol=1e-6)
    assert between.sum() > 3


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_ramps_from_fast_to_slow(truncate):
    """Qwen2.5's setting; frequency i makes L theta^(-i / 64) / 2 pi turns within L positions."""
    given = config(128, 1e6, kind="yarn", factor=4.0, original_positions=32768, truncate=truncate)
    ratio = frequencies(given) / frequencies(config(128, 1e6))
    turns = 32768 * frequencies(config(128, 1e6)) / (2 * np.pi)
    assert np.all(np.diff(ratio) <= 1e-12)
    assert np.allclose(ratio[turns >= 60], 1) and np.allclose(ratio[turns <= 0.7], 0.25)
    fast = 64 * np.log(32768 / (2 * np.pi * 32)) / np.log(1e6)
    slow = 64 * np.log(32768 / (2 * np.pi)) / np.log(1e6)
    if truncate:
        fast, slow = np.floor(fast), np.ceil(slow)
    middle = 31
    assert fast < middle < slow
    share = (middle - fast) / (slow - fast)
    np.testing.assert_allclose(ratio[middle], 1 - share + share / 4, rtol=1e-6)


def test_yarn_sharpens_attention():
    assert attention_factor(RopeScaling("yarn", 4.0)) == pytest.approx(0.1 * np.log(4) + 1)
    assert attention_factor(RopeScaling("yarn", 4.0, attention_factor=1.5)) == 1.5
    assert attention_factor(RopeScaling("linear", 4.0)) == 1
    length = jnp.linalg.norm(
        turned(np.array([3.0, 4.0], np.float32), 9, config(2, 1e4, kind="yarn", factor=4.0))
    )
    np.testing.assert_allclose(length, 5 * (0.1 * np.log(4) + 1), rtol=1e-5)


def test_dynamic_is_the_default_within_its_length():
    given = DecoderConfig(max_positions=16, rope_scaling=RopeScaling("dynamic", 2.0))
    np.testing.assert_array_equal(frequencies(given), frequencies(DecoderConfig()))
    assert given.length_limit == 16

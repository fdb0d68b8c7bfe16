"""Augmentation of pictures, on the device."""

import jax
import jax.numpy as jnp


def random_shift(image_BxHxWxC: jax.Array, key: jax.Array, *, pixels: int) -> jax.Array:
    """Moves each picture by up to `pixels` in both directions; the edge's colours fill the gap.

    What a picture shows stays true under it: colours, sides and order are kept, so every caption still fits.
    """
    if pixels == 0:
        return image_BxHxWxC
    padded = jnp.pad(image_BxHxWxC, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    offset_Bx2 = jax.random.randint(key, (image_BxHxWxC.shape[0], 2), 0, 2 * pixels + 1)

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), image_BxHxWxC.shape[1:])

    return jax.vmap(cut)(padded, offset_Bx2)

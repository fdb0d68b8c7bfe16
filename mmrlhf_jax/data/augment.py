"""Augmentation of pictures, on the device."""

import jax
import jax.numpy as jnp

WHITE = 255.0


def random_view(image_BxHxWxC: jax.Array, key: jax.Array, *, shift: float, zoom: float) -> jax.Array:
    """Moves each picture by up to `shift` pixels both ways and scales it by up to a factor 1 +- `zoom`.

    What a picture shows stays true under it: colours, sides and order are kept, so every caption still fits.

    Args:
      image_BxHxWxC: uint8 or float32, 0-255.

    Returns:
      float32 pictures of the same size, 0-255; what comes in from outside is white.
    """
    image_BxHxWxC = image_BxHxWxC.astype(jnp.float32)
    if shift == 0 and zoom == 0:
        return image_BxHxWxC
    shape = image_BxHxWxC.shape[1:]
    centre_2 = jnp.array(shape[:2], jnp.float32) / 2
    key_shift, key_zoom = jax.random.split(key)
    shift_Bx2 = jax.random.uniform(key_shift, (image_BxHxWxC.shape[0], 2), minval=-shift, maxval=shift)
    scale_B = 1 + jax.random.uniform(key_zoom, (image_BxHxWxC.shape[0],), minval=-zoom, maxval=zoom)

    def view(image: jax.Array, shift_2: jax.Array, scale: jax.Array) -> jax.Array:
        scale_2 = jnp.stack([scale, scale])
        translation_2 = centre_2 * (1 - scale) + shift_2
        # The function fills with 0, so white is made 0.
        darkness = jax.image.scale_and_translate(
            WHITE - image, shape, (0, 1), scale_2, translation_2, "linear", antialias=False
        )
        return WHITE - darkness

    return jax.vmap(view)(image_BxHxWxC, shift_Bx2, scale_B)

"""Augmentation of pictures and token rows, on the device: pure functions of a key.

Every function leaves what it gets alone where its strength is 0. What makes a caption untrue is for the
caller to rule out: `data/truths.py` says which captions allow a mirror image or other colours.
"""

import jax
import jax.numpy as jnp

WHITE = 255.0
LUMA = (0.299, 0.587, 0.114)  # share of red, green and blue in how bright a colour looks (ITU-R BT.601)


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
    centre_2 = jnp.array(image_BxHxWxC.shape[1:3], jnp.float32) / 2
    key_shift, key_zoom = jax.random.split(key)
    shift_Bx2 = jax.random.uniform(key_shift, (image_BxHxWxC.shape[0], 2), minval=-shift, maxval=shift)
    scale_B = 1 + jax.random.uniform(key_zoom, (image_BxHxWxC.shape[0],), minval=-zoom, maxval=zoom)

    def view(image: jax.Array, shift_2: jax.Array, scale: jax.Array) -> jax.Array:
        return _placed(image, scale, centre_2 * (1 - scale) + shift_2)

    return jax.vmap(view)(image_BxHxWxC, shift_Bx2, scale_B)


def random_crop(image_BxHxWxC: jax.Array, key: jax.Array, *, crop: float) -> jax.Array:
    """Cuts a window out of each float picture and enlarges it to the whole size.

    The window's sides are a share of the picture's, uniform from 1 - `crop` to 1; it lies anywhere inside.
    """
    if crop == 0:
        return image_BxHxWxC
    size_2 = jnp.array(image_BxHxWxC.shape[1:3], jnp.float32)
    key_side, key_place = jax.random.split(key)
    side_B = jax.random.uniform(key_side, (image_BxHxWxC.shape[0],), minval=1 - crop, maxval=1.0)
    place_Bx2 = jax.random.uniform(key_place, (image_BxHxWxC.shape[0], 2))

    def view(image: jax.Array, side: jax.Array, place_2: jax.Array) -> jax.Array:
        corner_2 = place_2 * (1 - side) * size_2
        return _placed(image, 1 / side, -corner_2 / side)

    return jax.vmap(view)(image_BxHxWxC, side_B, place_Bx2)


def random_flip(image_BxHxWxC: jax.Array, key: jax.Array, allowed_B: jax.Array, *, flip: float) -> jax.Array:
    """Mirrors each picture left to right with probability `flip`, where `allowed_B` is True."""
    if flip == 0:
        return image_BxHxWxC
    flipped_B = jax.random.bernoulli(key, flip, allowed_B.shape) & allowed_B
    return jnp.where(_wide(flipped_B), image_BxHxWxC[:, :, ::-1], image_BxHxWxC)


def random_colour(
    image_BxHxWxC: jax.Array, key: jax.Array, allowed_B: jax.Array, *, colour: float
) -> jax.Array:
    """Brightness, contrast and saturation of each RGB picture times 1 +- `colour`, where `allowed_B` is True.

    Contrast is the distance from the picture's mean luma, saturation that from each pixel's own.
    """
    if colour == 0:
        return image_BxHxWxC
    factor_3xB = jax.random.uniform(key, (3, *allowed_B.shape), minval=1 - colour, maxval=1 + colour)
    brightness, contrast, saturation = (_wide(factor_B) for factor_B in factor_3xB)

    def luma(image: jax.Array) -> jax.Array:
        return jnp.sum(image * jnp.asarray(LUMA)[None, None, None], axis=-1, keepdims=True)

    bright = image_BxHxWxC * brightness
    mean = jnp.mean(luma(bright), axis=(1, 2), keepdims=True)
    contrasted = mean + contrast * (bright - mean)
    grey = luma(contrasted)
    coloured = jnp.clip(grey + saturation * (contrasted - grey), 0.0, WHITE)
    return jnp.where(_wide(allowed_B), coloured, image_BxHxWxC)


def random_cutout(image_BxHxWxC: jax.Array, key: jax.Array, *, cutout: float) -> jax.Array:
    """Whitens a square of `cutout` times the picture's height; its middle is anywhere in the picture.

    DeVries, Taylor 2017 (arXiv:1708.04552).
    """
    if cutout == 0:
        return image_BxHxWxC
    batch, height, width, _ = image_BxHxWxC.shape
    middle_Bx2 = jax.random.uniform(key, (batch, 2)) * jnp.array([height, width], jnp.float32)[None]
    half = cutout * height / 2
    row_H, column_W = (jnp.arange(size, dtype=jnp.float32) + 0.5 for size in (height, width))
    in_row_BxH = jnp.abs(row_H[None] - middle_Bx2[:, :1]) < half
    in_column_BxW = jnp.abs(column_W[None] - middle_Bx2[:, 1:]) < half
    cut_BxHxW = in_row_BxH[:, :, None] & in_column_BxW[:, None]
    return jnp.where(cut_BxHxW[..., None], WHITE, image_BxHxWxC)


def vary(
    image_BxHxWxC: jax.Array,
    key: jax.Array,
    may_flip_B: jax.Array,
    may_recolour_B: jax.Array,
    *,
    shift: float = 0.0,
    zoom: float = 0.0,
    crop: float = 0.0,
    flip: float = 0.0,
    colour: float = 0.0,
    cutout: float = 0.0,
) -> jax.Array:
    """All of the above, one after the other, each with a key of its own; float32, 0-255.

    With `shift` and `zoom` alone it is `random_view` with the same key, bit for bit.
    """
    image_BxHxWxC = random_view(image_BxHxWxC, key, shift=shift, zoom=zoom)
    key_crop, key_flip, key_colour, key_cutout = (jax.random.fold_in(key, i) for i in range(4))
    image_BxHxWxC = random_crop(image_BxHxWxC, key_crop, crop=crop)
    image_BxHxWxC = random_flip(image_BxHxWxC, key_flip, may_flip_B, flip=flip)
    image_BxHxWxC = random_colour(image_BxHxWxC, key_colour, may_recolour_B, colour=colour)
    return random_cutout(image_BxHxWxC, key_cutout, cutout=cutout)


def mix_pictures(image_BxHxWxC: jax.Array, mixed_B: jax.Array) -> jax.Array:
    """Half of each picture and half of the next one's in the batch, where `mixed_B` is True.

    With `join_texts` of the same rows the pair stays consistent: the picture shows both, the text says both
    (MixGen, Hao et al. 2022, arXiv:2206.08358).
    """
    other_BxHxWxC = jnp.roll(image_BxHxWxC, -1, axis=0)
    return jnp.where(_wide(mixed_B), (image_BxHxWxC + other_BxHxWxC) / 2, image_BxHxWxC)


def fits_joined(ids_BxT: jax.Array, *, pad_id: int) -> jax.Array:
    """Whether each row and the next one, less one of the two end tokens, fit in T places; (B,) bool."""
    length_B = jnp.sum(ids_BxT != pad_id, axis=1)
    return length_B + jnp.roll(length_B, -1) - 1 <= ids_BxT.shape[1]


def join_texts(ids_BxT: jax.Array, mixed_B: jax.Array, *, pad_id: int) -> jax.Array:
    """Each row without its end token, followed by the next row of the batch, where `mixed_B` is True.

    Args:
      ids_BxT: right-padded with `pad_id`, an end token last.
      mixed_B: rows that `fits_joined` allows.
    """
    place_BxT = jnp.broadcast_to(jnp.arange(ids_BxT.shape[1])[None], ids_BxT.shape)
    start_Bx1 = jnp.sum(ids_BxT != pad_id, axis=1, keepdims=True) - 1
    from_other_BxT = jnp.take_along_axis(
        jnp.roll(ids_BxT, -1, axis=0), jnp.maximum(place_BxT - start_Bx1, 0), axis=1
    )
    joined_BxT = jnp.where(place_BxT < start_Bx1, ids_BxT, from_other_BxT)
    return jnp.where(mixed_B[:, None], joined_BxT, ids_BxT)


def drop_words(
    ids_BxT: jax.Array, key: jax.Array, starts_V: jax.Array, *, rate: float, pad_id: int, end_id: int
) -> jax.Array:
    """Leaves each word out with probability `rate`, all of its tokens together; the rest moves up.

    Args:
      ids_BxT: right-padded with `pad_id`, an end token last, which stays.
      starts_V: True for the tokens that begin a word.

    Returns:
      ids_BxT of the same shape; a row that would lose all of its words keeps them.
    """
    if rate == 0:
        return ids_BxT
    word_BxT = jnp.cumsum(starts_V[ids_BxT], axis=1)
    kept_word_BxW = jax.random.bernoulli(key, 1 - rate, (ids_BxT.shape[0], ids_BxT.shape[1] + 1))
    special_BxT = (ids_BxT == pad_id) | (ids_BxT == end_id)
    kept_BxT = jnp.take_along_axis(kept_word_BxW, word_BxT, axis=1)
    some_Bx1 = jnp.any(kept_BxT & ~special_BxT, axis=1, keepdims=True)
    kept_BxT = kept_BxT | special_BxT | ~some_Bx1
    order_BxT = jnp.argsort(~kept_BxT, axis=1, stable=True)
    kept_count_Bx1 = jnp.sum(kept_BxT, axis=1, keepdims=True)
    moved_BxT = jnp.take_along_axis(ids_BxT, order_BxT, axis=1)
    return jnp.where(jnp.arange(ids_BxT.shape[1])[None] < kept_count_Bx1, moved_BxT, pad_id)


def _placed(image_HxWxC: jax.Array, scale: jax.Array, translation_2: jax.Array) -> jax.Array:
    """The picture times `scale`, moved by `translation_2` pixels, on white."""
    # The function fills with 0, so white is made 0.
    darkness = jax.image.scale_and_translate(
        WHITE - image_HxWxC,
        image_HxWxC.shape,
        (0, 1),
        jnp.stack([scale, scale]),
        translation_2,
        "linear",
        antialias=False,
    )
    return WHITE - darkness


def _wide(value_B: jax.Array) -> jax.Array:
    """(B,) as (B, 1, 1, 1), to go with pictures."""
    return value_B[:, None, None, None]

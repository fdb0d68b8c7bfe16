"""Captioned pictures on the device, and how a step draws from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.augment import vary
from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.data.truths import allowed
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config import AugmentConfig, StageConfig
from mmrlhf_jax.types import Prompts


class Pictures(NamedTuple):
    """N captioned pictures, whole on the device.

    Attributes:
      image_NxHxWxC: uint8.
      ids_NxT: int32, the names as tokens, right-padded, end token included.
      mask_NxT: bool, True on real tokens.
      name_N: int32, the same number for pictures of the same name.
      may_flip_N: bool, whether the name fits a mirror image.
      may_recolour_N: bool, whether the name fits other colours.
      prompts: what stands before each name, rows (N, L); None: the begin token alone.
    """

    image_NxHxWxC: jax.Array
    ids_NxT: jax.Array
    mask_NxT: jax.Array
    name_N: jax.Array
    may_flip_N: jax.Array
    may_recolour_N: jax.Array
    prompts: Prompts | None = None


class Subjects(NamedTuple):
    """What a policy writes about.

    Attributes:
      images_NxHxWxC: uint8.
      said: what comes with each picture; None: nothing, as with a captioner.
      names: what people call each picture, where that is known.
    """

    images_NxHxWxC: np.ndarray
    said: list[str] | None = None
    names: list[str] | None = None


def subjects_of(captions: CaptionSet) -> Subjects:
    """The pictures of a captioner, with their names."""
    return Subjects(captions.images_NxHxWxC, names=captions.names)


class PictureBatch(NamedTuple):
    """What one step sees: pixels as float32 after augmentation, the rest as in `Pictures`.

    Attributes:
      row_B: int32, where each picture stands in `Pictures`.
    """

    row_B: jax.Array
    pixels_BxHxWxC: jax.Array
    ids_BxT: jax.Array
    mask_BxT: jax.Array
    name_B: jax.Array
    prompts: Prompts | None = None


def load_split(config: StageConfig, split: str | None) -> CaptionSet:
    """The bundled pictures of `split` (None: all), evenly thinned to `config.max_pictures`."""
    captions = load_emoji(split)
    if len(captions) <= config.max_pictures:
        return captions
    return captions.take(np.linspace(0, len(captions) - 1, config.max_pictures).astype(np.int64))


def to_device(captions: CaptionSet, tokenizer: CaptionTokenizer, max_length: int) -> Pictures:
    """Captions as arrays; names longer than `max_length` tokens are cut and keep their end token."""
    return with_texts(captions.images_NxHxWxC, captions.names, tokenizer, max_length)


def with_texts(
    image_NxHxWxC: np.ndarray, texts: list[str], tokenizer: CaptionTokenizer, max_length: int
) -> Pictures:
    """Pictures and what to write about each, cut to `max_length` tokens with the end token kept."""
    _, name_N = np.unique(np.array(texts), return_inverse=True)
    ids_NxT = jnp.asarray(tokenizer.encode_batch(texts, max_length))
    may_flip_N, may_recolour_N = allowed(texts)
    return Pictures(
        jnp.asarray(image_NxHxWxC),
        ids_NxT,
        ids_NxT != PAD_ID,
        jnp.asarray(name_N, jnp.int32),
        jnp.asarray(may_flip_N),
        jnp.asarray(may_recolour_N),
    )


def draw(
    pictures: Pictures, key: jax.Array, step: jax.Array, *, batch: int, augment: AugmentConfig
) -> PictureBatch:
    """The batch of `step`: an even walk through the set, each picture seen anew."""
    key_order, key_view = jax.random.split(key)
    rows_B = batch_indices(key_order, step, batch=batch, size=pictures.image_NxHxWxC.shape[0])
    key_view = jax.random.fold_in(key_view, step)
    viewed = varied(
        pictures.image_NxHxWxC[rows_B],
        key_view,
        pictures.may_flip_N[rows_B],
        pictures.may_recolour_N[rows_B],
        augment,
    )
    return PictureBatch(
        rows_B,
        to_pixels(viewed),
        pictures.ids_NxT[rows_B],
        pictures.mask_NxT[rows_B],
        pictures.name_N[rows_B],
        jax.tree.map(lambda leaf: leaf[rows_B], pictures.prompts),
    )


def varied(
    image_BxHxWxC: jax.Array,
    key: jax.Array,
    may_flip_B: jax.Array,
    may_recolour_B: jax.Array,
    augment: AugmentConfig,
) -> jax.Array:
    """Pictures seen anew as the configuration says, float32, 0-255."""
    return vary(
        image_BxHxWxC,
        key,
        may_flip_B,
        may_recolour_B,
        shift=augment.shift,
        zoom=augment.zoom,
        crop=augment.crop,
        flip=augment.flip,
        colour=augment.colour,
        cutout=augment.cutout,
    )


def check_batch(batch: int, size: int, what: str) -> None:
    """Raises UserError where a step would want more examples than there are."""
    if batch > size:
        raise UserError(f"--batch {batch} is more than the {size} {what}: lower --batch")

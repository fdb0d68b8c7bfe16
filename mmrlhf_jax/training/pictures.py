"""Captioned pictures as arrays, and how a step sees them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.augment import vary
from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.data.truths import allowed
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.sharding import by_rows
from mmrlhf_jax.training.config import AugmentConfig
from mmrlhf_jax.types import Prompts


class Pictures(NamedTuple):
    """N captioned pictures: a whole set on the device, or the batch of one step.

    Attributes:
      image_NxHxWxC: uint8.
      ids_NxAxT: int32, up to A captions of each as tokens, right-padded, end token included; the name first.
        Those of a picture with fewer captions come again.
      count_N: int32, how many captions a picture has.
      name_NxA: int32, the same number for captions that read the same.
      may_flip_N: bool, whether all captions fit a mirror image.
      may_recolour_N: bool, whether all captions fit other colours.
      prompts: what stands before each caption, rows (N, L); None: the begin token alone.
    """

    image_NxHxWxC: jax.Array
    ids_NxAxT: jax.Array
    count_N: jax.Array
    name_NxA: jax.Array
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
    """What one step sees.

    Attributes:
      pixels_BxHxWxC: float32, after augmentation.
      ids_BxT: int32, one caption of each, as in `Pictures`.
      mask_BxT: bool, True on real tokens.
      name_B: int32, the number of that caption.
    """

    pixels_BxHxWxC: jax.Array
    ids_BxT: jax.Array
    mask_BxT: jax.Array
    name_B: jax.Array
    prompts: Prompts | None = None


def text_arrays(captions: Sequence[Caption], tokenizer: CaptionTokenizer, max_length: int) -> Pictures:
    """Captions as numpy arrays, without pixels; those that are too long are cut and keep their end token."""
    texts = [caption.texts for caption in captions]
    most = max(map(len, texts))
    columns = [[own[a % len(own)] for own in texts] for a in range(most)]
    number = {text: i for i, text in enumerate(dict.fromkeys(text for own in texts for text in own))}
    may_flip_N, may_recolour_N = allowed(*columns)
    arrays: tuple[Any, ...] = (
        np.zeros((len(texts), 0, 0, 3), np.uint8),
        np.stack([tokenizer.encode_batch(column, max_length) for column in columns], axis=1),
        np.array([len(own) for own in texts], np.int32),
        np.array([[number[text] for text in column] for column in columns], np.int32).T,
        may_flip_N,
        may_recolour_N,
    )
    return Pictures(*arrays)


def to_device(captions: CaptionSet, tokenizer: CaptionTokenizer, max_length: int) -> Pictures:
    """A set with its pictures on the device, see `text_arrays`."""
    texts = text_arrays(captions.captions, tokenizer, max_length)
    return jax.tree.map(jnp.asarray, with_pixels(texts, captions.images_NxHxWxC))


def with_pixels(texts: Pictures, images: Any) -> Pictures:
    """Texts with the pixels that belong to them: uint8, with the same leading axes."""
    return texts._replace(image_NxHxWxC=images)


def picture_shapes(texts: Pictures, image_size: int) -> Pictures:
    """What `to_device` gives for these texts, as shapes."""
    image = np.broadcast_to(np.uint8(0), (len(texts.count_N), image_size, image_size, 3))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), with_pixels(texts, image))


def order_key(key: jax.Array) -> jax.Array:
    """What the order of the pictures follows from, of the key that `draw` and `view` are given."""
    return jax.random.split(key)[0]


def draw(pictures: Pictures, key: jax.Array, step: jax.Array, *, batch: int) -> tuple[jax.Array, Pictures]:
    """Rows and pictures of `step`: an even walk through the set."""
    rows_B = batch_indices(order_key(key), step, batch=batch, size=pictures.image_NxHxWxC.shape[0])
    return rows_B, jax.tree.map(lambda leaf: leaf[rows_B], pictures)


def view(pictures: Pictures, key: jax.Array, step: jax.Array, augment: AugmentConfig) -> PictureBatch:
    """Each picture of a batch seen anew, with one of its captions."""
    pictures = by_rows(pictures)
    _, key_view = jax.random.split(key)
    key_view = jax.random.fold_in(key_view, step)
    viewed = varied(pictures.image_NxHxWxC, key_view, pictures.may_flip_N, pictures.may_recolour_N, augment)
    rows_B = jnp.arange(pictures.count_N.shape[0])
    choice_B = jax.random.randint(jax.random.fold_in(key_view, 100), rows_B.shape, 0, pictures.count_N)
    ids_BxT = pictures.ids_NxAxT[rows_B, choice_B]
    name_B = pictures.name_NxA[rows_B, choice_B]
    return by_rows(PictureBatch(to_pixels(viewed), ids_BxT, ids_BxT != PAD_ID, name_B, pictures.prompts))


def plain(pictures: Pictures) -> PictureBatch:
    """Pictures as they are, with their names."""
    ids_BxT = pictures.ids_NxAxT[:, 0]
    return PictureBatch(
        to_pixels(pictures.image_NxHxWxC),
        ids_BxT,
        ids_BxT != PAD_ID,
        pictures.name_NxA[:, 0],
        pictures.prompts,
    )


def fits(pictures: Pictures, name_M: jax.Array) -> jax.Array:
    """Whether caption number j is one of picture i's, (N, M)."""
    return jnp.any(pictures.name_NxA[:, :, None] == name_M[None, None], axis=1)


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

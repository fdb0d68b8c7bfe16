"""Judgements on the device: whatever was judged, a row is one judgement of one or more answers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.augment import random_view
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.training.config import AugmentConfig


class Judgements(NamedTuple):
    """R judgements over N pictures, each of S answers, whole on the device.

    Attributes:
      image_NxHxWxC: uint8.
      image_index_RxI: int32, rows of image_NxHxWxC; I is 1 where the answers of a judgement share a picture,
        S where each is about its own.
      ids_RxSxT: int32, the answers after their prompt, right-padded with PAD_ID, end token included.
      said: what was judged, arrays with R leading rows, under the names that the objective reads.
    """

    image_NxHxWxC: jax.Array
    image_index_RxI: jax.Array
    ids_RxSxT: jax.Array
    said: dict[str, jax.Array]


def from_preferences(preferences: PreferenceSet, tokenizer: CaptionTokenizer, max_length: int) -> Judgements:
    """Comparisons: S = 2, the chosen answer first."""
    sides = (preferences.chosen, preferences.rejected)
    return Judgements(
        jnp.asarray(preferences.images_NxHxWxC),
        jnp.asarray(preferences.image_index_P, jnp.int32)[:, None],
        jnp.stack([_tokens(preferences.prompts, side, tokenizer, max_length) for side in sides], axis=1),
        {},
    )


def _tokens(
    prompts: list[str], answers: list[str], tokenizer: CaptionTokenizer, max_length: int
) -> jax.Array:
    """Each answer after its prompt, (R, T)."""
    texts = [f"{prompt} {answer}".strip() for prompt, answer in zip(prompts, answers, strict=True)]
    return jnp.asarray(tokenizer.encode_batch(texts, max_length))


def judge(model: RewardModel, pixels_BxIxHxWxC: jax.Array, ids_BxSxT: jax.Array) -> jax.Array:
    """Rewards (B, S) of all answers; each picture is encoded once, all answers pass together.

    Args:
      pixels_BxIxHxWxC: I is 1 or S.
    """
    rows, answers = ids_BxSxT.shape[:2]
    seen = model.encode(_answers_first(pixels_BxIxHxWxC))
    if pixels_BxIxHxWxC.shape[1] < answers:
        seen = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * answers), seen)
    ids = _answers_first(ids_BxSxT)
    return model.judge(seen, ids, ids != PAD_ID).reward_B.reshape(answers, rows).T


def _answers_first(leaf_BxSx: jax.Array) -> jax.Array:
    """(S x B, ...): all first answers, then all second ones ..."""
    return jnp.swapaxes(leaf_BxSx, 0, 1).reshape(-1, *leaf_BxSx.shape[2:])


def view_pictures(
    judgements: Judgements, rows_B: jax.Array, key: jax.Array, augment: AugmentConfig
) -> jax.Array:
    """Pixels (B, I, H, W, C) of the pictures of `rows_B`, each seen anew."""
    image_BxIxHxWxC = judgements.image_NxHxWxC[judgements.image_index_RxI[rows_B]]
    flat = image_BxIxHxWxC.reshape(-1, *image_BxIxHxWxC.shape[2:])
    viewed = random_view(flat, key, shift=augment.shift, zoom=augment.zoom)
    return to_pixels(viewed).reshape(image_BxIxHxWxC.shape)


def rewards(
    model: Definition[RewardModel],
    params: Params,
    judgements: Judgements,
    *,
    shuffle_pictures: bool = False,
    batch: int = 256,
) -> np.ndarray:
    """Rewards (R, S) of all answers, on the pictures as they are.

    Args:
      shuffle_pictures: judges every row with another row's pictures: what is left then the text alone gives.
    """
    image_RxI = np.asarray(judgements.image_index_RxI)
    if shuffle_pictures:
        image_RxI = image_RxI[np.random.default_rng(0).permutation(len(image_RxI))]
    return in_chunks(
        lambda rows_B: _rewards(
            model, params, judgements.image_NxHxWxC[image_RxI[rows_B]], judgements.ids_RxSxT[rows_B]
        ),
        len(image_RxI),
        batch,
    )


@functools.partial(jax.jit, static_argnums=0)
def _rewards(
    model: Definition[RewardModel], params: Params, image_BxIxHxWxC: jax.Array, ids_BxSxT: jax.Array
) -> jax.Array:
    return judge(model.bind(params), to_pixels(image_BxIxHxWxC), ids_BxSxT)

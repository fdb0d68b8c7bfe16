"""Judgements on the device: whatever was judged, a row is one judgement of one or more answers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.data.unpaired import LabelledSet
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.model import Judged, RewardModel, Seen


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
    """Comparisons: S = 2, the chosen answer first.

    Said: `tie` (R,) bool where the set speaks of ties, `margin` (R,) float32 where it has such a column.
    """
    sides = (preferences.chosen, preferences.rejected)
    index_P = [preferences.image_index_P, preferences.rejected_image_index_P]
    said = {}
    if preferences.tie_P is not None:
        said["tie"] = jnp.asarray(preferences.tie_P)
    if "margin" in preferences.extras:
        margin = [0.0 if value is None else float(value) for value in preferences.extras["margin"]]
        said["margin"] = jnp.asarray(margin, jnp.float32)
    return Judgements(
        jnp.asarray(preferences.images_NxHxWxC),
        jnp.stack([jnp.asarray(index, jnp.int32) for index in index_P if index is not None], axis=1),
        jnp.stack([_tokens(preferences.prompts, side, tokenizer, max_length) for side in sides], axis=1),
        said,
    )


def from_ratings(
    ratings: RatingSet, level_RxA: np.ndarray, tokenizer: CaptionTokenizer, max_length: int
) -> Judgements:
    """Ratings: S = 1. Said: `level` (R, A) int32, below 0 where an aspect was not rated."""
    said = {"level": jnp.asarray(level_RxA, jnp.int32)}
    return _singles(ratings, said, tokenizer, max_length)


def from_labels(labelled: LabelledSet, tokenizer: CaptionTokenizer, max_length: int) -> Judgements:
    """Thumbs: S = 1. Said: `label` (R,) bool."""
    return _singles(labelled, {"label": jnp.asarray(labelled.label_R)}, tokenizer, max_length)


def from_clicks(
    log: ClickLog,
    clicked_LxK: np.ndarray,
    propensity_LxK: np.ndarray,
    tokenizer: CaptionTokenizer,
    max_length: int,
) -> Judgements:
    """Shown lists: S answers, shorter lists filled up with empty ones.

    Said, (R, S) each: `shown` and `clicked` bool, `position` int32, `propensity` float32.
    """
    longest = log.position_LxK.shape[1]
    prompts = [prompt for prompt in log.prompts for _ in range(longest)]
    answers = [answer for shown in log.answers for answer in shown + [""] * (longest - len(shown))]
    return Judgements(
        jnp.asarray(log.images_NxHxWxC),
        jnp.asarray(log.image_index_L, jnp.int32)[:, None],
        _tokens(prompts, answers, tokenizer, max_length).reshape(len(log), longest, -1),
        {
            "shown": jnp.asarray(log.position_LxK >= 0),
            "clicked": jnp.asarray(clicked_LxK),
            "position": jnp.asarray(log.position_LxK, jnp.int32),
            "propensity": jnp.asarray(propensity_LxK, jnp.float32),
        },
    )


def _singles(
    judged: RatingSet | LabelledSet, said: dict[str, jax.Array], tokenizer: CaptionTokenizer, max_length: int
) -> Judgements:
    return Judgements(
        jnp.asarray(judged.images_NxHxWxC),
        jnp.asarray(judged.image_index_R, jnp.int32)[:, None],
        _tokens(judged.prompts, judged.answers, tokenizer, max_length)[:, None],
        said,
    )


def _tokens(
    prompts: list[str], answers: list[str], tokenizer: CaptionTokenizer, max_length: int
) -> jax.Array:
    """Each answer after its prompt, (R, T)."""
    texts = [f"{prompt} {answer}".strip() for prompt, answer in zip(prompts, answers, strict=True)]
    return jnp.asarray(tokenizer.encode_batch(texts, max_length))


def encode(model: RewardModel, pixels_BxIxHxWxC: jax.Array) -> Seen:
    """What the towers say of the pictures, leaves (B, I, ...)."""
    shape = pixels_BxIxHxWxC.shape
    seen = model.encode(pixels_BxIxHxWxC.reshape(-1, *shape[2:]))
    return jax.tree.map(lambda leaf: leaf.reshape(*shape[:2], *leaf.shape[1:]), seen)


def judge(model: RewardModel, seen: Seen, ids_BxSxT: jax.Array) -> Judged:
    """Rewards of all answers, leaves (..., B x S) with all first answers before all second ones.

    Args:
      seen: leaves (B, I, ...), where I is 1 or S.
    """
    answers = ids_BxSxT.shape[1]
    flat = jax.tree.map(_answers_first, seen)
    if jax.tree.leaves(seen)[0].shape[1] < answers:
        flat = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * answers), flat)
    ids = _answers_first(ids_BxSxT)
    return model.judge(flat, ids, ids != PAD_ID)


def by_row(reward_N: jax.Array, answers: int) -> jax.Array:
    """What `judge` gives of rewards (..., B x S) as (..., B, S)."""
    return jnp.swapaxes(reward_N.reshape(*reward_N.shape[:-1], answers, -1), -1, -2)


def _answers_first(leaf_BxSx: jax.Array) -> jax.Array:
    """(S x B, ...): all first answers, then all second ones ..."""
    rows, answers, *rest = leaf_BxSx.shape
    return jnp.swapaxes(leaf_BxSx, 0, 1).reshape(answers * rows, *rest)


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
    return _in_rows(model, params, judgements, image_RxI, batch)[0]


def member_rewards(
    model: Definition[RewardModel], params: Params, judgements: Judgements, *, batch: int = 256
) -> np.ndarray:
    """Rewards (R, K, S) by each member of an ensemble; a single model is one."""
    return _in_rows(model, params, judgements, np.asarray(judgements.image_index_RxI), batch)[1]


def _in_rows(
    model: Definition[RewardModel],
    params: Params,
    judgements: Judgements,
    image_RxI: np.ndarray,
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
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
) -> tuple[jax.Array, jax.Array]:
    """(B, S), and (B, K, S)."""
    bound = model.bind(params)
    pixels = to_pixels(image_BxIxHxWxC.reshape(-1, *image_BxIxHxWxC.shape[2:]))
    judged = judge(bound, encode(bound, pixels.reshape(image_BxIxHxWxC.shape)), ids_BxSxT)
    answers = ids_BxSxT.shape[1]
    return by_row(judged.reward_B, answers), jnp.moveaxis(by_row(judged.members_KxB, answers), 0, 1)

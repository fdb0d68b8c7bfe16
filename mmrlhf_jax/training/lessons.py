"""What a reward model's training step sees of the judgements: the rows, varied, and how much each counts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.config import Bootstrap
from mmrlhf_jax.data.augment import drop_words, fits_joined, join_texts, mix_pictures
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.features import FeatureFolder
from mmrlhf_jax.data.synonyms import find_synonyms, reword
from mmrlhf_jax.data.tokens import END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.data.truths import allowed
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.ensemble import bootstrap_weights
from mmrlhf_jax.reward.model import RewardModel, Seen
from mmrlhf_jax.training.config import AugmentConfig, JudgementAugmentConfig
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.pictures import varied

WORDINGS = 4  # of each answer, its own among them, where words are replaced
VIEWS = 4  # of each picture, where pictures are varied and towers frozen


class Lessons(NamedTuple):
    """All that the step learns from, on the device.

    Attributes:
      judgements: R rows about N pictures.
      wordings_AxRxSxT: the answers in other words, int32, their own among them; None: as they are.
      may_flip_N: bool, whether all that is said about a picture fits its mirror image.
      may_recolour_N: bool, the same for other colours.
      starts_V: bool, True for the tokens that begin a word; of size 1 where no word is dropped.
      weights_KxR: how much each row counts for each member of an ensemble; float32.
      seen: views of the pictures as frozen towers see them, leaves (N, V, ...); None: they are encoded in
        each step.
    """

    judgements: Judgements
    wordings_AxRxSxT: jax.Array | None
    may_flip_N: jax.Array
    may_recolour_N: jax.Array
    starts_V: jax.Array
    weights_KxR: jax.Array
    seen: Seen | None = None


def make_lessons(
    judgements: Judgements,
    tokenizer: CaptionTokenizer,
    augment: JudgementAugmentConfig,
    key: jax.Array,
    *,
    members: int = 1,
    bootstrap: Bootstrap = "none",
) -> Lessons:
    """Reads the answers once, for what may be done to them and their pictures.

    Raises:
      UserError: judgements that are no plain comparisons shall be mixed.
    """
    if augment.mix and judgements.said:
        raise UserError(
            "augment.mix joins plain comparisons: leave it 0 for ties, margins, ratings and the like"
        )
    rows, sides, length = judgements.ids_RxSxT.shape
    texts = [""] * (rows * sides)
    if augment.flip or augment.colour or augment.synonyms:
        texts = tokenizer.decode_batch(np.asarray(judgements.ids_RxSxT).reshape(-1, length))
    flip, recolour = (np.reshape(may, (rows, sides)) for may in allowed(texts))
    return Lessons(
        judgements,
        _wordings(judgements, texts, tokenizer, augment.synonyms) if augment.synonyms else None,
        jnp.asarray(_of_pictures(judgements, flip)),
        jnp.asarray(_of_pictures(judgements, recolour)),
        jnp.asarray(tokenizer.word_starts() if augment.word_dropout else np.zeros(1, bool)),
        bootstrap_weights(key, members, rows, bootstrap if members > 1 else "none"),
    )


def with_views(
    lessons: Lessons,
    model: Definition[RewardModel],
    params: Params,
    augment: AugmentConfig,
    key: jax.Array,
    folder: FeatureFolder | None = None,
) -> Lessons:
    """The lessons with every picture encoded, in VIEWS variations or, where nothing varies, as it is.

    Args:
      folder: where what is seen is kept; it is then mapped from there.
    """
    encode = jax.jit(_encoder(lessons, model, augment, key))

    def compute(rows_B: np.ndarray) -> Seen:
        return encode(params, jnp.asarray(rows_B))

    count = len(lessons.judgements.image_NxHxWxC)
    if folder is not None:
        return lessons._replace(
            seen=folder.open(view_shapes(lessons, model, params, augment), compute, count)
        )
    return lessons._replace(seen=jax.tree.map(jnp.asarray, in_chunks(compute, count, 256)))


def view_shapes(
    lessons: Lessons, model: Definition[RewardModel], params: Params, augment: AugmentConfig
) -> Seen:
    """What `with_views` sees of one picture, as shapes."""
    encode = _encoder(lessons, model, augment, jax.random.key(0))
    return jax.eval_shape(encode, params, jnp.zeros(1, jnp.int32))


def _encoder(
    lessons: Lessons, model: Definition[RewardModel], augment: AugmentConfig, key: jax.Array
) -> Callable[[Params, jax.Array], Seen]:
    count = VIEWS if varies(augment) else 1
    image_NxHxWxC = lessons.judgements.image_NxHxWxC

    def encode(params: Params, rows_B: jax.Array) -> Seen:
        image_BxHxWxC = image_NxHxWxC[rows_B]
        may = lessons.may_flip_N[rows_B], lessons.may_recolour_N[rows_B]
        keys = [jax.random.fold_in(jax.random.fold_in(key, view), rows_B[0]) for view in range(count)]
        views = [
            model.bind(params).encode(to_pixels(varied(image_BxHxWxC, own, *may, augment))) for own in keys
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *views)

    return encode


def take(lessons: Lessons, rows_R: jax.Array) -> Lessons:
    """The lessons of some rows; a row may come several times."""
    judgements = lessons.judgements
    wordings = lessons.wordings_AxRxSxT
    return lessons._replace(
        judgements=judgements._replace(
            image_index_RxI=judgements.image_index_RxI[rows_R],
            ids_RxSxT=judgements.ids_RxSxT[rows_R],
            said=jax.tree.map(lambda leaf: leaf[rows_R], judgements.said),
        ),
        wordings_AxRxSxT=None if wordings is None else wordings[:, rows_R],
        weights_KxR=lessons.weights_KxR[:, rows_R],
    )


def varies(augment: AugmentConfig) -> bool:
    """Whether pictures are changed at all."""
    return any((augment.shift, augment.zoom, augment.crop, augment.flip, augment.colour, augment.cutout))


def draw(
    lessons: Lessons, rows_B: jax.Array, key: jax.Array, augment: JudgementAugmentConfig
) -> tuple[jax.Array | Seen, jax.Array]:
    """Pictures and answers of `rows_B`, seen and said anew.

    Returns:
      pixels (B, I, H, W, C), or what was seen of them, leaves (B, I, ...); and ids_BxSxT.
    """
    judgements = lessons.judgements
    key_words, key_drop, key_mix = (jax.random.fold_in(key, 100 + i) for i in range(3))
    ids_BxSxT = _worded(lessons, rows_B, key_words)
    rows, sides, length = ids_BxSxT.shape
    ids_BxSxT = drop_words(
        ids_BxSxT.reshape(-1, length),
        key_drop,
        lessons.starts_V,
        rate=augment.word_dropout,
        pad_id=PAD_ID,
        end_id=END_ID,
    ).reshape(rows, sides, length)
    picture_BxI = judgements.image_index_RxI[rows_B]
    if lessons.seen is not None:
        views = jax.tree.leaves(lessons.seen)[0].shape[1]
        view_BxI = jax.random.randint(key, picture_BxI.shape, 0, views)
        return jax.tree.map(lambda leaf: leaf[picture_BxI, view_BxI], lessons.seen), ids_BxSxT
    flat = picture_BxI.reshape(-1)
    viewed = varied(
        judgements.image_NxHxWxC[flat], key, lessons.may_flip_N[flat], lessons.may_recolour_N[flat], augment
    )
    image_BxIxHxWxC = viewed.reshape(*picture_BxI.shape, *viewed.shape[1:])
    if augment.mix:
        image_BxIxHxWxC, ids_BxSxT = _mixed(image_BxIxHxWxC, ids_BxSxT, key_mix, augment.mix)
    return to_pixels(image_BxIxHxWxC.reshape(viewed.shape)).reshape(image_BxIxHxWxC.shape), ids_BxSxT


def _worded(lessons: Lessons, rows_B: jax.Array, key: jax.Array) -> jax.Array:
    if lessons.wordings_AxRxSxT is None:
        return lessons.judgements.ids_RxSxT[rows_B]
    choice_B = jax.random.randint(key, rows_B.shape, 0, lessons.wordings_AxRxSxT.shape[0])
    return lessons.wordings_AxRxSxT[choice_B, rows_B]


def _mixed(
    image_BxIxHxWxC: jax.Array, ids_BxSxT: jax.Array, key: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Some rows joined with the next one, where all of its answers fit."""
    sides = range(ids_BxSxT.shape[1])
    fits_SxB = jnp.stack([fits_joined(ids_BxSxT[:, side], pad_id=PAD_ID) for side in sides])
    mixed_B = jax.random.bernoulli(key, share, ids_BxSxT.shape[:1]) & jnp.all(fits_SxB, axis=0)
    images = [mix_pictures(image_BxIxHxWxC[:, i], mixed_B) for i in range(image_BxIxHxWxC.shape[1])]
    ids = [join_texts(ids_BxSxT[:, side], mixed_B, pad_id=PAD_ID) for side in sides]
    return jnp.stack(images, axis=1), jnp.stack(ids, axis=1)


def _wordings(
    judgements: Judgements, texts: list[str], tokenizer: CaptionTokenizer, rate: float
) -> jax.Array:
    """The answers themselves, and WORDINGS - 1 times in other words, (A, R, S, T)."""
    synonyms, generator = find_synonyms(load_emoji("train").captions), np.random.default_rng(0)
    shape = judgements.ids_RxSxT.shape
    others = [
        tokenizer.encode_batch([reword(text, synonyms, generator, rate=rate) for text in texts], shape[2])
        for _ in range(WORDINGS - 1)
    ]
    return jnp.stack([judgements.ids_RxSxT, *(jnp.asarray(ids).reshape(shape) for ids in others)])


def _of_pictures(judgements: Judgements, may_RxS: np.ndarray) -> np.ndarray:
    """Whether all answers about a picture allow it, (N,)."""
    index_RxS = np.broadcast_to(np.asarray(judgements.image_index_RxI), may_RxS.shape)
    may_N = np.ones(len(judgements.image_NxHxWxC), bool)
    np.logical_and.at(may_N, index_RxS, may_RxS)
    return may_N

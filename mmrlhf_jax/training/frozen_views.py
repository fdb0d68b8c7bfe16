"""Reward models on towers that stay as they are: features are computed once, and stored where large."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.features import FeatureFolder, MappedRows, checksum_of
from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.reward.model import RewardModel
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.judgements import Judgements
from mmrlhf_jax.training.lessons import Lessons, view_shapes, with_views
from mmrlhf_jax.training.streaming import Stream

IN_MEMORY = 2**31  # bytes of features that are held on the device; more are stored and streamed


class LessonRows(NamedTuple):
    """What a batch of B judgements needs, each with B leading rows; read from disk.

    Attributes:
      seen: leaves (B, I, V, ...), all views of its pictures.
      wordings_BxAxSxT: the answers in other words; None: as they are.
    """

    seen: Any
    ids_BxSxT: Any
    said: Mapping[str, Any]
    weights_BxK: Any
    wordings_BxAxSxT: Any


def look_once(
    config: RewardStageConfig,
    stage_folder: Path,
    lessons: Lessons,
    model: Definition[RewardModel],
    params: Params,
    frozen: Params,
    key: jax.Array,
) -> Lessons:
    """The lessons with the features of every picture: in memory, or mapped from disk where they are large.

    They are stored in `config.features`, or in the stage's own folder where they do not fit into memory.
    Others in a folder that the user named are refused, in the stage's own replaced.

    Args:
      params: of the whole model.
      frozen: those that the features depend on.
    """
    shapes = view_shapes(lessons, model, params, config.augment)
    pictures = len(lessons.judgements.image_NxHxWxC)
    size = sum(
        pictures * leaf.dtype.itemsize * int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(shapes)
    )
    if config.features is None and size <= IN_MEMORY:
        return with_views(lessons, model, params, config.augment, key)
    folder = FeatureFolder(
        config.features or stage_folder / "features",
        {
            "model": checksum_of(frozen),
            "data": checksum_of(
                (lessons.judgements.image_NxHxWxC, lessons.may_flip_N, lessons.may_recolour_N)
            ),
            "views": f"{config.augment}, {checksum_of(key)}",
        },
        refuse=config.features is not None,
    )
    lessons = with_views(lessons, model, params, config.augment, key, folder)
    if size > IN_MEMORY:
        return lessons
    return lessons._replace(seen=jax.tree.map(lambda rows: jnp.asarray(rows[:]), lessons.seen))


def is_mapped(lessons: Lessons) -> bool:
    """Whether the features lie on disk."""
    return any(isinstance(leaf, MappedRows) for leaf in jax.tree.leaves(lessons.seen))


def lesson_stream(lessons: Lessons, config: RewardStageConfig, key: jax.Array) -> Stream[LessonRows]:
    """Batches of judgements with their features, in the order of judgements in memory."""
    judgements = lessons.judgements
    index_RxI, ids_RxSxT = np.asarray(judgements.image_index_RxI), np.asarray(judgements.ids_RxSxT)
    said = {name: np.asarray(values) for name, values in judgements.said.items()}
    weights_RxK = np.asarray(lessons.weights_KxR).T
    wordings = lessons.wordings_AxRxSxT
    wordings_RxAxSxT = None if wordings is None else np.moveaxis(np.asarray(wordings), 1, 0)

    def read(row: int) -> LessonRows:
        return LessonRows(
            jax.tree.map(lambda leaf: leaf[index_RxI[row]], lessons.seen),
            ids_RxSxT[row],
            {name: values[row] for name, values in said.items()},
            weights_RxK[row],
            None if wordings_RxAxSxT is None else wordings_RxAxSxT[row],
        )

    batches = BatchStream(
        read, size=len(ids_RxSxT), batch=config.batch, batches=config.steps, key=key, workers=config.workers
    )
    return Stream(batches, checksum_of((index_RxI, ids_RxSxT, said)))


def as_lessons(rows: LessonRows, starts_V: jax.Array) -> Lessons:
    """A batch as lessons of its own, each row with pictures of its own; `starts_V` as in `Lessons`."""
    seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows.seen)
    batch, pictures = jax.tree.leaves(rows.seen)[0].shape[:2]
    index_BxI = jnp.arange(batch * pictures, dtype=jnp.int32).reshape(batch, pictures)
    judgements = Judgements(jnp.zeros((1, 1, 1, 3), jnp.uint8), index_BxI, rows.ids_BxSxT, dict(rows.said))
    wordings = None if rows.wordings_BxAxSxT is None else jnp.moveaxis(rows.wordings_BxAxSxT, 1, 0)
    return Lessons(
        judgements,
        wordings,
        jnp.ones(1, bool),
        jnp.ones(1, bool),
        starts_V,
        rows.weights_BxK.T,
        seen,
    )

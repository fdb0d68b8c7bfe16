"""What frozen towers see of feedback pictures, on disk: for reinforcement learning on sets beyond memory."""

from pathlib import Path

import jax
import numpy as np

from mmrlhf_jax.data.features import FeatureFolder, checksum_of
from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.reward.composite import Views
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.networks import Frozen, Networks, look
from mmrlhf_jax.training.picture_source import PictureSource
from mmrlhf_jax.training.streaming import Stream

FEEDBACK = "feedback"


def look_on_disk(networks: Networks, frozen: Frozen, source: PictureSource, path: Path) -> Views:
    """The views of all feedback pictures, mapped from `path`; made there unless those are there already."""
    packed, rows = source.packed(), source.rows(FEEDBACK)
    judges = (frozen.reference, frozen.clip, frozen.reward_model)
    data = f"{packed.checksum()}, rows {checksum_of(rows)}, {source.image_size} pixels"
    folder = FeatureFolder(path, {"model": checksum_of(judges), "data": data})
    return look(networks, frozen, packed.images(rows), folder=folder)


def view_stream(views: Views, source: PictureSource, config: PPOConfig, key: jax.Array) -> Stream[Views]:
    """Batches of the views, in the order in which those in memory are drawn."""
    small = jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, views)

    def read(row: int) -> Views:
        return jax.tree.map(lambda leaf: leaf[row], small)

    batches = BatchStream(
        read,
        size=len(source.rows(FEEDBACK)),
        batch=config.batch // config.choices.group,
        batches=config.steps,
        key=key,
        workers=config.workers,
    )
    return Stream(batches, source.packed().checksum())

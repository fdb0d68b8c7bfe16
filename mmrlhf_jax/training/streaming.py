"""Steps on batches that come from a host pipeline, whose position is a part of the state."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.training.config import PretrainConfig, SFTConfig, StageConfig
from mmrlhf_jax.training.guard import Guarded
from mmrlhf_jax.training.loop import Evaluation, Rescue, fit
from mmrlhf_jax.training.picture_source import PictureSource
from mmrlhf_jax.training.pictures import Pictures, with_pixels
from mmrlhf_jax.types import Metrics

Batch = TypeVar("Batch")


class Streamed(NamedTuple):
    """A state, and where the pipeline stands that feeds it; both are saved and restored together.

    Attributes:
      batches: int64, how many were read.
      data: checksum of the set that they were read from.
    """

    state: Guarded
    batches: np.ndarray
    data: np.ndarray

    def rested(self) -> "Streamed":
        """The same with no skipped updates in a row, see `Guarded.rested`."""
        return self._replace(state=self.state.rested())


class Stream(NamedTuple, Generic[Batch]):
    """Batches of one set, and the SHA-256 of the set in hexadecimal digits."""

    batches: BatchStream[Batch]
    checksum: str


def picture_stream(
    source: PictureSource,
    texts: Pictures,
    config: PretrainConfig | SFTConfig,
    key: jax.Array,
    beside: Callable[[int], Any],
) -> Stream[tuple[Pictures, Any]]:
    """The training pictures in the order in which `draw` would show them: batches of (`Pictures`, *beside).

    Args:
      texts: of all training pictures.
      key: of the order, see `order_key`.
      beside: what belongs to the picture of a row, a pytree of arrays that is stacked with it.
    """
    packed, rows_N = source.packed(), source.rows("train")

    def read(row: int) -> tuple[Pictures, Any]:
        of_row = jax.tree.map(lambda leaf: leaf[row], texts)
        return with_pixels(of_row, packed.image(int(rows_N[row]))), beside(row)

    batches = BatchStream(
        read,
        size=len(rows_N),
        batch=config.batch,
        batches=config.steps,
        key=key,
        workers=config.workers,
    )
    return Stream(batches, packed.checksum())


def fit_streamed(
    update: Callable[[Guarded, Batch], tuple[Guarded, Metrics]],
    state: Guarded,
    stream: Stream[Batch],
    config: StageConfig,
    folder: StageFolder,
    *,
    steps: int,
    evaluation: Evaluation[Guarded] | None = None,
    reasons: Callable[[], Mapping[str, str]] = dict,
    **looks: Any,
) -> Guarded:
    """`fit` with a batch of the stream in each step; the arguments are those of `fit`, and of its `Rescue`.

    Raises:
      UserError: a checkpoint was saved while another set was read.
    """

    data = np.frombuffer(bytes.fromhex(stream.checksum), np.uint8)

    def step(streamed: Streamed) -> tuple[Streamed, Metrics]:
        if not np.array_equal(streamed.data, data):
            raise UserError(
                f"{folder.path} was started with other data than is there now: bring that back, or delete "
                "the folder to start anew"
            )
        state, metrics = update(streamed.state, stream.batches.at(int(streamed.batches)))
        stream.batches.prefetch()  # the step computes in the meantime
        return Streamed(state, streamed.batches + 1, streamed.data), metrics

    start = Streamed(state, np.zeros((), np.int64), data)
    try:
        ended = fit(
            step,
            start,
            config,
            folder,
            steps=steps,
            evaluation=None if evaluation is None else _of_streamed(evaluation),
            rescue=Rescue(lambda _, step: stream.batches.at(step), reasons),
            **looks,
        )
    finally:
        stream.batches.close()
    return ended.state


def _of_streamed(evaluation: Evaluation[Guarded]) -> Evaluation[Streamed]:
    """The same of what the pipeline feeds."""
    measure = evaluation.measure
    return Evaluation(
        lambda streamed: measure(streamed.state), evaluation.every, evaluation.first, evaluation.halted
    )

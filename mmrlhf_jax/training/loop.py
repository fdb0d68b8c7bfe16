"""The one host loop: start a step, read the metrics of the step before, save now and then."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import count_params
from mmrlhf_jax.runtime.checkpoint import Checkpointer
from mmrlhf_jax.runtime.failed import save_arrays
from mmrlhf_jax.runtime.folder import StageFolder, read_config
from mmrlhf_jax.runtime.metrics import MetricsWriter, finalize
from mmrlhf_jax.runtime.progress import Progress
from mmrlhf_jax.runtime.signals import INTERRUPTED, StopRequest
from mmrlhf_jax.sharding import shapes
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.guard import Insight
from mmrlhf_jax.types import Metrics

State = TypeVar("State")

_FEW = 8  # arguments of so many arrays are listed one by one


class Rescue(NamedTuple, Generic[State]):
    """What a stage has to say where its guard ends the run."""

    batch: Callable[[State, int], Any]  # (state, updates done before) → arrays that the next update was given
    reasons: Callable[[], Mapping[str, str]] = dict  # why a reward term is not finite, by name


class Curves:
    """The metrics of a run in `folder`; of several seeds trained together also those of each member.

    Members' metrics have a leading axis. (sum, weight) pairs are added up over it for the run's own file,
    which then holds the mean, and each member has a file under members/.
    """

    def __init__(
        self, folder: Path, members: int, finish: Callable[[dict[str, float]], dict[str, float]] = dict
    ) -> None:
        self._finish = finish  # from means to what is written
        self._all = MetricsWriter(folder)
        each = range(members) if members > 1 else ()
        self._each = [MetricsWriter(member_folder(folder, member)) for member in each]

    def write(self, step: int, metrics: Metrics) -> dict[str, float]:
        """Appends the metrics of `step`; the numbers of the run's own file."""
        if self._each:
            metrics = jax.tree.map(np.asarray, metrics)
            for member, writer in enumerate(self._each):
                own = jax.tree.map(lambda leaf, member=member: leaf[member], metrics)
                writer.write(step, self._finish(finalize(own)))
        return self._all.write(step, self.numbers(metrics))

    def numbers(self, metrics: Metrics) -> dict[str, float]:
        """What the run's own file holds of these metrics."""
        return self._finish(finalize(jax.tree.map(np.sum, metrics) if self._each else metrics))

    def truncate(self, step: int) -> None:
        """Forgets everything after `step`."""
        for writer in (self._all, *self._each):
            writer.truncate(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._all, *self._each):
            writer.close()


def member_folder(folder: Path, member: int) -> Path:
    """Where member number `member` of a run of several seeds has its own curve and weights."""
    return folder / "members" / str(member)


def as_read(stepped: tuple[State, Metrics], count: int) -> tuple[State, Metrics]:
    """What an update that stacks `count` steps' or seeds' metrics gave, as `fit` reads it: no axis of one."""
    state, metrics = stepped
    return state, metrics if count > 1 else jax.tree.map(lambda leaf: leaf[0], metrics)


def unstack(last: int, metrics: Metrics, steps: int) -> Iterator[tuple[int, Metrics]]:
    """(step, metrics) of the `steps` steps up to `last` that one call did; several are stacked in front."""
    if steps == 1:
        yield last, metrics
        return
    metrics = jax.tree.map(np.asarray, metrics)
    for i in range(steps):
        yield last - steps + 1 + i, jax.tree.map(lambda leaf, i=i: leaf[i], metrics)


@dataclasses.dataclass(frozen=True)
class Evaluation(Generic[State]):
    """What is measured now and then, on data that training does not see.

    Attributes:
      measure: metrics of a state.
      every: steps between two of them; there is always one at the end.
      first: whether one comes before the first step, too.
      halted: whether what was measured up to a step ends the run there; asked before every step, so it must
        not wait for the device.
    """

    measure: Callable[[State], Metrics]
    every: int = 1
    first: bool = False
    halted: Callable[[int], bool] = lambda step: False

    def due(self, step: int, steps_per_call: int, steps: int) -> bool:
        """Whether a call of `steps_per_call` steps that ended with `step` of `steps` is followed by one."""
        return step % self.every < steps_per_call or step == steps


def fit(
    update: Callable[[State], tuple[State, Metrics]],
    state: State,
    config: StageConfig,
    folder: StageFolder,
    *,
    steps: int,
    shown: Sequence[str],
    evaluation: Evaluation[State] | None = None,
    finish: Callable[[dict[str, float]], dict[str, float]] = dict,
    steps_per_call: int = 1,
    members: int = 1,
    rescue: Rescue[State] | None = None,
) -> State:
    """Runs `update` from the last checkpoint, or from `state`, until `steps` are done.

    Args:
      update: a compiled step; everything random in it must be a function of the state's step.
      state: a pytree; its leaves' shapes and dtypes are those of the checkpoints.
      shown: the metrics that the progress bar shows.
      evaluation: what is measured along the way; it may end the run sooner.
      finish: what to write of a step's means; for metrics of which no mean is taken, and for checks.
      steps_per_call: steps that one call of `update` does, a divisor of `steps`; its metrics then have a
        leading axis of as many. What is due within a call is done after it.
      members: seeds trained together; metrics then have an axis of as many (behind that of the steps).
      rescue: what to tell and to keep where the guard (`training.guard`) ends the run.

    Raises:
      UserError: `config.stop_after_skipped` updates in a row were not applied. The last good state is saved.
      SystemExit: with status INTERRUPTED after SIGTERM or SIGINT, once the state is saved.
    """
    label, insight = folder.path.name, Insight(config.stop_after_skipped)
    latest: dict[str, float] = {}  # every metric as it was told last
    with (
        Checkpointer(folder.checkpoints) as checkpointer,
        Curves(folder.path, members, finish) as curves,
        StopRequest() as stop,
    ):
        start, state = checkpointer.restore(state) or (0, state)
        if start:
            _tell_of_mesh(config, folder)
        before_first = evaluation is not None and evaluation.first and start == 0
        curves.truncate(-1 if before_first else start)
        if evaluation is not None and before_first:
            curves.write(0, evaluation.measure(state))
        with Progress(steps, label, initial=start) as progress:

            def read(last: int, metrics: Metrics, *, ending: bool = False) -> None:
                for step, row in unstack(last, metrics, steps_per_call):
                    insight.read(step, row)
                    due = step % config.log_every == 0 or (ending and step == last)
                    numbers = curves.write(step, row) if due else curves.numbers(row)
                    latest.update(numbers)
                    progress.update(step, {name: numbers[name] for name in shown})

            waiting: tuple[int, Metrics] | None = None  # a step's metrics are read once the next one runs
            for step in range(start + steps_per_call, steps + 1, steps_per_call):
                if evaluation is not None and evaluation.halted(step - steps_per_call):
                    break
                state, metrics = update(state)
                if waiting is not None:
                    read(*waiting)
                waiting = step, metrics
                evaluating = evaluation is not None and evaluation.due(step, steps_per_call, steps)
                measured = evaluation.measure(state) if evaluation is not None and evaluating else None
                ending = step == steps or (evaluation is not None and evaluation.halted(step))
                stopping = stop.agreed()
                saving = step % config.save_every < steps_per_call or ending or stopping
                if evaluating or saving:  # what is on disk must not lag behind a checkpoint
                    read(*waiting, ending=ending)
                    waiting = None
                if insight.exhausted:
                    checkpointer.save(step, state.rested() if hasattr(state, "rested") else state)
                    checkpointer.wait()
                    raise UserError(_rescued(insight, state, step, folder, rescue))
                if measured is not None:
                    latest |= curves.write(step, measured)
                if saving:
                    checkpointer.save(step, state, score=best_score(config.keep_best, latest))
                if stopping:
                    checkpointer.wait()
                    print(f"{label}: stopped at step {step} and saved; add --resume to go on")
                    raise SystemExit(INTERRUPTED)
    return state


def _tell_of_mesh(config: StageConfig, folder: StageFolder) -> None:
    """Says so where a run goes on on another mesh than it began on."""
    before = read_config(folder.path).get("mesh", "")
    if before != config.mesh:
        print(
            f"{folder.path.name}: begun on {before or 'one device'}, now on {config.mesh or 'one device'}: "
            "sums are taken in another order, so that numbers agree to about 1e-5, no longer bit for bit"
        )


def best_score(keep_best: str, latest: Mapping[str, float]) -> float | None:
    """What "max:NAME" or "min:NAME" makes of the metrics: the higher, the better. None for "".

    Raises `UserError` where there is no such metric.
    """
    if not keep_best:
        return None
    way, _, name = keep_best.partition(":")
    if name not in latest:
        raise UserError(f"--keep-best {keep_best}: there is no such metric; choose from {', '.join(latest)}")
    return latest[name] if way == "max" else -latest[name]


def _rescued(
    insight: Insight, state: State, step: int, folder: StageFolder, rescue: Rescue[State] | None
) -> str:
    """Keeps the batch of the first skipped update; what to tell of it all."""
    told = insight.told(folder.path.name, {} if rescue is None else rescue.reasons())
    kept = ""
    if rescue is not None:
        path = folder.path / "failed" / f"step_{insight.since:06d}.npz"
        save_arrays(path, rescue.batch(state, insight.since - 1))
        kept = f"Its batch is in {path}. "
    return (
        f"{told}.\n{kept}The last good state is saved as step {step}: --resume goes on from it with other "
        "batches; else choose another --run and e.g. a lower learning rate"
    )


def describe(name: str, params: Any, update: Any, arguments: Mapping[str, Any]) -> None:
    """Prints what `--dry-run` promises, from shapes alone.

    Args:
      params: the trainable parameters, a dict of parts.
      update: a jitted function.
      arguments: of `update`, as arrays or shapes, by name and in order.
    """
    arguments = {
        argument: shapes(value) if argument == "state" else value for argument, value in arguments.items()
    }
    print(f"{name}: {count_params(params):,} trainable parameters")
    for part, leaves in params.items():
        print(f"  {part}: {count_params(leaves):,}")
    for argument, value in arguments.items():
        leaves = jax.tree.leaves(value)
        print(f"  {argument}: {len(leaves)} arrays, {_mebibytes(_bytes(leaves))}")
        if len(leaves) <= _FEW:
            for path, leaf in jax.tree_util.tree_leaves_with_path(value):
                leaf_name = jax.tree_util.keystr(path, simple=True, separator=".")
                print(f"    {leaf_name}: {leaf.dtype}{list(leaf.shape)}")
    prepare("  memory of the compiled step", update, *arguments.values())


def prepare(label: str, update: Any, *arguments: Any) -> Any:
    """`update` compiled for these arguments; prints the memory that it takes on a device, before it runs."""
    compiled = update.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    if memory is not None:  # some backends do not say
        total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        temporary = _mebibytes(memory.temp_size_in_bytes)
        print(f"{label}: {_mebibytes(total)}, of which temporary {temporary}", flush=True)
    return compiled


def _bytes(leaves: list[Any]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"

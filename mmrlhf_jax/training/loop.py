"""The one host loop: start a step, read the metrics of the step before, save now and then."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from mmrlhf_jax.runtime.checkpoint import Checkpointer
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import MetricsWriter, finalize
from mmrlhf_jax.runtime.progress import Progress
from mmrlhf_jax.runtime.signals import INTERRUPTED, StopRequest
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.types import Metrics

State = TypeVar("State")


def fit(
    update: Callable[[State], tuple[State, Metrics]],
    state: State,
    config: StageConfig,
    folder: StageFolder,
    *,
    steps: int,
    evaluate: Callable[[State], Metrics] | None = None,
    eval_every: int = 1,
) -> State:
    """Runs `update` from the last checkpoint, or from `state`, until `steps` are done.

    Args:
      update: a compiled step; everything random in it must be a function of the state's step.
      state: a pytree; its leaves' shapes and dtypes are those of the checkpoints.
      evaluate: metrics of a state on held-out data, every `eval_every` steps and at the end.

    Raises:
      SystemExit: with status INTERRUPTED after SIGTERM or SIGINT, once the state is saved.
    """
    label = folder.path.name
    with (
        Checkpointer(folder.checkpoints) as checkpointer,
        MetricsWriter(folder.path) as writer,
        StopRequest() as stop,
    ):
        start, state = checkpointer.restore(state) or (0, state)
        writer.truncate(start)
        with Progress(steps, label, initial=start) as progress:
            waiting: list[tuple[int, Metrics]] = []

            def read() -> None:
                while waiting:
                    step, metrics = waiting.pop()
                    progress.update(step, writer.write(step, metrics) if _due(step) else finalize(metrics))

            def _due(step: int) -> bool:
                return step % config.log_every == 0 or step == steps

            for step in range(start + 1, steps + 1):
                state, metrics = update(state)
                read()
                waiting.append((step, metrics))
                if evaluate is not None and (step % eval_every == 0 or step == steps):
                    read()
                    writer.write(step, evaluate(state))
                if step % config.save_every == 0 or step == steps or stop.requested:
                    checkpointer.save(step, state)
                if stop.requested:
                    read()
                    checkpointer.wait()
                    print(f"{label}: stopped at step {step} and saved; add --resume to go on")
                    raise SystemExit(INTERRUPTED)
            read()
    return state


def describe(name: str, params: Any, update: Any, *arguments: Any) -> None:
    """Prints what `--dry-run` promises, from shapes alone.

    Args:
      update: a jitted function.
      arguments: of `update`, as shapes.
    """
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{name}: {count:,} trainable parameters")
    for group, leaves in params.items():
        print(f"  {group}: {sum(leaf.size for leaf in jax.tree.leaves(leaves)):,}")
    for position, argument in enumerate(arguments):
        leaves = jax.tree.leaves(argument)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        print(f"  argument {position}: {len(leaves)} arrays, {size / 2**20:.1f} MiB")
    memory = update.lower(*arguments).compile().memory_analysis()
    if memory is not None:
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(f"  the compiled step takes {total / 2**20:.1f} MiB, {memory.temp_size_in_bytes / 2**20:.1f} of it temporary")

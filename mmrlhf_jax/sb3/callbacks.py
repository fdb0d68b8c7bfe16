"""What `learn` calls along the way, and what it shows."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.types import Metrics

if TYPE_CHECKING:
    from mmrlhf_jax.sb3.algorithm import Algorithm

_EPISODES = 100  # over which rollout/ep_rew_mean is taken, as SB3's


class BaseCallback:
    """Override the methods with an underscore; `_on_step` returning False ends the training.

    `model` is the one that learns; `num_timesteps` counts the steps of all copies, `n_calls` the calls.
    """

    model: "Algorithm"
    n_calls = 0
    num_timesteps = 0

    def init_callback(self, model: "Algorithm") -> None:
        """Called by `learn` before anything else."""
        self.model = model

    def on_step(self) -> bool:
        """Counts, then asks `_on_step`."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        return self._on_step()

    def _on_training_start(self) -> None: ...

    def _on_rollout_start(self) -> None: ...

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None: ...

    def _on_training_end(self) -> None: ...


class _FunctionCallback(BaseCallback):
    """A plain function (locals, globals) → whether to go on."""

    def __init__(self, function: Callable[[dict, dict], bool]):
        self.function = function

    def _on_step(self) -> bool:
        return self.function({"self": self.model}, globals()) is not False


Callback = BaseCallback | Callable[[dict, dict], bool]


def as_callbacks(callback: Callback | Sequence[Callback] | None) -> list[BaseCallback]:
    """One, several or none as a list."""
    if callback is None:
        return []
    several: Sequence[Callback] = callback if isinstance(callback, Sequence) else [callback]
    return [each if isinstance(each, BaseCallback) else _FunctionCallback(each) for each in several]


class TrainingLog:
    """SB3's metrics of a training; what lies on the device is read only when asked for."""

    def __init__(self, timesteps: int, interval: int):
        self._first, self._interval = timesteps, interval
        self._start = time.monotonic()
        self._iterations = 0
        self._unread: list[Metrics] = []
        self._episodes: deque[tuple[float, float, float]] = deque()  # (returns, lengths, count) of rollouts

    def add(self, metrics: Metrics) -> bool:
        """Notes an iteration; whether it is time to read."""
        self._iterations += 1
        self._unread.append(metrics)
        return self._iterations % self._interval == 0

    def read(self, timesteps: int) -> dict[str, float]:
        """The last iteration's metrics; those of episodes are over the last rollouts with at least 100."""
        for metrics in self._unread:
            (returns, count), (lengths, _) = metrics["rollout/ep_rew_mean"], metrics["rollout/ep_len_mean"]
            if float(count):
                self._episodes.append((float(returns), float(lengths), float(count)))
        while (
            self._episodes and sum(count for *_, count in self._episodes) - self._episodes[0][2] >= _EPISODES
        ):
            self._episodes.popleft()
        last = finalize(self._unread[-1])
        self._unread.clear()
        episodes = sum(count for *_, count in self._episodes) or math.nan
        seconds = time.monotonic() - self._start
        return {
            **last,
            "rollout/ep_rew_mean": sum(returns for returns, *_ in self._episodes) / episodes,
            "rollout/ep_len_mean": sum(lengths for _, lengths, _ in self._episodes) / episodes,
            "time/fps": (timesteps - self._first) / max(seconds, 1e-9),
            "time/iterations": float(self._iterations),
            "time/time_elapsed": seconds,
            "time/total_timesteps": float(timesteps),
        }


def as_table(metrics: dict[str, float]) -> str:
    """One line a metric, in groups, as SB3 prints them."""
    lines, group = [], ""
    for name, value in sorted(metrics.items()):
        head, _, tail = name.partition("/")
        lines += [f"{head}/"] * (head != group) + [f"    {tail:<22} {value:.6g}"]
        group = head
    return "\n".join(lines)

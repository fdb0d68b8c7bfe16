"""Progress of a loop: a bar in a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from mmrlhf_jax.processes import is_first

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_SECONDS = 10.0  # a plain line at most this often, or ...
_SHARE = 0.1  # ... after this share of the whole
_SHOWN_METRICS = 3


class Progress:
    """Shows step, share, rate, time left and a few metrics on stderr; a context manager.

    In a log a line reads `sft  120/800  15%  3.1 it/s  eta 220s  loss 2.31`. The rate is measured from the
    first update on, so that the compilation before it does not count. Of several processes
    the first one shows.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        initial: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.label = label
        self._step = self._shown_step = initial
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._shown_at = clock()
        self._first: tuple[int, float] | None = None
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty() and is_first():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = RichProgress(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self._step, text="starting"
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Note that `step` steps are done, and show it with the first few `metrics`."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        self._step = step
        text = self._text(now, metrics or {})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
            return
        if not is_first():
            return
        far_enough = step - self._shown_step >= _SHARE * self.total
        if far_enough or now - self._shown_at >= _SECONDS or step >= self.total:
            self._shown_step, self._shown_at = step, now
            print(f"{self.label}  {text}", file=self._stream, flush=True)

    def _text(self, now: float, metrics: Mapping[str, float]) -> str:
        parts = [f"{self._step}/{self.total}", f"{100 * self._step // max(1, self.total)}%"]
        first_step, first_time = self._first or (self._step, now)
        if self._step > first_step and now > first_time:
            rate = (self._step - first_step) / (now - first_time)
            parts += [f"{rate:.2g} it/s" if rate < 1 else f"{rate:.1f} it/s"]
            parts += [f"eta {max(0, self.total - self._step) / rate:.0f}s"]
        parts += [f"{name} {float(value):.4g}" for name, value in list(metrics.items())[:_SHOWN_METRICS]]
        return "  ".join(parts)

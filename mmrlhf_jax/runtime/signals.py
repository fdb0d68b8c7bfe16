"""Stopping a run on request: the first signal asks it to save and leave, the second one ends it.

Of a run of several processes any one may get the signal, and all stop after the same step.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from mmrlhf_jax.processes import count
from mmrlhf_jax.sharding import any_process

INTERRUPTED = 75  # exit status for "saved, to be resumed later" (EX_TEMPFAIL)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Catches SIGINT and SIGTERM while it is entered; a context manager.

    The first signal sets `requested`, which the loop looks at between two steps; the second ends the
    process at once with status 130. On exit the old handlers are back. Outside the main thread, where Python
    allows no handlers, it stays passive.
    """

    def __init__(self) -> None:
        self.requested = False
        self._heard: Callable[[], bool] = bool
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def agreed(self) -> bool:
        """Whether to stop now; all processes must ask, and are told the same.

        Of several processes what was asked up to the call before counts, so that none waits here for a step
        that still runs.
        """
        if count() == 1:
            return self.requested
        told, self._heard = self._heard(), any_process(self.requested)
        return told

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(130)
        self.requested = True
        # no print: the signal may have come in the middle of one
        os.write(2, b"\nstopping after this step, with a checkpoint; once more stops at once\n")

"""Stopping a run on request: the first signal asks it to save and leave, the second one ends it."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(130)
        self.requested = True
        # no print: the signal may have come in the middle of one
        os.write(2, b"\nstopping after this step, with a checkpoint; once more stops at once\n")

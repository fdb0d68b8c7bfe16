"""Group commit: requests that come while the disk is busy share its next write."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from mmrlhf_jax.feedback.desk import Desk

T = TypeVar("T")


class GroupCommit:
    """Does work of many requests on one desk, in the event loop's own thread.

    All work that is handed in during one turn of the loop shares a transaction, and nobody is answered before
    it is on the disk: fifty raters wait for one write together rather than for fifty in a row. No other
    thread takes part, since two threads of Python in turn at one interpreter wait for each other longer than
    the disk takes.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future]] = []

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, once its writes are on the disk."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._commit)
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, future))
        return await future

    def _commit(self) -> None:
        # The client of a cancelled one went away before its turn.
        batch = [(work, future) for work, future in self._waiting if not future.cancelled()]
        self._waiting = []
        outcomes = self.desk.together([work for work, _ in batch])
        for (_, future), (result, error) in zip(batch, outcomes, strict=True):
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

"""The desk: hands items out and takes judgements back, with the store and the assigner always in step."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.store import Conflict, Judged, Lease, Store
from mmrlhf_jax.feedback.tasks import Item, is_skip

T = TypeVar("T")

MAX_AT_ONCE = 256  # pieces of work in one transaction


class Given(NamedTuple):
    """An item as a rater gets it."""

    lease: Lease
    item: Item


class Desk:
    """What raters do, each as one piece of work that is on the disk when its future is done.

    One thread does all of it. What has come in meanwhile shares a transaction, so that fifty raters wait for
    one write of the disk together rather than for fifty in a row.

    Args:
      assigner: makes an `Assigner` of the store's items; called again where a write failed.
    """

    def __init__(self, store: Store, assigner: Callable[[dict[int, Item]], Assigner]):
        self.store = store
        self._make_assigner = assigner
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future] | None] = queue.SimpleQueue()
        self._reload()
        self._thread = threading.Thread(target=self._serve, name="desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finishes the work that was handed in."""
        self._work.put(None)
        self._thread.join()

    def give(self, rater: int, count: int, have: Sequence[int] = ()) -> "Future[list[Given]]":
        """Up to `count` items for the rater's page, which has those of `have` already."""
        return self._hand_in(lambda: self._give(rater, count, have))

    def judge(
        self, key: str, rater: int, item: int, answer: dict[str, Any], seconds: float
    ) -> "Future[tuple[Judged, bool]]":
        """Stores a judgement, see `Store.judge`. Conflict where the item was never in the rater's hands."""
        return self._hand_in(lambda: self._judge(key, rater, item, answer, seconds))

    def undo(self, key: str, rater: int, undone: str) -> "Future[Given]":
        """Takes a judgement back, see `Store.undo`, and gives its item out again."""
        return self._hand_in(lambda: self._undo(key, rater, undone))

    def rename(self, rater: int, name: str) -> "Future[None]":
        """Gives a rater the name of their choice."""
        return self._hand_in(lambda: self._rename(rater, name))

    def progress(self, rater: int) -> "Future[tuple[int, int]]":
        """(how many judgements of the rater stand, how many items still wait)."""
        return self._hand_in(lambda: (self._assigner.done_by(rater), self._assigner.open_for(rater)))

    def _give(self, rater: int, count: int, have: Sequence[int]) -> list[Given]:
        besides, given = list(have), []
        for _ in range(count):
            lease = self._assigner.next(rater, time.time(), besides=besides)
            if lease is None:
                break
            self.store.lease(lease)
            besides.append(lease.item)
            given.append(Given(lease, self.items[lease.item]))
        return given

    def _judge(
        self, key: str, rater: int, item: int, answer: dict[str, Any], seconds: float
    ) -> tuple[Judged, bool]:
        lease = self._assigner.leases.get((item, rater))
        if lease is None:
            raise Conflict(f"item {item} was not given to you")
        row, repeated = self.store.judge(key, rater, self.items[item], lease, answer, seconds, time.time())
        if not repeated:
            self._assigner.judged(rater, item, skipped=is_skip(row.answer))
        return row, repeated

    def _undo(self, key: str, rater: int, undone: str) -> Given:
        row, repeated = self.store.undo(key, rater, undone, time.time())
        if repeated:
            lease = self._assigner.leases[row.item, rater]
        else:
            lease = self._assigner.undone(rater, row.item, time.time(), skipped=is_skip(row.answer))
            self.store.lease(lease)
        return Given(lease, self.items[row.item])

    def _rename(self, rater: int, name: str) -> None:
        self.store.rename(rater, name)
        self.names[rater] = name

    def _reload(self) -> None:
        self.items = self.store.items()
        self.names = {rater.id: rater.name for rater in self.store.raters()}
        self._assigner = self._make_assigner(self.items)
        self._assigner.restore(self.store.leases(), self.store.standing(), time.time())

    def _hand_in(self, work: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._work.put((work, future))
        return future

    def _serve(self) -> None:
        while (first := self._work.get()) is not None:
            batch, last = [first], False
            while len(batch) < MAX_AT_ONCE and not self._work.empty():
                following = self._work.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[tuple[Callable[[], Any], Future]]) -> None:
        """Does all of `batch` in one transaction and only then tells the results."""
        outcomes: list[tuple[Future, Any, Exception | None]] = []
        # A request whose client went away before its turn is dropped; from here on it cannot be cancelled.
        batch = [(work, future) for work, future in batch if future.set_running_or_notify_cancel()]
        try:
            with self.store.transaction():
                for work, future in batch:
                    try:
                        with self.store.transaction():
                            outcomes.append((future, work(), None))
                    except Exception as error:  # one bad request must not take the others' with it
                        outcomes.append((future, None, error))
        except Exception as error:  # nothing was written, e.g. because the disk is full
            outcomes = [(future, None, error) for _, future in batch]
        if any(error is not None and not isinstance(error, UserError) for _, _, error in outcomes):
            self._reload()  # the assigner may have gone ahead of what the store took
        for future, result, failure in outcomes:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

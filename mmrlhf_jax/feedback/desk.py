"""The desk: hands items out and takes judgements back, with the store and the assigner always in step."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.store import Conflict, Judged, Lease, Store
from mmrlhf_jax.feedback.tasks import Item, is_skip


class Given(NamedTuple):
    """An item as a rater gets it."""

    lease: Lease
    item: Item


class Progress(NamedTuple):
    """How many judgements of a rater stand, and how many items still wait for this rater."""

    done: int
    left: int


class Outcome(NamedTuple):
    """What a piece of work gave, or the error that it ended with."""

    result: Any
    error: Exception | None


class Desk:
    """What raters do. Each method is on the disk when it returns, or when the transaction around it ends.

    It belongs to one thread. What it knows in memory it reads again from the store where a write failed.

    Args:
      assigner: makes an `Assigner` of the store's items.
    """

    def __init__(self, store: Store, assigner: Callable[[dict[int, Item]], Assigner]):
        self.store = store
        self._make_assigner = assigner
        self._reload()

    def give(self, rater: int, count: int, have: Sequence[int] = ()) -> list[Given]:
        """Up to `count` items for the rater's page, which has those of `have` already."""
        besides, leases = list(have), []
        for _ in range(count):
            lease = self._assigner.next(rater, time.time(), besides=besides)
            if lease is None:
                break
            besides.append(lease.item)
            leases.append(lease)
        self.store.lease(*leases)
        return [Given(lease, self.items[lease.item]) for lease in leases]

    def judge(
        self, key: str, rater: int, item: int, answer: dict[str, Any], seconds: float
    ) -> tuple[Judged, bool]:
        """Stores a judgement, see `Store.judge`. Conflict where the item was never in the rater's hands."""
        lease = self._assigner.leases.get((item, rater))
        if lease is None:
            raise Conflict(f"item {item} was not given to you")
        row, repeated = self.store.judge(key, rater, self.items[item], lease, answer, seconds, time.time())
        if not repeated:
            self._assigner.judged(rater, item, skipped=is_skip(row.answer))
        return row, repeated

    def undo(self, key: str, rater: int, undone: str) -> Given:
        """Takes a judgement back, see `Store.undo`, and gives its item out again."""
        row, repeated = self.store.undo(key, rater, undone, time.time())
        if repeated:
            lease = self._assigner.leases[row.item, rater]
        else:
            lease = self._assigner.undone(rater, row.item, time.time(), skipped=is_skip(row.answer))
            self.store.lease(lease)
        return Given(lease, self.items[row.item])

    def rename(self, rater: int, name: str) -> None:
        """Gives a rater the name of their choice."""
        self.store.rename(rater, name)
        self.names[rater] = name

    def progress(self, rater: int) -> Progress:
        """How far a rater is."""
        return Progress(self._assigner.done_by(rater), self._assigner.open_for(rater))

    def nothing_left(self) -> bool:
        """Whether no item waits for any rater: all are judged, or skipped by all who could judge them."""
        self._assigner.expire(time.time())
        return not any(self._assigner.open_for(rater) for rater in self.names)

    def together(self, works: Sequence[Callable[[], Any]]) -> list[Outcome]:
        """Does all of `works` in one transaction: one write of the disk, whatever their number.

        One that ends with an error takes back its own writes alone. Where the disk refuses, all end with
        that error, and nothing was written.
        """
        outcomes = []
        try:
            with self.store.transaction():
                for work in works:  # each with one write of the store, which is whole or taken back
                    try:
                        outcomes.append(Outcome(work(), None))
                    except Exception as error:
                        outcomes.append(Outcome(None, error))
        except Exception as error:  # e.g. a full disk
            outcomes = [Outcome(None, error) for _ in works]
        if any(error is not None and not isinstance(error, UserError) for _, error in outcomes):
            self._reload()  # the assigner may have gone ahead of what the store took
        return outcomes

    def _reload(self) -> None:
        self.items = self.store.items()
        self.names = {rater.id: rater.name for rater in self.store.raters()}
        self._assigner = self._make_assigner(self.items)
        self._assigner.restore(self.store.leases(), self.store.standing(), time.time())

"""Who is asked what next: which item, in which order its answers stand, and who else has it meanwhile."""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.store import Judged, Lease
from mmrlhf_jax.feedback.tasks import Item, is_skip

Strategy = Literal["random", "disagreement", "information"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

CHECK = "check"  # what stands in place of a strategy where a lease is an attention check


def disagreement(margin_KxN: np.ndarray) -> np.ndarray:
    """Where an ensemble of K reward models disagrees: the standard deviation of its margins, (N,).

    Args:
      margin_KxN: reward of answer a minus that of b, one row for each member.
    """
    return np.std(np.asarray(margin_KxN, dtype=np.float64), axis=0)


def expected_information(margin_KxN: np.ndarray) -> np.ndarray:
    """What a comparison is expected to tell about which member of the ensemble is right, in nats, (N,).

    H(mean_k p_k) - mean_k H(p_k), with p_k = sigmoid(margin_k) and H the entropy of a yes or no: large
    where members are sure of different things, 0 where they agree, and small where all expect a coin toss.

    Source: Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning" (2011),
    eq. 2.
    """
    p_KxN = 0.5 * (1 + np.tanh(np.asarray(margin_KxN, dtype=np.float64) / 2))  # never overflows

    def entropy(p: np.ndarray) -> np.ndarray:
        q = np.clip(p, 1e-300, 1.0)
        r = np.clip(1 - p, 1e-300, 1.0)
        return -p * np.log(q) - (1 - p) * np.log(r)

    return np.maximum(entropy(p_KxN.mean(axis=0)) - entropy(p_KxN).mean(axis=0), 0.0)


class Assigner:
    """Knows in memory what is judged and what is in whose hands; the store can rebuild it at any time.

    An item is open while fewer raters have judged it, or hold it, than it wants. Nobody gets an item twice.
    Skipped items stay open for others. An attention check comes after every `check_every` items of a rater,
    while there are some that this rater has not seen.

    Args:
      items: all items by id.
      strategy: "random" takes open items in an order drawn with `seed`; the others take the one of the
        highest priority, ties in that order.
      lease_seconds: how long an item stays in a rater's hands.
      check_every: 0 for no checks.

    Raises:
      UserError: no such strategy, or a number below 0.
    """

    def __init__(
        self,
        items: Mapping[int, Item],
        *,
        strategy: str = "random",
        lease_seconds: float = 600.0,
        check_every: int = 20,
        seed: int = 0,
    ):
        if strategy not in STRATEGIES:
            raise UserError(f"strategy is {strategy!r}: choose one of {', '.join(STRATEGIES)}")
        if not 0 < lease_seconds < math.inf or check_every < 0:
            raise UserError("leases last above 0 seconds, and checks come every 0 (never) or more items")
        self.items = items
        self.strategy = strategy
        self.lease_seconds = lease_seconds
        self.check_every = check_every
        self.leases: dict[tuple[int, int], Lease] = {}  # (item, rater) → every lease ever given
        self._rng = np.random.default_rng(seed)
        self._ids = [number for number, item in items.items() if not item.is_check]
        self._checks = [number for number, item in items.items() if item.is_check]
        self._row = {number: row for row, number in enumerate(self._ids)}
        order_N = self._rng.permutation(len(self._ids))
        by_priority = strategy != "random"
        priority_N = np.array([items[i].priority if by_priority else 0.0 for i in self._ids], np.float64)
        self._rank_N = np.empty(len(self._ids), np.int64)  # the lower, the sooner
        self._rank_N[np.lexsort((order_N, -priority_N))] = np.arange(len(self._ids))
        self._wanted_N = np.array([items[i].wanted for i in self._ids], np.int64)
        self._judged_N = np.zeros(len(self._ids), np.int64)
        self._held_N = np.zeros(len(self._ids), np.int64)
        self._had: dict[int, np.ndarray] = {}  # rater → which items this rater has judged or skipped
        self._holding: dict[int, dict[int, None]] = defaultdict(dict)  # rater → ids of items in hand
        self._expiries: list[tuple[float, int, int]] = []
        self._since_check: dict[int, int] = defaultdict(int)
        self._done: dict[int, int] = defaultdict(int)
        self._checked: dict[int, set[int]] = defaultdict(set)

    def restore(self, leases: Iterable[Lease], judged: Iterable[Judged], now: float) -> None:
        """Takes over what the store holds."""
        for row in judged:
            self.judged(row.rater, row.item, skipped=is_skip(row.answer))
        for lease in leases:
            self.leases[lease.item, lease.rater] = lease
            if lease.until > now and not self._has_had(lease.rater, lease.item):
                self._hold(lease)

    def next(self, rater: int, now: float, *, besides: Iterable[int] = ()) -> Lease | None:
        """The item that `rater` is to see now, None where nothing is left for this rater.

        What the rater holds already comes first, so that a page that is opened again goes on where it was.

        Args:
          besides: ids of items that the page has already.
        """
        self.expire(now)
        besides = set(besides)
        for number in self._holding[rater]:
            if number not in besides:
                return self._renew(self.leases[number, rater], now)
        picked = self._pick(rater)
        if picked is None:
            return None
        number, strategy = picked
        shown = tuple(self._rng.permutation(len(self.items[number].answers)).tolist())
        earlier = self.leases.get((number, rater))  # it ended unused: the same order as the first time
        return self._renew(earlier or Lease(number, rater, shown, strategy, 0.0), now)

    def judged(self, rater: int, item: int, *, skipped: bool = False) -> None:
        """Notes that `rater` is done with `item`."""
        self._let_go(rater, item)
        self._done[rater] += 1
        if item not in self._row:
            self._checked[rater].add(item)
            self._since_check[rater] = 0
            return
        self._had_by(rater)[self._row[item]] = True
        self._judged_N[self._row[item]] += not skipped
        self._since_check[rater] += 1

    def undone(self, rater: int, item: int, now: float, *, skipped: bool = False) -> Lease:
        """Gives an item whose judgement was taken back into the rater's hands again."""
        self._done[rater] -= 1
        if item in self._row:
            self._had_by(rater)[self._row[item]] = False
            self._judged_N[self._row[item]] -= not skipped
        else:
            self._checked[rater].discard(item)
        return self._renew(self.leases[item, rater], now)

    def done_by(self, rater: int) -> int:
        """How many judgements of this rater stand, skips and checks included."""
        return self._done[rater]

    def open_for(self, rater: int) -> int:
        """How many items, checks left out, wait for this rater, those in hand included."""
        in_hand = sum(item in self._row for item in self._holding[rater])
        return int(np.count_nonzero(self._open(rater))) + in_hand

    def expire(self, now: float) -> None:
        """Takes back what was held for too long."""
        while self._expiries and self._expiries[0][0] <= now:
            _, item, rater = heapq.heappop(self._expiries)
            if self.leases[item, rater].until <= now:  # else it was renewed
                self._let_go(rater, item)

    def _pick(self, rater: int) -> tuple[int, str] | None:
        in_hand = len(self._holding[rater])
        if self.check_every and self._since_check[rater] + in_hand >= self.check_every:
            unseen = (i for i in self._checks if i not in self._checked[rater])
            check = next((i for i in unseen if i not in self._holding[rater]), None)
            waiting = any(i not in self._row for i in self._holding[rater])
            if check is not None and not waiting:
                return check, CHECK
        open_N = self._open(rater)
        if not open_N.any():
            return None
        rank_N = np.where(open_N, self._rank_N, len(self._ids))
        return self._ids[int(np.argmin(rank_N))], self.strategy

    def _open(self, rater: int) -> np.ndarray:
        open_N = (self._judged_N + self._held_N < self._wanted_N) & ~self._had_by(rater)
        for item in self._holding[rater]:
            if item in self._row:
                open_N[self._row[item]] = False
        return open_N

    def _had_by(self, rater: int) -> np.ndarray:
        if rater not in self._had:
            self._had[rater] = np.zeros(len(self._ids), bool)
        return self._had[rater]

    def _has_had(self, rater: int, item: int) -> bool:
        return (
            bool(self._had_by(rater)[self._row[item]]) if item in self._row else item in self._checked[rater]
        )

    def _renew(self, lease: Lease, now: float) -> Lease:
        lease = lease._replace(until=now + self.lease_seconds)
        self.leases[lease.item, lease.rater] = lease
        self._hold(lease)
        return lease

    def _hold(self, lease: Lease) -> None:
        if lease.item not in self._holding[lease.rater]:
            self._holding[lease.rater][lease.item] = None
            if lease.item in self._row:
                self._held_N[self._row[lease.item]] += 1
        heapq.heappush(self._expiries, (lease.until, lease.item, lease.rater))

    def _let_go(self, rater: int, item: int) -> None:
        if item in self._holding[rater]:
            del self._holding[rater][item]
            if item in self._row:
                self._held_N[self._row[item]] -= 1

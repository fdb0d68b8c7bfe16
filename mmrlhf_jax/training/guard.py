"""The guard of every stage's updates: what is not finite is not applied, and spikes of the loss are counted.

It is part of the compiled step and of the state, so that a resumed run counts on as if it had not stopped;
the host only reads what it says, and ends the run when too many updates in a row came to nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.sharding import copied, settled
from mmrlhf_jax.types import Metrics

WINDOW = 64  # losses that a new one is compared with
LEAST = 16  # of them, before any can be called a spike
SPIKE = 6.0  # standard deviations above the window's mean
_STILL = 1e-3  # of the mean: the least standard deviation, for losses that hardly move

SKIPPED, IN_A_ROW, SPIKES = "updates/skipped", "updates/in_a_row", "updates/spikes"
_GRADIENT = "skipped_steps"  # what `optimize.apply_gradients` says of a gradient that is not finite


class Guard(NamedTuple):
    """What the guard remembers."""

    skipped: jax.Array  # () int32, updates that were not applied
    in_a_row: jax.Array  # () int32, the last ones of them, if the last update was one
    spikes: jax.Array  # () int32, losses that stood out
    seen: jax.Array  # () int32, applied updates, whose losses the window has had
    losses_LxW: jax.Array  # float32, the last losses, written round and round


class Guarded(NamedTuple):
    """A stage's state and its guard."""

    state: Any
    guard: Guard

    def rested(self) -> "Guarded":
        """The same with no skipped updates in a row: a new start has as many attempts as the first one."""
        return self._replace(guard=self.guard._replace(in_a_row=jnp.zeros_like(self.guard.in_a_row)))


def begin(state: Any, losses: Sequence[str]) -> Guarded:
    """`state` under a guard that has seen nothing; on a mesh, where its rules say.

    Args:
      losses: names of the metrics that are watched for spikes.
    """
    zero = jnp.zeros((), jnp.int32)
    return settled(Guarded(state, Guard(zero, zero, zero, zero, jnp.zeros((len(losses), WINDOW)))))


def guarded(
    step: Callable[..., tuple[Any, Metrics]], losses: Sequence[str]
) -> Callable[..., tuple[Guarded, Metrics]]:
    """`step` under guard: (state, ...) → (state, metrics) of a `Guarded` state.

    An update is applied only if every metric's sum is finite and no gradient step was skipped; else all of
    the state stays as it was but for its `step`, so that the next update draws another batch. A loss is a
    spike if it is more than SPIKE standard deviations above the mean of the last WINDOW ones; such an update
    is applied.

    Adds the numbers of updates skipped so far, of the last ones in a row, and of spikes so far. On a mesh the
    state stays where its rules say, and metrics are whole on every device.
    """

    def update(before: Guarded, *inputs: Any) -> tuple[Guarded, Metrics]:
        new, metrics = step(before.state, *inputs)
        sums = jnp.stack([total.astype(jnp.float32) for total, _ in metrics.values()])
        skips = [total for name, (total, _) in metrics.items() if name.endswith(_GRADIENT)]
        fine = jnp.all(jnp.isfinite(sums)) & (sum(skips, start=jnp.zeros(())) == 0)
        kept = jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, before.state)
        loss_L = jnp.stack([metrics[name][0] / metrics[name][1] for name in losses])
        guard = _follow(before.guard, fine, loss_L)
        told = {SKIPPED: guard.skipped, IN_A_ROW: guard.in_a_row, SPIKES: guard.spikes}
        one = jnp.ones(())
        metrics = metrics | {name: (count.astype(jnp.float32), one) for name, count in told.items()}
        return settled(Guarded(kept._replace(step=new.step), guard)), copied(metrics)

    return update


def _follow(guard: Guard, fine: jax.Array, loss_L: jax.Array) -> Guard:
    count = jnp.minimum(guard.seen, WINDOW)
    there_1xW = (jnp.arange(WINDOW) < count)[None]
    share = 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
    mean_L = share * jnp.sum(guard.losses_LxW, axis=1, where=there_1xW)
    apart_LxW = guard.losses_LxW - mean_L[:, None]
    spread_L = jnp.sqrt(share * jnp.sum(apart_LxW**2, axis=1, where=there_1xW))
    bound_L = mean_L + SPIKE * jnp.maximum(spread_L, _STILL * jnp.abs(mean_L))
    spike = fine & (count >= LEAST) & jnp.any(loss_L > bound_L)
    here_1xW = (jnp.arange(WINDOW) == guard.seen % WINDOW)[None] & fine
    good = fine.astype(jnp.int32)
    return Guard(
        guard.skipped + 1 - good,
        (guard.in_a_row + 1) * (1 - good),
        guard.spikes + spike.astype(jnp.int32),
        guard.seen + good,
        jnp.where(here_1xW, loss_L[:, None], guard.losses_LxW),
    )


class Insight:
    """What the host makes of the guard's metrics, step by step.

    Attributes:
      since: the first one of the skipped updates in a row, up to the last step read.
      term: what of it was not finite first, in the order of the computation.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self.since = 0
        self.term = ""

    def read(self, step: int, metrics: Metrics) -> None:
        """Takes note of a step; of several members, the one that fared worst counts."""
        if IN_A_ROW not in metrics or self.exhausted:
            return
        self._in_a_row = int(np.max(np.asarray(metrics[IN_A_ROW][0])))
        if self._in_a_row and (not self.term or self.since != step - self._in_a_row + 1):
            self.since, self.term = step - self._in_a_row + 1, first_term(metrics)

    @property
    def exhausted(self) -> bool:
        """Whether so many updates in a row were skipped that the run shall end."""
        return self._in_a_row >= self._limit

    def told(self, label: str, reasons: Mapping[str, str]) -> str:
        """What happened, for the error that ends the run.

        Args:
          reasons: why a reward term is not finite, by its name, where that is known.
        """
        part = self.term.split("/")
        reason = reasons.get(part[1], "") if part[0] == "rewards" else ""
        why = f" ({reason})" if reason else ""
        return (
            f"{label}: {self._in_a_row} updates in a row, from step {self.since} on, were not applied: "
            f"{self.term} was the first that is not finite{why}"
        )


def first_term(metrics: Metrics) -> str:
    """Which metric is not finite, the first in the order of the computation; "gradient" if only that is not.

    Rewards come before what is made of them, and that before the losses.
    """
    sums = {name: np.asarray(total) for name, (total, _) in metrics.items()}
    odd = [name for name, total in sums.items() if not np.isfinite(total).all()]
    if not odd:
        return "gradient"
    return min(odd, key=lambda name: (_place(name), odd.index(name)))


def _place(name: str) -> int:
    if name.startswith("rewards/") and name.endswith("/mean"):  # as the term's judge gave it
        return 0
    if name.startswith("rewards/"):
        return 1
    return 2 if name.startswith("objective/") else 3 if "loss" in name else 4

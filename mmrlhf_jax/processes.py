"""The processes of a run, on one host or on several: all of them compute, the first one writes.

A launcher starts them (scripts/launch_*), and `join` makes them one. All run the same program on the same
data. What hangs on a disk or on a clock, which they may see differently, the first one looks up for all
(`of_first`).
"""

import functools
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from mmrlhf_jax.errors import UserError

Plain = TypeVar("Plain")

PLACE = "MMRLHF_JAX_PROCESS"  # "INDEX/COUNT", or "auto": the cluster knows
ADDRESS = "JAX_COORDINATOR_ADDRESS"  # "HOST:PORT" of the first process, where PLACE gives numbers

# Where clusters that JAX knows say how many processes they have started.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"  # of GKE, separated by commas

_index, _count = 0, 1


class _Nowhere(io.TextIOBase):
    """Where the others print to."""

    def write(self, text: str) -> int:
        return len(text)


class ToldError(UserError):
    """What went wrong in the first process, which says so itself."""


def join() -> None:
    """Makes this process one of those that were started together; does nothing for one that is alone.

    Reads PLACE and ADDRESS; steps of SLURM, Open MPI and GKE's TPU jobs are recognised without. Must come
    before the first array. From then on the first process alone prints.

    Raises:
      UserError: PLACE is not understood, or the processes do not find one another.
    """
    global _index, _count
    place = os.environ.get(PLACE) or ("auto" if _is_cluster() else "")
    if not place:
        return
    where = {} if place == "auto" else _place(place)
    import jax

    try:
        jax.distributed.initialize(**where)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find one another ({str(error).splitlines()[0]}): start all "
            f"of them, each with its own {PLACE} and with the address of the first one in {ADDRESS}"
        ) from error
    _index, _count = jax.process_index(), jax.process_count()
    if _index:
        sys.stdout = _Nowhere()


def count() -> int:
    """How many there are."""
    return _count


def is_first() -> bool:
    """Whether this is the one that writes."""
    return _index == 0


def by_first(write: Callable[..., None]) -> Callable[..., None]:
    """`write`, which the other processes leave to the first one."""

    @functools.wraps(write)
    def alone(*args: Any, **named: Any) -> None:
        if is_first():
            write(*args, **named)

    return alone


def of_first(look: Callable[[], Plain]) -> Plain:
    """What `look` gives on the first process, told to all; they wait for one another.

    Args:
      look: () → what JSON can hold; with several processes tuples become lists.

    Raises:
      Exception: what `look` raised; in the other processes a ToldError with the same words.
    """
    if _count == 1:
        return look()
    failure: Exception | None = None
    told: dict[str, Any] = {}
    if is_first():
        try:
            told = {"value": look()}
        except Exception as error:
            failure, told = error, {"error": str(error)}
    told = json.loads(_broadcast(json.dumps(told).encode()))
    if failure is not None:
        raise failure
    if "error" in told:
        raise ToldError(told["error"])
    return told["value"]


def meet() -> None:
    """Waits until all processes are here, so that what the first one wrote is there for all."""
    of_first(lambda: None)


def _is_cluster() -> bool:
    """Whether a cluster has started several processes."""
    counts = (os.environ.get(name, "") for name in _COUNTS)
    return any(found.isdigit() and int(found) > 1 for found in counts) or "," in os.environ.get(
        _TPU_HOSTS, ""
    )


def _place(text: str) -> dict[str, Any]:
    """What PLACE says, as JAX wants it."""
    index, _, total = text.partition("/")
    if not (index.isdigit() and total.isdigit() and int(index) < int(total)):
        raise UserError(f"{PLACE} is {text!r}: give INDEX/COUNT, e.g. 0/2, or auto on a cluster")
    if ADDRESS not in os.environ:
        raise UserError(f"{PLACE} is set and {ADDRESS} is not: give HOST:PORT of the first process")
    return {
        "coordinator_address": os.environ[ADDRESS],
        "num_processes": int(total),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _broadcast(data: bytes) -> bytes:
    """The first process's bytes, on all."""
    import numpy as np
    from jax.experimental import multihost_utils

    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(1 << max(6, (length - 1).bit_length()), np.uint8)  # few sizes, each compiled once
    if is_first():
        padded[:length] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)[:length].tobytes()

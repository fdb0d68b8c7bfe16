"""Batches for training steps from a set larger than memory: in random order, read ahead by threads."""

import importlib.util
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from mmrlhf_jax.errors import UserError

Example = TypeVar("Example")

AHEAD = 2  # batches that are ready, for each thread that makes them


class Walk:
    """Which example comes when: endless epochs, each a fresh permutation of range(size).

    Entry i is example i % size of the permutation of epoch i // size, which follows from (key, epoch) alone.
    `data.order.batch_indices` walks the same way: a set in memory and one on disk are seen in one order.

    Args:
      length: entries, after which the walk ends.
    """

    def __init__(self, key: jax.Array, size: int, length: int):
        self._key, self._size, self._length = key, size, length
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, entry: Any) -> int:
        epoch, place = divmod(int(entry), self._size)
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                # Not on an accelerator, where it would queue behind the steps that wait for it.
                with jax.default_device(jax.local_devices(backend="cpu")[0]):
                    order = jax.random.permutation(jax.random.fold_in(self._key, epoch), self._size)
                # Threads that read ahead are in this epoch or next to it.
                self._orders = {e: kept for e, kept in self._orders.items() if abs(e - epoch) <= 1}
                self._orders[epoch] = np.asarray(order)
            return self._orders[epoch]


class BatchStream(Generic[Example]):
    """Batches of examples, made by a grain pipeline and moved to the device one step ahead.

    Batch number p holds examples p x batch to (p + 1) x batch - 1 of the `Walk`, of which each process gets
    its share. So the position of the pipeline is one number, from which it goes on exactly.

    Args:
      read: an example by its number, a pytree of numpy arrays; called by several threads at a time.
      size: examples of the set.
      batch: examples of a step, over all processes.
      batches: after which the stream ends.
      key: of the order.
      workers: threads that read.
      process: number of this process, and how many there are.

    Raises:
      UserError: grain is not installed, or the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        read: Callable[[int], Example],
        *,
        size: int,
        batch: int,
        batches: int,
        key: jax.Array,
        workers: int = 4,
        process: tuple[int, int] = (0, 1),
    ):
        if importlib.util.find_spec("grain") is None:
            raise UserError("--stream needs the package grain: pip install 'mmrlhf-jax[data]'")
        import grain

        index, count = process
        if batch % count:
            raise UserError(f"--batch {batch} is not a multiple of the {count} processes: change --batch")
        walk = Walk(key, size, batches * batch)
        examples = grain.MapDataset.source(walk).slice(slice(index, None, count)).map(read)
        self._batches = examples.batch(batch // count, batch_fn=_stack)
        self._options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=AHEAD * workers)
        self._iterator: Any = None
        self._position = 0  # of the batch that the iterator gives next
        self._ready: tuple[int, Example] | None = None

    def at(self, position: int) -> Example:
        """Batch number `position`, on the device; the next one is at hand, another one takes a while."""
        if self._ready is not None and self._ready[0] == position:
            _, batch = self._ready
            self._ready = None
            return batch
        if self._iterator is None or self._position != position:
            self._seek(position)
        self._position += 1
        return jax.tree.map(jax.device_put, next(self._iterator))

    def prefetch(self) -> None:
        """Moves the batch after the last one to the device, while that computes."""
        if self._ready is None and self._position < len(self._batches):
            position = self._position
            self._ready = position, self.at(position)

    def close(self) -> None:
        """Ends the threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _seek(self, position: int) -> None:
        self.close()
        self._ready = None
        self._iterator = iter(self._batches.to_iter_dataset(self._options))
        self._iterator.set_state({"next_index": position})
        self._position = position


def _stack(examples: Any) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)

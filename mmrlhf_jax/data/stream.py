"""Batches for training steps from a set larger than memory: in random order, read ahead by threads."""

import importlib.util
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.sharding import of_own_rows, on_host, own_rows

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
        # on the host: keys of a mesh belong to all of its devices
        self._key, self._size, self._length = on_host(jax.random.key_data(key)), size, length
        self._impl = jax.random.key_impl(key)
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
                    key = jax.random.wrap_key_data(self._key, impl=self._impl)
                    order = jax.random.permutation(jax.random.fold_in(key, epoch), self._size)
                # Threads that read ahead are in this epoch or next to it.
                self._orders = {e: kept for e, kept in self._orders.items() if abs(e - epoch) <= 1}
                self._orders[epoch] = np.asarray(order)
            return self._orders[epoch]


class _Own:
    """Of each batch of a walk only some rows.

    Args:
      rows_B: which, ascending.
    """

    def __init__(self, walk: Walk, batch: int, rows_B: np.ndarray):
        self.rows_B = rows_B
        self._walk, self._batch = walk, batch

    def __len__(self) -> int:
        return len(self._walk) // self._batch * len(self.rows_B)

    def __getitem__(self, entry: Any) -> int:
        number, place = divmod(int(entry), len(self.rows_B))
        return self._walk[number * self._batch + int(self.rows_B[place])]


class BatchStream(Generic[Example]):
    """Batches of examples, made by a grain pipeline and moved to the device one step ahead.

    Batch number p holds examples p x batch to (p + 1) x batch - 1 of the `Walk`, of which each process reads
    those rows that lie on its devices. So the position of the pipeline is one number, from which it goes on
    exactly.

    Args:
      read: an example by its number, a pytree of numpy arrays; called by several threads at a time.
      size: examples of the set.
      batch: examples of a step, over all processes.
      batches: after which the stream ends.
      key: of the order.
      workers: threads that read.
      own_B: which rows of each batch this process reads; None: those that lie on its devices.

    Raises:
      UserError: grain is not installed.
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
        own_B: np.ndarray | None = None,
    ):
        if importlib.util.find_spec("grain") is None:
            raise UserError("--stream needs the package grain: pip install 'mmrlhf-jax[data]'")
        import grain

        own = _Own(Walk(key, size, batches * batch), batch, own_rows(batch) if own_B is None else own_B)
        self._batch = batch
        self._batches = grain.MapDataset.source(own).map(read).batch(len(own.rows_B), batch_fn=_stack)
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
        return of_own_rows(next(self._iterator), self._batch)

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

"""What two processes with two devices each say of what they do together; started by test_two_processes.py.

python scripts/launch_local.py 2x2 tests/multi_device/one_of_two.py FOLDER
"""

import json
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax import processes
from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.checkpoint import Checkpointer
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_mesh
from mmrlhf_jax.runtime.signals import StopRequest
from mmrlhf_jax.sharding import by_rows, made, of_own_rows, on_host, own_rows, settled

WEIGHT = np.arange(8 * 4, dtype=np.float32).reshape(8, 4)


def refused(act) -> str:
    """The error that `act` gives."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def state_of(factor: float) -> dict:
    """A state of arrays that are cut, and of a number of the host's."""
    cut = made(lambda: settled({"up": {"kernel": factor * jnp.asarray(WEIGHT)}}))
    return {"params": cut, "batches": np.asarray(int(factor), np.int64)}


def checkpoints(folder: Path) -> dict:
    """One saved by both, which both restore; a damaged one is skipped by both."""
    with Checkpointer(folder / "checkpoints") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state_of(step))
    processes.meet()
    if processes.is_first():
        damaged = next(path for path in (folder / "checkpoints" / "2").rglob("*") if path.stat().st_size > 99)
        damaged.write_bytes(b"damaged")
    processes.meet()
    with Checkpointer(folder / "checkpoints") as checkpointer:
        step, state = checkpointer.restore(state_of(0)) or (None, None)
        kernel = state["params"]["up"]["kernel"]
        repeated = refused(lambda: checkpointer.save(1, state_of(3)))
        checkpointer.save(2, state_of(5))  # the damaged one makes way
        checkpointer.wait()
        processes.meet()
        again = checkpointer.restore(state_of(0))
    return {
        "restored": step,
        "cut": str(kernel.sharding.spec),
        "own_shards": len(kernel.addressable_shards),
        "kernel": on_host(kernel).tolist(),
        "batches": int(state["batches"]),
        "repeated": repeated,
        "second": float(on_host(again[1]["params"]["up"]["kernel"])[0, 1]),
    }


def rows() -> dict:
    """Batches of which each process reads its own rows, and how they become one."""
    key, read = jax.random.key(3), []

    def example(number: int) -> np.ndarray:
        read.append(number)
        return np.full(2, number, np.float32)

    stream = BatchStream(example, size=16, batch=8, batches=2, key=key, workers=1)
    batches = [on_host(stream.at(position))[:, 0].tolist() for position in range(2)]
    stream.close()
    whole_Bx1 = by_rows(jnp.arange(8.0)[:, None])
    return {
        "own_rows": own_rows(8).tolist(),
        "read": sorted(set(read)),
        "batches": batches,
        "same": bool(np.array_equal(on_host(of_own_rows(own_rows(8)[:, None] * 1.0, 8)), on_host(whole_Bx1))),
    }


def stopping() -> list[bool]:
    """A signal to the second process alone, and what both hear of it at each step."""
    heard = []
    with StopRequest() as stop:
        for step in range(4):
            if step == 1 and not processes.is_first():
                signal.raise_signal(signal.SIGTERM)
            heard.append(stop.agreed())
    return heard


def main(folder: Path) -> None:
    processes.join()

    def fail():
        raise UserError("the disk is full")

    told = {
        "count": processes.count(),
        "devices": [len(jax.devices()), len(jax.local_devices())],
        "of_first": processes.of_first(lambda: {"index": jax.process_index(), "text": "ü" * 100}),
        "failure": refused(lambda: processes.of_first(fail)),
        "no_mesh": refused(lambda: on_mesh("").__enter__()),
        "part_of_it": refused(lambda: on_mesh("data=2").__enter__()),
    }
    with on_mesh("fsdp=4", batch=8):
        told |= {"checkpoints": checkpoints(folder), "rows": rows(), "stopping": stopping()}
        with StageFolder.open(folder / "stage", {"a": 1}, resume=False) as stage:
            done = [stage.is_done]
            processes.meet()
            stage.finish({"index": jax.process_index()})
            told |= {"done": [*done, stage.is_done], "result": stage.result()["index"]}
        told["another"] = refused(lambda: StageFolder.open(folder / "stage", {"a": 2}, resume=False))
    print("said once")
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The lock of a run folder: one trainer at a time, and no leftover of a killed one in the way."""

import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmrlhf_jax.errors import UserError


class FolderLock:
    """An exclusive lock on `folder`, held in a file that names host, process id and start time of its owner.

    The lock of a process that no longer lives on this host is taken over; whether a process on another host
    lives cannot be seen from here, so its lock stands until someone deletes the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock.json"

    def acquire(self) -> Self:
        """Take the lock. Raises `UserError` that names the owner where another process holds it."""
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}
        content = json.dumps(owner)
        try:
            _create(self.path, content)
        except FileExistsError:
            self._take_over(content)
        return self

    def release(self) -> None:
        """Give the lock back."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take_over(self, content: str) -> None:
        # Under the claim nobody else replaces the lock, so that two newcomers cannot both take it: the
        # second one reads the lock again and finds the first one's name in it.
        claim = self.path.with_suffix(".claim")
        try:
            _create(claim, content)
        except FileExistsError:
            raise UserError(
                f"{self.path.parent} is being taken over by another process: start again in a moment, "
                f"or delete {claim} if it stays"
            ) from None
        try:
            self._raise_if_held()
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(content, encoding="utf-8")
            os.replace(temporary, self.path)
        finally:
            claim.unlink()

    def _raise_if_held(self) -> None:
        try:
            owner: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            host, pid, started = owner["host"], owner["pid"], owner["started"]
        except FileNotFoundError:
            return  # given back just now
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path} names no owner: delete it if nothing is running in that folder"
            ) from None
        is_here = host == socket.gethostname()
        if is_here and _start_time(pid) != started:
            return  # its process is gone
        way_out = "" if is_here else f", or delete {self.path} if that process is gone"
        raise UserError(
            f"{self.path.parent} is in use by process {pid} on {host}: "
            f"wait for it, stop it, or choose another --run{way_out}"
        )


def _create(path: Path, content: str) -> None:
    """Write a file that must not be there yet; raises `FileExistsError`."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(content)


def _start_time(pid: int) -> float | None:
    """When a process started, None if it is gone; tells a process from a later one with the same id."""
    if os.path.exists("/proc/self/stat"):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # from the third on; the second, a name, may hold spaces
        # clock ticks since boot, which no change of the clock moves
        return None if fields[0] in ("Z", "X") else float(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None

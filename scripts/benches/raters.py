"""An annotation server as a process that can be killed, and simulated raters who judge over HTTP.

Raters think for a while that is drawn anew each time, judge, and try again with the same key until they are
answered. `latency` counts whole requests as a rater sees them, those that a kill cut off left out.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVE = """
import sys
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.serve import Address, serve
from mmrlhf_jax.feedback.store import Store
store = Store(sys.argv[1])
serve(store, lambda items: Assigner(items, check_every=0), Address(port=int(sys.argv[2])))
"""


class ServerProcess:
    """A server of the store at `path`, which can be killed and started again on the same port."""

    def __init__(self, path: Path, environment: Mapping[str, str]):
        self.path, self.environment = path, environment
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.links: list[str] = []
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [sys.executable, "-c", SERVE, str(self.path), str(self.port)]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = itertools.takewhile(lambda line: not line.startswith("Each link"), self.process.stdout)
        self.links = [re.sub(r"^.*?//[^/]+", "", line.strip()) for line in lines]
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise TimeoutError("the server did not start")

    def kill(self, how: int = signal.SIGKILL) -> int:
        """Ends it; its exit status."""
        os.kill(self.process.pid, how)
        status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def restart(self) -> None:
        """Kills it, and starts it again."""
        self.kill()
        self.start()


class Rater:
    """One simulated rater, who goes on until nothing is left."""

    def __init__(self, port: int, link: str, name: int, think: float):
        self.port, self.link, self.name, self.think = port, link, name, think
        self.random = random.Random(name)
        self.headers: dict[str, str] = {}
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.acknowledged: list[str] = []
        self.seconds: dict[str, list[float]] = {"/api/judgements": [], "/api/tasks": []}
        self.repeated = 0

    async def run(self) -> None:
        """Opens the link, and judges what there is."""
        headers, _ = await self.request("GET", self.link)
        self.headers["Cookie"] = headers["set-cookie"].split(";")[0]
        self.headers["X-CSRF-Token"] = (await self.request("GET", "/api/session"))[1]["csrf"]
        while tasks := (await self.timed("/api/tasks", {"count": 6}))["tasks"]:
            for task in tasks:
                await asyncio.sleep(self.random.expovariate(1 / self.think))
                await self.judge(task["item"])
        await self.hang_up()

    async def judge(self, item: int) -> None:
        """Sends one judgement until it is acknowledged."""
        key = f"load-{self.name}-{item}-{len(self.acknowledged)}"
        choice = self.random.choice(["a", "b", "tie"])
        body = {"key": key, "item": item, "answer": {"choice": choice}, "seconds": 1.0}
        self.repeated += (await self.timed("/api/judgements", body))["repeated"]
        self.acknowledged.append(key)

    async def timed(self, path: str, body: object) -> dict:
        """The answer to a POST, whose time is kept unless the connection broke meanwhile."""
        alive, start = self.stream, time.perf_counter()
        _, answer = await self.request("POST", path, body)
        if alive is not None and alive is self.stream:
            self.seconds[path].append(time.perf_counter() - start)
        return answer

    async def request(self, method: str, path: str, body: object = None) -> tuple[dict, dict]:
        """(headers, answer), however often it has to be sent."""
        while True:
            try:
                status, headers, answer = await self.once(method, path, body)
            except (OSError, asyncio.IncompleteReadError):
                await self.hang_up()
                await asyncio.sleep(0.1)
                continue
            assert status in (200, 303), (path, status, answer)
            return headers, answer

    async def once(self, method: str, path: str, body: object = None) -> tuple[int, dict, dict]:
        """(status, headers, answer) of one try."""
        if self.stream is None:
            self.stream = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.stream
        data = b"" if body is None else json.dumps(body).encode()
        host = f"127.0.0.1:{self.port}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Origin: http://{host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        status, *head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in head) if name}
        answer = await reader.readexactly(int(found.get("content-length", 0)))
        return int(status.split()[1]), found, json.loads(answer) if answer else {}

    async def hang_up(self) -> None:
        """Closes the connection; the next request opens another."""
        if self.stream is not None:
            self.stream[1].close()
            with contextlib.suppress(OSError):
                await self.stream[1].wait_closed()
        self.stream = None


@dataclasses.dataclass(frozen=True)
class Storm:
    """How many raters judge how often, and how often the server is killed meanwhile.

    Attributes:
      think: seconds between a rater's judgements, in the mean.
    """

    raters: int
    judgements: int
    kills: int
    think: float

    def rage(self, server: ServerProcess) -> list[Rater]:
        """The raters, once nothing is left to judge. The server is killed at even distances of time."""
        links = [link for link in server.links if not link.startswith("/enter/0-")]  # that is the dashboard
        people = [Rater(server.port, link, i, self.think) for i, link in enumerate(links)]
        between = self.judgements * self.think / self.raters / (self.kills + 1)

        async def reaper() -> None:
            for _ in range(self.kills):
                await asyncio.sleep(between)
                await asyncio.to_thread(server.restart)

        async def all_of_them() -> None:
            await asyncio.gather(reaper(), *(rater.run() for rater in people))

        asyncio.run(all_of_them())
        return people


def latency(people: Sequence[Rater], path: str, share: float) -> float:
    """The time in seconds within which `share` of the requests to `path` were answered."""
    times = sorted(second for rater in people for second in rater.seconds[path])
    return times[min(len(times) - 1, int(share * len(times)))]

"""Many simulated raters at once over HTTP, and a server that is killed meanwhile: nothing is lost."""

import asyncio
import contextlib
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from tests.annotation import Process


class Rater:
    """One simulated rater: thinks, judges, and tries again with the same key until it is acknowledged."""

    def __init__(self, port: int, link: str, name: int, think: float):
        self.port, self.link, self.name, self.think = port, link, name, think
        self.random = random.Random(name)
        self.headers: dict[str, str] = {}
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.acknowledged: list[str] = []
        self.seconds: list[float] = []  # of each judgement's request, those that a kill cut off left out
        self.repeated = 0

    async def once(self, method: str, path: str, body: object = None) -> tuple[int, dict, dict]:
        if self.stream is None:
            self.stream = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.stream
        data = b"" if body is None else json.dumps(body).encode()
        origin = f"http://127.0.0.1:{self.port}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Origin: {origin}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = dict(
            line.lower().split(": ", 1) if "cookie" not in line.lower() else line.split(": ", 1)
            for line in head[1:]
            if line
        )
        answer = await reader.readexactly(int(found.get("content-length", 0)))
        return int(head[0].split()[1]), found, json.loads(answer) if answer else {}

    async def request(self, method: str, path: str, body: object = None) -> tuple[dict, dict]:
        while True:
            try:
                status, headers, answer = await self.once(method, path, body)
            except (OSError, asyncio.IncompleteReadError):
                await self.hang_up()
                await asyncio.sleep(0.1)
                continue
            assert status in (200, 303), (path, status, answer)
            return headers, answer

    async def run(self) -> None:
        headers, _ = await self.request("GET", self.link)
        self.headers["Cookie"] = headers["set-cookie"].split(";")[0]
        self.headers["X-CSRF-Token"] = (await self.request("GET", "/api/session"))[1]["csrf"]
        while tasks := (await self.request("POST", "/api/tasks", {"count": 6}))[1]["tasks"]:
            for task in tasks:
                await asyncio.sleep(self.random.expovariate(1 / self.think))
                await self.judge(task["item"])
        await self.hang_up()

    async def hang_up(self) -> None:
        if self.stream is not None:
            self.stream[1].close()
            with contextlib.suppress(OSError):
                await self.stream[1].wait_closed()
        self.stream = None

    async def judge(self, item: int) -> None:
        key = f"load-{self.name}-{item}-{len(self.acknowledged)}"
        choice = self.random.choice(["a", "b", "tie"])
        body = {"key": key, "item": item, "answer": {"choice": choice}, "seconds": 1.0}
        alive, start = self.stream, time.perf_counter()
        _, answer = await self.request("POST", "/api/judgements", body)
        if alive is not None and alive is self.stream:
            self.seconds.append(time.perf_counter() - start)
        self.repeated += answer["repeated"]
        self.acknowledged.append(key)


async def storm(server: Process, raters: list[Rater], kills: int, between: float) -> None:
    async def reaper() -> None:
        for _ in range(kills):
            await asyncio.sleep(between)
            await asyncio.to_thread(lambda: (server.kill(), server.start()))

    await asyncio.gather(reaper(), *(rater.run() for rater in raters))


@pytest.mark.parametrize(
    ("raters", "judgements", "kills", "think"),
    [
        pytest.param(8, 240, 2, 0.05, marks=pytest.mark.medium),
        pytest.param(50, 20_000, 3, 0.2, marks=pytest.mark.soak),
    ],
)
def test_a_storm_of_raters(
    tmp_path: Path,
    user_environment: dict[str, str],
    raters: int,
    judgements: int,
    kills: int,
    think: float,
):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.add_raters([f"rater-{i}" for i in range(raters)])
        with store.transaction():
            store.add_items([Item("compare", "which?", ("x", "y")) for _ in range(judgements)])
    server = Process(path, user_environment)
    links = [link for link in server.links if not link.startswith("/enter/0-")]
    people = [Rater(server.port, link, i, think) for i, link in enumerate(links)]
    assert len(people) == raters
    started = time.perf_counter()
    try:
        expected = judgements * think / raters
        asyncio.run(storm(server, people, kills, between=expected / (kills + 1)))
    finally:
        server.kill()
    took = time.perf_counter() - started
    with Store(path) as store:
        rows = store.standing()
    acknowledged = [key for person in people for key in person.acknowledged]
    assert len(acknowledged) == len(rows) == judgements
    assert sorted(row.key for row in rows) == sorted(acknowledged)
    assert len({row.item for row in rows}) == judgements  # leases held: nothing was judged by two
    milliseconds = 1000 * np.quantile([s for person in people for s in person.seconds], [0.5, 0.99, 1.0])
    repeated = sum(person.repeated for person in people)
    print(
        f"{raters} raters, {judgements} judgements in {took:.1f} s, {kills} kills, {repeated} repeated; "
        f"latency median {milliseconds[0]:.1f}, p99 {milliseconds[1]:.1f}, most {milliseconds[2]:.1f} ms"
    )

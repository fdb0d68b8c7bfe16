"""A running annotation server for tests, and raters without a browser."""

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.links import Links
from mmrlhf_jax.feedback.store import Store


class Client:
    """One visitor: cookies, CSRF token and headers as a browser has them."""

    def __init__(self, port: int):
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.cookie = ""
        self.csrf = ""
        self.connection: http.client.HTTPConnection | None = None

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); raises OSError where the server is away."""
        sent = {"Cookie": self.cookie, "X-CSRF-Token": self.csrf, "Content-Type": "application/json"}
        if method != "GET":
            sent["Origin"] = self.origin
        sent |= headers or {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            self.connection.request(method, path, data, {k: v for k, v in sent.items() if v})
            answer = self.connection.getresponse()
            found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        if answer.will_close:
            self.close()
        return found

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, the answer's JSON)."""
        status, _, data = self.request(method, path, body, headers)
        return status, json.loads(data)

    def enter(self, link: str) -> "Client":
        """Opens a link, as a rater does once."""
        status, headers, _ = self.request("GET", link)
        assert status == 303, status
        self.cookie = headers["set-cookie"].split(";")[0]
        status, session = self.json("GET", "/api/session")
        if status == 200:
            self.csrf = session["csrf"]
        return self

    def tasks(self, count: int = 1, have: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """What the page would show next."""
        status, got = self.json("POST", "/api/tasks", {"count": count, "have": list(have)})
        assert status == 200, got
        return got["tasks"]

    def judge(self, key: str, item: int, answer: dict[str, Any], seconds: float = 1.0) -> tuple[int, Any]:
        """One judgement."""
        body = {"key": key, "item": item, "answer": answer, "seconds": seconds}
        return self.json("POST", "/api/judgements", body)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Running:
    """A server in this process on a free port of 127.0.0.1."""

    def __init__(self, store: Store, **options: Any):
        import uvicorn

        from mmrlhf_jax.feedback.serve import settings
        from mmrlhf_jax.feedback.server import create_app

        self.store = store
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.desk = Desk(store, lambda items: Assigner(items, **{"check_every": 0, **options}))
        origins = frozenset({f"http://127.0.0.1:{self.port}"})
        app = create_app(self.desk, origins)
        self.server = uvicorn.Server(settings(app))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.clients: list[Client] = []

    def client(self, who: int | None = None) -> Client:
        """A visitor who has opened the link of `who` (0: the dashboard's), or none."""
        client = Client(self.port)
        self.clients.append(client)
        return client if who is None else client.enter(Links(self.store.secret).path(who))

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


def train_reward(run: Path, folder: Path, judged: Path) -> dict[str, Any]:
    """The result of a tiny reward stage in `folder` on the judgements, from the networks of a smoke run."""
    from mmrlhf_jax.training import reward
    from mmrlhf_jax.training.presets import PRESETS

    (folder / "seed_0").mkdir(parents=True)
    for stage in ("pretrain", "sft", "collect"):
        (folder / "seed_0" / stage).symlink_to(run / "seed_0" / stage, target_is_directory=True)
    stage_config = PRESETS["smoke"].shared(run=folder).reward
    return reward.run(dataclasses.replace(stage_config, preferences=judged, steps=2, batch=4))


@contextlib.contextmanager
def running(store: Store, **options: Any) -> Iterator[Running]:
    """A server that ends with the block."""
    server = Running(store, **options)
    try:
        yield server
    finally:
        server.stop()

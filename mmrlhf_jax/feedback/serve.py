"""Serving the page until it is told to stop.

docs/annotation.md has the lines for nginx, where a proxy speaks TLS.
"""

import asyncio
import dataclasses
import gc
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.links import DASHBOARD, Links
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from mmrlhf_jax.runtime.lock import FolderLock

if TYPE_CHECKING:
    import uvicorn

WATCH_SECONDS = 0.5  # between two looks whether anything is left to judge
LINGER_SECONDS = 1.0  # from the last judgement to the end, for pages to learn that it is kept
SWITCH_SECONDS = 0.0005  # of Python's threads: the dashboard's must not hold up raters' requests for 5 ms


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the page is served, and under which name browsers find it.

    Attributes:
      host: what the socket is bound to.
      port: 0 takes any that is free.
      public_url: how browsers reach it where that is another address, e.g. "https://judge.example.org".
      open_to_network: allows a host that other machines can reach.

    Raises:
      UserError: others can reach the host and that was not allowed, or the URL is none.
    """

    host: str = "127.0.0.1"
    port: int = 8421
    public_url: str = ""
    open_to_network: bool = False

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}: give one from 1 to 65535, or 0 for any")
        parts = urlsplit(self.public_url)
        if self.public_url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
            raise UserError(f"public_url is {self.public_url!r}: give e.g. https://judge.example.org")
        if _is_loopback(self.host):
            return
        if not self.open_to_network:
            raise UserError(
                f"--host {self.host} lets all who reach this machine try the page, over HTTP that others can "
                "read: add --open-to-network if you mean it, or put a TLS proxy before 127.0.0.1"
            )
        if not self.public_url:
            raise UserError(
                f"--host {self.host} needs --public-url, e.g. http://192.0.2.7:{self.port or 8421}"
            )

    def origins(self, port: int) -> frozenset[str]:
        """What the address line of browsers may say before the path."""
        if self.public_url:
            return frozenset({self.public_url.lower()})
        names = {"127.0.0.1", "localhost", f"[{self.host}]" if ":" in self.host else self.host}
        return frozenset(f"http://{name}:{port}" for name in names)

    def first(self, port: int) -> str:
        """The one of `origins` that links are printed with."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{port}"


def serve(
    store: Store,
    assigner: Callable[[dict[int, Item]], Assigner],
    address: Address,
    *,
    until_judged: bool = False,
) -> None:
    """Prints every rater's link and serves the page until Ctrl-C or SIGTERM.

    Args:
      until_judged: end once nothing is left to judge for anyone.

    Raises:
      UserError: the extra `serve` is not installed, another process serves this store, or the port is taken.
    """
    try:
        import uvicorn

        from mmrlhf_jax.feedback.server import create_app
    except ImportError as error:
        raise UserError(
            f"the page needs the extra serve: pip install 'mmrlhf-jax[serve]' ({error})"
        ) from None
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    with FolderLock(store.path.parent), _listening(address) as listener:
        port = listener.getsockname()[1]
        desk = Desk(store, assigner)
        server = uvicorn.Server(settings(create_app(desk, address.origins(port))))
        _print_links(store, address.first(port))
        with _prompt(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(server, listener, desk if until_judged else None))


def settings(app: Callable[..., Any]) -> "uvicorn.Config":
    """How the server runs. Without an access log: a link's token would stand in it, and links are keys."""
    import uvicorn

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=3,
    )


async def _serve(server: "uvicorn.Server", listener: socket.socket, desk: Desk | None) -> None:
    """Serves until it is told to end, or until nothing is left at `desk`."""

    async def watch(desk: Desk) -> None:
        while not desk.nothing_left():
            await asyncio.sleep(WATCH_SECONDS)
        await asyncio.sleep(LINGER_SECONDS)
        server.should_exit = True

    watching = asyncio.create_task(watch(desk)) if desk is not None else None
    await server.serve(sockets=[listener])
    if watching is not None:
        watching.cancel()


@contextmanager
def _prompt() -> Iterator[None]:
    """Python's own pauses made short: threads take turns often, and what is there already is not searched
    for garbage, which takes long where jax is loaded.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is there, else asyncio's own."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


def _print_links(store: Store, origin: str) -> None:
    links = Links(store.secret)
    for rater in store.raters():
        print(f"{rater.name}: {origin}{links.path(rater.id)}", flush=True)
    print(f"dashboard: {origin}{links.path(DASHBOARD)}", flush=True)
    print("Each link is a key: give it to one person. Ctrl-C stops; the same command goes on.", flush=True)


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise UserError(
                f"{address.host}:{address.port} cannot be had ({error}); give another --port"
            ) from error
        yield listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

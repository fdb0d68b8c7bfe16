"""Serving the page until it is told to stop.

Behind a proxy that speaks TLS, leave the host at 127.0.0.1, give --public-url https://judge.example.org, and
in nginx:

    server {
      listen 443 ssl;
      server_name judge.example.org;
      location / {
        proxy_pass http://127.0.0.1:8421;
        proxy_set_header Host $host;
        client_max_body_size 256k;
      }
    }
"""

import dataclasses
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import Assigner
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.links import DASHBOARD, Links
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from mmrlhf_jax.runtime.lock import FolderLock


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
    until: Callable[[], bool] | None = None,
) -> None:
    """Prints every rater's link and serves the page until Ctrl-C or SIGTERM, or until `until` holds.

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
        app = create_app(desk, address.origins(port))
        # No access log: a link's token would stand in it. Links go to people, not into files.
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(settings)
        _print_links(store, address.first(port))
        try:
            if until is not None:
                _stop_when(server, until)
            server.run(sockets=[listener])
        finally:
            desk.close()


def _stop_when(server, until: Callable[[], bool]) -> None:
    import threading

    def watch() -> None:
        while not server.should_exit and not until():
            time.sleep(0.5)
        server.should_exit = True

    threading.Thread(target=watch, name="until", daemon=True).start()


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

"""Pictures by address, from files whose author is not trusted.

Such a file could make this machine ask its own services or those of its network (server-side request
forgery). Therefore every address that a host's name stands for must be public, the connection goes to the
very address that was checked (a second look-up could give another), redirections are followed by hand and
checked again, and size and time are limited. Proxies are not used: behind one, nothing of this could be
checked.
"""

import contextlib
import dataclasses
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from mmrlhf_jax.errors import UserError

MAX_BYTES = 50 * 2**20
MAX_REDIRECTS = 3
TIMEOUT = 20.0  # seconds, for one connection or one read; and three times that for all of a picture
_CHUNK = 2**16
_PORTS = {"http": 80, "https": 443}
# Prefixes in which an IPv4 address hides, and the bit at which it ends: IPv4-compatible, NAT64, 6to4.
_EMBEDDING = (
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)


def resolve_host(host: str, port: int) -> list[str]:
    """All addresses that the system gives for a host's name. Raises OSError."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port)))


@contextlib.contextmanager
def ask(url: SplitResult, address: str, timeout: float) -> Iterator[Any]:
    """The http.client.HTTPResponse to a GET of `url`, with the connection going to `address`."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    with contextlib.closing(connection):
        connection.sock = socket.create_connection((address, port), timeout)
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
        target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection.request("GET", target, headers={"Host": url.netloc, "User-Agent": "mmrlhf-jax"})
        yield connection.getresponse()


@dataclasses.dataclass(frozen=True)
class Fetcher:
    """Gives the bytes at an address, where it is public.

    Attributes:
      resolve: all addresses of a host; may raise OSError.
      ask: the reply of one of them, as a context: status, getheader(name), read1(count).
      clock: seconds.
    """

    resolve: Callable[[str, int], list[str]] = resolve_host
    ask: Callable[[SplitResult, str, float], contextlib.AbstractContextManager[Any]] = ask
    clock: Callable[[], float] = time.monotonic

    def __call__(self, url: str) -> bytes:
        """The bytes at `url`.

        Raises:
          UserError: no http or https address, a host of which one address is not public, too many
            redirections, too many bytes, too long, or no success.
        """
        deadline = self.clock() + 3 * TIMEOUT
        shown = repr(url[:80])
        for _ in range(MAX_REDIRECTS + 1):
            parts, address = self._check(url, shown)
            try:
                with self.ask(parts, address, TIMEOUT) as reply:
                    location = reply.getheader("Location")
                    if reply.status in (301, 302, 303, 307, 308) and location:
                        url = urljoin(url, location)
                        continue
                    if reply.status != 200:
                        raise UserError(f"{shown} cannot be fetched: status {reply.status}")
                    return self._read(reply, shown, deadline)
            except (OSError, http.client.HTTPException) as error:
                raise UserError(f"{shown} cannot be fetched ({error})") from error
        raise UserError(f"{shown} redirects more than {MAX_REDIRECTS} times")

    def _check(self, url: str, shown: str) -> tuple[SplitResult, str]:
        """The parts of `url`, and a public address of its host."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise UserError(f"{shown} is no address ({error})") from error
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
            raise UserError(f"{shown}: only http and https addresses without a user's name are fetched")
        if not url.isascii() or any(character.isspace() for character in url):
            raise UserError(f"{shown}: characters other than ASCII must be percent-encoded in an address")
        try:
            addresses = self.resolve(parts.hostname, port)
        except (OSError, UnicodeError) as error:
            raise UserError(f"{shown}: there is no host {parts.hostname!r} ({error})") from error
        hidden = [address for address in addresses if not is_public(address)]
        if hidden or not addresses:
            raise UserError(f"{shown} leads to {hidden or 'no address'}, which is not public: not fetched")
        return parts, addresses[0]

    def _read(self, reply: Any, shown: str, deadline: float) -> bytes:
        data = b""
        while chunk := reply.read1(min(_CHUNK, MAX_BYTES + 1 - len(data))):
            data += chunk
            if len(data) > MAX_BYTES:
                raise UserError(f"{shown} is larger than {MAX_BYTES // 2**20} MiB")
            if self.clock() > deadline:
                raise UserError(f"{shown} takes longer than {3 * TIMEOUT:.0f} s")
        return data


def is_public(address: str) -> bool:
    """Whether an IP address, and the IPv4 address that may hide in it, is one of the public internet's."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = [ip.ipv4_mapped] if ip.ipv4_mapped else []
        for network, shift in _EMBEDDING:
            if ip in network:
                embedded.append(ipaddress.IPv4Address((int(ip) >> shift) & 0xFFFFFFFF))
        if embedded:
            return all(is_public(str(inner)) for inner in embedded)
        if ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast

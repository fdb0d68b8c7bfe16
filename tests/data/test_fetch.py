"""Pictures by address: only what is public is asked, whatever a name, a number or a redirection says."""

import contextlib
import socket
from urllib.parse import urlsplit

import pytest

from mmrlhf_jax.data import fetch
from mmrlhf_jax.data.fetch import Fetcher, is_public, resolve_host
from mmrlhf_jax.errors import UserError

PUBLIC = "93.184.215.14"


class Reply:
    def __init__(self, data=b"picture", status=200, location=None):
        self.data, self.status, self.location = data, status, location

    def getheader(self, name):
        assert name == "Location"
        return self.location

    def read1(self, count):
        chunk, self.data = self.data[:count], self.data[count:]
        return chunk


class Web:
    """Names and replies of an internet that is not there, and what was asked of it."""

    def __init__(self, names=None, replies=None):
        self.names, self.replies, self.asked = names or {}, replies or {}, []

    def resolve(self, host, port):
        if host in self.names:
            return self.names[host]
        return resolve_host(host, port)  # numbers need no network

    @contextlib.contextmanager
    def ask(self, parts, address, timeout):
        assert timeout == fetch.TIMEOUT
        self.asked.append((parts.geturl(), address))
        reply = self.replies[parts.geturl()]
        if isinstance(reply, Exception):
            raise reply
        yield reply

    def fetch(self, url, **options):
        return Fetcher(self.resolve, self.ask, **options)(url)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "169.254.169.254",  # where clouds tell a machine its passwords
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "nonsense",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
def test_every_spelling_of_this_machine_is_refused(host):
    try:
        resolve_host(urlsplit(f"http://{host}/").hostname, 80)
    except socket.gaierror:
        pytest.skip("this system does not read this spelling, so it cannot lead anywhere")
    web = Web()
    with pytest.raises(UserError, match="not public: not fetched"):
        web.fetch(f"http://{host}/a.png")
    assert web.asked == []


def test_a_name_of_which_one_address_is_private_is_refused():
    web = Web({"a.example": [PUBLIC, "10.0.0.7"]})
    with pytest.raises(UserError, match=r"'http://a.example/x' leads to \['10.0.0.7'\], which is not public"):
        web.fetch("http://a.example/x")
    assert web.asked == []


def test_the_connection_goes_to_the_address_that_was_checked():
    url = "https://a.example:8443/x.png?size=1"
    web = Web({"a.example": [PUBLIC]}, {url: Reply(b"p" * 200_000)})
    assert web.fetch(url) == b"p" * 200_000
    assert web.asked == [(url, PUBLIC)]


def test_redirections_are_followed_and_checked_again():
    names = {"a.example": [PUBLIC], "b.example": ["8.8.8.8"], "inner.example": ["192.168.0.1"]}
    replies = {
        "http://a.example/x": Reply(status=302, location="/y"),
        "http://a.example/y": Reply(status=308, location="https://b.example/z"),
        "https://b.example/z": Reply(b"there"),
        "http://a.example/in": Reply(status=301, location="http://inner.example/secret"),
        "http://a.example/number": Reply(status=307, location="http://2130706433/"),
        "http://a.example/file": Reply(status=302, location="file:///etc/passwd"),
        "http://a.example/loop": Reply(status=302, location="/loop"),
    }
    web = Web(names, replies)
    assert web.fetch("http://a.example/x") == b"there"
    for path in ("in", "number"):
        with pytest.raises(UserError, match="not public"):
            web.fetch(f"http://a.example/{path}")
    with pytest.raises(UserError, match="only http and https"):
        web.fetch("http://a.example/file")
    with pytest.raises(UserError, match="redirects more than 3 times"):
        web.fetch("http://a.example/loop")
    assert {address for _, address in web.asked} == {PUBLIC, "8.8.8.8"}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://a.example/x", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("data:image/png;base64,AA", "only http and https"),
        ("http:///x", "only http and https"),
        ("http://user:word@a.example/x", "without a user's name"),
        ("http://a.example@127.0.0.1/x", "without a user's name"),
        ("http://a.example:99999/x", "is no address"),
        ("http://[::1/x", "is no address"),
        ("http://a.example/a b", "percent-encoded"),
        ("http://a.example/ä", "percent-encoded"),
        ("http://none.example/x", "there is no host 'none.example'"),
        ("http://empty.example/x", "no address"),
    ],
)
def test_addresses_that_are_none(url, complaint):
    def resolve(host, port):
        if host == "none.example":
            raise socket.gaierror("Name or service not known")
        return {"a.example": [PUBLIC], "empty.example": []}[host]

    with pytest.raises(UserError, match=complaint):
        Fetcher(resolve, Web().ask)(url)


def test_size_time_and_failures_are_limits(monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 100_000)
    url, names = "http://a.example/x", {"a.example": [PUBLIC]}
    assert len(Web(names, {url: Reply(b"p" * 100_000)}).fetch(url)) == 100_000
    with pytest.raises(UserError, match="larger than"):
        Web(names, {url: Reply(b"p" * 100_001)}).fetch(url)
    seconds = iter([0.0, 1.0, 61.0])
    with pytest.raises(UserError, match="takes longer than 60 s"):
        Web(names, {url: Reply(b"p" * 80_000)}).fetch(url, clock=lambda: next(seconds))
    with pytest.raises(UserError, match="status 404"):
        Web(names, {url: Reply(status=404)}).fetch(url)
    with pytest.raises(UserError, match=r"cannot be fetched .*timed out"):
        Web(names, {url: TimeoutError("timed out")}).fetch(url)


def test_a_real_server_is_asked_at_the_given_address():
    """The one test of `ask` itself: a server of this process, which only a test may call public."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            connection, _ = server.accept()
            with connection:
                request.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")

        import threading

        request: list[bytes] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with fetch.ask(urlsplit(f"http://a.example:{port}/x?y=1#z"), "127.0.0.1", 5.0) as reply:
            assert (reply.status, reply.read1(100), reply.read1(100)) == (200, b"body", b"")
        thread.join(5)
    head = request[0].decode().split("\r\n")
    assert head[0] == "GET /x?y=1 HTTP/1.1"
    assert f"Host: a.example:{port}" in head

"""What every request passes before the application sees it: whose it is not, how large it may be.

A page of another site can make a browser send requests here. It can forge neither the `Host` that the
browser writes (so a name that is rebound to this address is refused) nor the `Origin` (so a foreign page's
POST is refused). Answers carry headers that keep scripts out of texts.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 128 * 1024  # bytes; the longest correction, with every character escaped, fits in

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # a link's token must not reach another site
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

log = logging.getLogger("mmrlhf_jax.feedback")


class TooLarge(Exception):
    """The body is longer than MAX_BODY."""


@dataclasses.dataclass(frozen=True)
class Guard:
    """ASGI middleware.

    Attributes:
      app: the application behind it.
      origins: what browsers may call this server, e.g. {"http://127.0.0.1:8421"}.
    """

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    origins: frozenset[str]

    @functools.cached_property
    def hosts(self) -> frozenset[str]:
        """What the header Host may say: the origins without their scheme."""
        return frozenset(origin.partition("://")[2] for origin in self.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # nothing here speaks websocket
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            try:
                body = await _read(scope, receive)
            except TooLarge:
                refused = 413, f"the body has more than {MAX_BODY} bytes"
        if refused is not None:
            status, why = refused
            log.warning("refused %s %r: %s", scope["method"], scope["path"][:80], why)
            await _answer(guarded, status, why)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, why) where the request's headers alone say that it is not ours."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self.hosts:
            return 421, "this server does not go by that Host"
        if scope["method"] in ("GET", "HEAD"):
            return None
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(origins) != 1 or origins[0].decode("latin-1").lower() not in self.origins:
            return 403, "the Origin is another site's, or missing"
        return None


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The body. Raises TooLarge as soon as more is announced, or comes, than MAX_BODY."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > MAX_BODY:
        raise TooLarge
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client went away
            return body
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise TooLarge
        if not message.get("more_body"):
            return body


async def _answer(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

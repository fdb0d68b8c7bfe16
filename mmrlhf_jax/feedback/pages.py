"""What a browser gets besides JSON: the pages with their scripts, the way in, pictures and sounds."""

import hashlib
import importlib.resources
import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.links import DASHBOARD
from mmrlhf_jax.feedback.visitors import COOKIE, Visitors

COOKIE_SECONDS = 90 * 86_400

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard": ("dashboard.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/outbox.js": ("outbox.js", "text/javascript; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}

_MEDIA_ID = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")

log = logging.getLogger("mmrlhf_jax.feedback")


class Pages:
    """Files are read once, media come out of the store by id alone.

    Args:
      secure: the cookie is sent over TLS only.
    """

    def __init__(self, desk: Desk, visitors: Visitors, *, secure: bool):
        self.desk, self.visitors, self.secure = desk, visitors, secure
        folder = importlib.resources.files("mmrlhf_jax.feedback") / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
        self._tags = {
            path: f'"{hashlib.sha256(data).hexdigest()[:16]}"' for path, (data, _) in self._files.items()
        }

    def routes(self) -> list[Route]:
        """The paths of everything here."""
        files = [Route(path, self.file) for path in self._files]
        return [*files, Route("/enter/{token}", self.enter), Route("/media/{name}", self.media)]

    async def file(self, request: Request) -> Response:
        """A page, a script or the style, which the browser keeps while it has not changed."""
        path = request.url.path
        headers = {"cache-control": "no-cache", "etag": self._tags[path]}
        if request.headers.get("if-none-match") == self._tags[path]:
            return Response(status_code=304, headers=headers)
        body, kind = self._files[path]
        return Response(body, media_type=kind, headers=headers)

    async def enter(self, request: Request) -> Response:
        """Takes a link and leaves the cookie."""
        who = self.visitors.links.who("link", request.path_params["token"])
        if who is None:
            log.warning("refused an unknown link")
            raise HTTPException(403, "this link is not known; ask for yours")
        answer = RedirectResponse("/dashboard" if who == DASHBOARD else "/", status_code=303)
        answer.set_cookie(
            COOKIE,
            self.visitors.links.token("session", who),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",  # "strict" would lose it when the link is opened from a message
            secure=self.secure,
        )
        return answer

    async def media(self, request: Request) -> Response:
        """A picture or a sound, whole or from one byte to another: players of sounds ask for parts."""
        self.visitors.visitor(request)
        name = request.path_params["name"]
        found = self.desk.store.media(name) if _MEDIA_ID.fullmatch(name) else None
        if found is None:
            raise HTTPException(404, "there is no such picture")
        kind, data = found
        headers = {"cache-control": "private, max-age=86400, immutable", "accept-ranges": "bytes"}
        part = _RANGE.fullmatch(request.headers.get("range", ""))
        if part is None:
            return Response(data, media_type=kind, headers=headers)
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        if first > last:
            raise HTTPException(
                416, f"there are {len(data)} bytes", {"content-range": f"bytes */{len(data)}"}
            )
        headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], 206, media_type=kind, headers=headers)

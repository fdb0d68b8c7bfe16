"""The web server of the annotation page: pages and JSON calls behind one guard.

A rater opens a link once; it leaves a cookie and is not needed again. Every POST needs that cookie, the
CSRF token that only the page can read, and an Origin of this server (`guard`). Texts go out as JSON and are
put on the page as text, never as HTML; pictures and sounds are served by id alone, out of the store.
"""

import logging
import sqlite3

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.calls import Calls, as_json
from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.guard import Guard
from mmrlhf_jax.feedback.links import Links
from mmrlhf_jax.feedback.pages import Pages
from mmrlhf_jax.feedback.store import Conflict
from mmrlhf_jax.feedback.visitors import Visitors

log = logging.getLogger("mmrlhf_jax.feedback")


def create_app(desk: Desk, origins: frozenset[str]) -> Guard:
    """The whole application.

    Args:
      origins: how browsers reach it, e.g. {"http://127.0.0.1:8421", "http://localhost:8421"}; where all are
        https, cookies are sent over TLS only.
    """
    visitors = Visitors(Links(desk.store.secret), desk)
    pages = Pages(desk, visitors, secure=all(origin.startswith("https://") for origin in origins))
    app = Starlette(
        routes=[*Calls(desk, visitors).routes(), *pages.routes()],
        exception_handlers={HTTPException: refused, UserError: wrong, sqlite3.Error: not_stored},
    )
    app.router.redirect_slashes = False
    return Guard(app, origins)


async def refused(request: Request, error: Exception) -> Response:
    """What is not there, not theirs, or not to be had that way."""
    assert isinstance(error, HTTPException)
    if error.status_code in (401, 403):
        log.warning("refused %s with %d: %s", request.method, error.status_code, error.detail)
    answer = as_json({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def wrong(request: Request, error: Exception) -> Response:
    """A body that makes no sense, or contradicts what the store holds."""
    log.info("refused %s %s: %s", request.method, request.url.path, error)
    return as_json({"error": str(error)}, 409 if isinstance(error, Conflict) else 422)


async def not_stored(request: Request, error: Exception) -> Response:
    """The disk refused, or another process holds the file for too long."""
    log.error("nothing was stored: %s", error)
    return as_json({"error": "it could not be stored just now; the page tries again"}, 503)

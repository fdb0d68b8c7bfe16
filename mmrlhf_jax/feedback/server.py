"""The web server of the annotation page: a few JSON calls for the page, all of them on the `Desk`.

A rater opens a link once; it leaves a cookie and is not needed again. Every POST needs that cookie, the
CSRF token that only the page can read, and an Origin of this server (`guard`). Texts go out as JSON and are
put on the page as text, never as HTML; pictures and sounds are served by id alone, out of the store.
"""

import asyncio
import importlib.resources
import logging
import math
import sqlite3
import time
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.dashboard import overview
from mmrlhf_jax.feedback.desk import Desk, Given
from mmrlhf_jax.feedback.guard import Guard
from mmrlhf_jax.feedback.links import DASHBOARD, Links
from mmrlhf_jax.feedback.store import Conflict
from mmrlhf_jax.feedback.tasks import ASPECTS

COOKIE_SECONDS = 90 * 86_400
OVERVIEW_SECONDS = 2.0  # how old the dashboard's numbers may be
MAX_AHEAD = 8  # items that a page holds at once, so that it can go on without a connection

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard": ("dashboard.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/outbox.js": ("outbox.js", "text/javascript; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}

Number = Annotated[int, Field(ge=1, lt=2**53)]
Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]

log = logging.getLogger("mmrlhf_jax.feedback")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TasksBody(_Body):
    """How many items the page wants, and which it has."""

    count: Annotated[int, Field(ge=1, le=MAX_AHEAD)]
    have: Annotated[list[Number], Field(max_length=4 * MAX_AHEAD)] = []


class JudgementBody(_Body):
    """One judgement; `key` is made by the page and is the same when it tries again."""

    key: Key
    item: Number
    answer: dict[str, Any]
    seconds: Annotated[float, Field(ge=0, le=86_400)]


class UndoBody(_Body):
    """Takes back the judgement of key `undone`."""

    key: Key
    undone: Key


class NameBody(_Body):
    """The name that a rater wants to go by."""

    name: Annotated[str, Field(min_length=1, max_length=40)]


def create_app(desk: Desk, origins: frozenset[str]) -> Guard:
    """The whole application.

    Args:
      origins: how browsers reach it, e.g. {"http://127.0.0.1:8421", "http://localhost:8421"}; where all are
        https, cookies are sent over TLS only.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    links = Links(desk.store.secret)
    secure = all(origin.startswith("https://") for origin in origins)
    folder = importlib.resources.files("mmrlhf_jax.feedback") / "page"
    files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PAGE.items()}

    async def visitor(session: Annotated[str, Cookie()] = "") -> int:
        who = links.who("session", session)
        if who is None:
            raise HTTPException(401, "open the link that you were given")
        return who

    async def rater(who: Annotated[int, Depends(visitor)]) -> int:
        if who not in desk.names:
            raise HTTPException(401, "this is not a rater's link")
        return who

    async def posting(
        who: Annotated[int, Depends(rater)], x_csrf_token: Annotated[str, Header()] = ""
    ) -> int:
        if links.who("csrf", x_csrf_token) != who:
            raise HTTPException(403, "reload the page")
        return who

    @app.get("/enter/{token}")
    def enter(token: str) -> Response:
        who = links.who("link", token)
        if who is None:
            log.warning("refused an unknown link")
            raise HTTPException(403, "this link is not known; ask for yours")
        answer = RedirectResponse("/dashboard" if who == DASHBOARD else "/", status_code=303)
        answer.set_cookie(
            "session",
            links.token("session", who),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",  # "strict" would lose it when the link is opened from a message
            secure=secure,
        )
        return answer

    def serve_page(request: Request) -> Response:
        body, kind = files[request.url.path]
        return Response(body, media_type=kind, headers={"cache-control": "no-cache"})

    for path in files:
        app.get(path)(serve_page)

    @app.get("/media/{name}")
    def media(
        name: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")], _: Annotated[int, Depends(visitor)]
    ) -> Response:
        found = desk.store.media(name)
        if found is None:
            raise HTTPException(404, "there is no such picture")
        headers = {"cache-control": "private, max-age=86400, immutable"}
        return Response(found[1], media_type=found[0], headers=headers)

    @app.get("/api/session")
    async def session(who: Annotated[int, Depends(rater)]) -> dict[str, Any]:
        done, left = await _done(desk.progress(who))
        return {
            "rater": who,
            "name": desk.names[who],
            "csrf": links.token("csrf", who),
            "aspects": ASPECTS,
            "done": done,
            "left": left,
        }

    @app.post("/api/tasks")
    async def tasks(body: TasksBody, who: Annotated[int, Depends(posting)]) -> dict[str, Any]:
        given = desk.give(who, body.count, body.have)
        done, left = await _done(desk.progress(who))  # in turn: what is given is given by then
        return {"tasks": [_shown(one) for one in await _done(given)], "done": done, "left": left}

    @app.post("/api/judgements")
    async def judge(body: JudgementBody, who: Annotated[int, Depends(posting)]) -> dict[str, Any]:
        row, repeated = await _done(desk.judge(body.key, who, body.item, body.answer, body.seconds))
        return {"stored": row.id, "repeated": repeated}

    @app.post("/api/undo")
    async def undo(body: UndoBody, who: Annotated[int, Depends(posting)]) -> dict[str, Any]:
        return {"task": _shown(await _done(desk.undo(body.key, who, body.undone)))}

    @app.post("/api/name")
    async def rename(body: NameBody, who: Annotated[int, Depends(posting)]) -> dict[str, Any]:
        name = " ".join("".join(c if c.isprintable() else " " for c in body.name).split())
        if not name:
            raise HTTPException(422, "a name needs a letter")
        await _done(desk.rename(who, name))
        return {"name": name}

    seen: tuple[float, dict[str, Any]] = (-math.inf, {})

    @app.get("/api/dashboard")
    def dashboard(who: Annotated[int, Depends(visitor)]) -> dict[str, Any]:
        if who != DASHBOARD:
            raise HTTPException(403, "the dashboard has a link of its own")
        nonlocal seen
        if time.monotonic() > seen[0] + OVERVIEW_SECONDS:
            seen = time.monotonic(), overview(desk.store, desk.items)
        return seen[1]

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may hold what no JSON can.
        fields = {".".join(str(part) for part in one["loc"]) for one in error.errors()}
        return _problem(422, f"these fields are missing or wrong: {', '.join(sorted(fields))[:200]}")

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> Response:
        return _problem(409 if isinstance(error, Conflict) else 422, str(error))

    @app.exception_handler(sqlite3.Error)
    async def not_stored(_: Request, error: sqlite3.Error) -> Response:
        log.error("nothing was stored: %s", error)
        return _problem(503, "it could not be stored just now; the page tries again")

    return Guard(app, origins)


async def _done(future: "Future[Any]") -> Any:
    return await asyncio.wrap_future(future)


def _shown(given: Given) -> dict[str, Any]:
    """What the page is told of an item: not whether it is a check, nor why it was chosen."""
    item = given.item
    return {
        "item": given.lease.item,
        "kind": item.kind,
        "prompt": item.prompt,
        "answers": item.answers,
        "shown": given.lease.shown,
        "picture": item.picture,
        "sound": item.sound,
    }


def _problem(status: int, why: str) -> Response:
    if status in (401, 403):
        log.warning("refused with %d: %s", status, why)
    return JSONResponse({"error": why.encode("utf-8", "replace").decode()}, status)

"""The JSON calls of the page, all of them on the `Desk`."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mmrlhf_jax.feedback.bodies import JudgementBody, NameBody, TasksBody, UndoBody, parse
from mmrlhf_jax.feedback.commits import GroupCommit
from mmrlhf_jax.feedback.desk import Desk, Given
from mmrlhf_jax.feedback.links import DASHBOARD
from mmrlhf_jax.feedback.live import Overview
from mmrlhf_jax.feedback.tasks import ASPECTS
from mmrlhf_jax.feedback.visitors import Visitors


class Calls:
    """One method a call; `routes` says under which path each is."""

    def __init__(self, desk: Desk, visitors: Visitors):
        self.desk, self.visitors = desk, visitors
        self.commits = GroupCommit(desk)
        self.dashboard = Overview(desk)

    def routes(self) -> list[Route]:
        """The paths of all calls."""
        return [
            Route("/api/session", self.session),
            Route("/api/tasks", self.tasks, methods=["POST"]),
            Route("/api/judgements", self.judge, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route("/api/name", self.rename, methods=["POST"]),
            Route("/api/dashboard", self.overview),
        ]

    async def session(self, request: Request) -> Response:
        """What the page needs to know before anything else."""
        who = self.visitors.rater(request)
        progress = await self.commits.do(lambda: self.desk.progress(who))
        told = {
            "rater": who,
            "store": self.desk.store.name,
            "name": self.desk.names[who],
            "csrf": self.visitors.csrf(who),
            "aspects": ASPECTS,
        }
        return as_json(told | progress._asdict())

    async def tasks(self, request: Request) -> Response:
        """Items for the rater who asks."""
        who = self.visitors.posting(request)
        body = parse(TasksBody, await request.body())

        def give() -> dict[str, Any]:
            given = self.desk.give(who, body.count, body.have)
            return {"tasks": [_shown(one) for one in given]} | self.desk.progress(who)._asdict()

        return as_json(await self.commits.do(give))

    async def judge(self, request: Request) -> Response:
        """Takes a judgement; it is on the disk when this is answered."""
        who = self.visitors.posting(request)
        body = parse(JudgementBody, await request.body())
        row, repeated = await self.commits.do(
            lambda: self.desk.judge(body.key, who, body.item, body.answer, body.seconds)
        )
        return as_json({"stored": row.id, "repeated": repeated})

    async def undo(self, request: Request) -> Response:
        """Takes a judgement back and gives its item again."""
        who = self.visitors.posting(request)
        body = parse(UndoBody, await request.body())
        return as_json(
            {"task": _shown(await self.commits.do(lambda: self.desk.undo(body.key, who, body.undone)))}
        )

    async def rename(self, request: Request) -> Response:
        """Gives the rater a name."""
        who = self.visitors.posting(request)
        body = parse(NameBody, await request.body())
        name = " ".join("".join(c if c.isprintable() else " " for c in body.name).split())
        if not name:
            raise HTTPException(422, "a name needs a letter")
        await self.commits.do(lambda: self.desk.rename(who, name))
        return as_json({"name": name})

    async def overview(self, request: Request) -> Response:
        """The dashboard's numbers."""
        if self.visitors.visitor(request) != DASHBOARD:
            raise HTTPException(403, "the dashboard has a link of its own")
        return Response(await self.dashboard.now(), media_type="application/json")


def as_json(content: Any, status: int = 200) -> Response:
    """An answer whose texts are ASCII with escapes: they hold what raters typed, whatever that is."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


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

"""The server's calls as an OpenAPI document: for a page of one's own, and for tests that send anything."""

from typing import Any

from mmrlhf_jax.feedback.bodies import Body, JudgementBody, NameBody, TasksBody, UndoBody
from mmrlhf_jax.feedback.guard import MAX_BODY
from mmrlhf_jax.feedback.tasks import ASPECTS, KINDS
from mmrlhf_jax.feedback.visitors import COOKIE

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_MEDIA_ID = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TASK = _object(
    item={"type": "integer", "minimum": 1},
    kind={"enum": list(KINDS)},
    prompt=_TEXT,
    answers={"type": "array", "items": _TEXT},
    shown={"type": "array", "items": _COUNT},
    picture=_MEDIA_ID,
    sound=_MEDIA_ID,
)
_REFUSALS = {
    400: "no whole HTTP request",
    401: "no cookie of a rater",
    403: "another site's Origin, or a wrong CSRF token",
    409: "it contradicts what the store holds",
    413: f"more than {MAX_BODY} bytes",
    421: "a Host that is not this server's",
    422: "a field is missing, wrong or one too many",
    503: "the disk refused; nothing was stored",
}


def describe() -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    session = _object(
        rater={"type": "integer", "minimum": 1},
        store=_TEXT,
        name=_TEXT,
        csrf=_TEXT,
        aspects={"enum": [list(ASPECTS)]},
        done=_COUNT,
        left=_COUNT,
    )
    tasks = _object(tasks={"type": "array", "items": _TASK}, done=_COUNT, left=_COUNT)
    stored = _object(stored={"type": "integer", "minimum": 1}, repeated={"type": "boolean"})
    return {
        "openapi": "3.1.0",
        "info": {"title": "mmrlhf_jax annotation", "version": "1"},
        "paths": {
            "/api/session": {"get": _call("who the page belongs to", None, session)},
            "/api/tasks": {"post": _call("items for this rater", TasksBody, tasks)},
            "/api/judgements": {"post": _call("one judgement", JudgementBody, stored)},
            "/api/undo": {"post": _call("takes a judgement back", UndoBody, _object(task=_TASK))},
            "/api/name": {"post": _call("names the rater", NameBody, _object(name=_TEXT))},
        },
        "components": {
            "securitySchemes": {"cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE}},
        },
    }


def _call(what: str, body: type[Body] | None, answer: dict[str, Any]) -> dict[str, Any]:
    refused = {"application/json": {"schema": _object(error=_TEXT)}}
    answers = {200: {"description": what, "content": {"application/json": {"schema": answer}}}}
    answers |= {status: {"description": why, "content": refused} for status, why in _REFUSALS.items()}
    call: dict[str, Any] = {
        "summary": what,
        "security": [{"cookie": []}],
        "responses": {str(status): content for status, content in answers.items()},
    }
    if body is not None:
        content = {"application/json": {"schema": body.model_json_schema()}}
        call["requestBody"] = {"required": True, "content": content}
        header = {"name": "X-CSRF-Token", "in": "header", "required": True, "schema": _TEXT}
        call["parameters"] = [header]
    return call

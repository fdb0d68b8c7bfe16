"""What the page sends: the JSON body of each call, checked field by field before anything else sees it."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmrlhf_jax.errors import UserError

MAX_AHEAD = 8  # items that a page holds at once, so that it can go on without a connection

Number = Annotated[int, Field(ge=1, lt=2**53)]
Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]


class Body(BaseModel):
    """Fields of exactly these names and types: nothing is converted, nothing further is let in."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TasksBody(Body):
    """How many items the page wants, and which it has."""

    count: Annotated[int, Field(ge=1, le=MAX_AHEAD)]
    have: Annotated[list[Number], Field(max_length=4 * MAX_AHEAD)] = []


class JudgementBody(Body):
    """One judgement; `key` is made by the page and is the same when it tries again."""

    key: Key
    item: Number
    answer: dict[str, Any]
    seconds: Annotated[float, Field(ge=0, le=86_400)]


class UndoBody(Body):
    """Takes back the judgement of key `undone`."""

    key: Key
    undone: Key


class NameBody(Body):
    """The name that a rater wants to go by."""

    name: Annotated[str, Field(min_length=1, max_length=40)]


B = TypeVar("B", bound=Body)


def parse(kind: type[B], data: bytes) -> B:
    """The body that `data` holds.

    Raises:
      UserError: it is no JSON, or a field is missing, wrong, or one too many.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        # What was sent is not repeated: it may hold what no JSON can.
        fields = {".".join(map(str, one["loc"])) or "the body" for one in error.errors(include_input=False)}
        raise UserError(f"these fields are missing or wrong: {', '.join(sorted(fields))[:200]}") from None

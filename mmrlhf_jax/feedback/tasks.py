"""What a person is asked about one item, and which answers to it are whole.

An answer is plain JSON, and speaks of the item's answers by their number or letter, never by the place where
they stood on the page: `{"choice": "a"}`, `{"ratings": {"accurate": 4, ...}}`, `{"clicks": [2, 0],
"dwell_seconds": [1.5, 0.0, 3.2]}`, `{"text": "a better caption"}`, and of every kind `{"choice": "skip"}`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from mmrlhf_jax.errors import UserError

Kind = Literal["compare", "rate", "list", "correct"]
Choice = Literal["a", "b", "tie", "both_bad"]

KINDS: tuple[str, ...] = get_args(Kind)
CHOICES: tuple[str, ...] = get_args(Choice)
ASPECTS = ("accurate", "fluent", "considerate")
SKIP = {"choice": "skip"}

RATINGS = range(1, 6)
MAX_LISTED = 26  # answers of a list
MAX_TEXT = 20_000  # characters of a correction
MAX_SECONDS = 86_400.0  # dwell times above a day are a clock's mistake

_NEEDED: dict[str, range] = {
    "compare": range(2, 3),
    "rate": range(1, 2),
    "list": range(2, MAX_LISTED + 1),
    "correct": range(1, 2),
}

# Every rater sees these now and then. The words alone say what to do, so they fit to any picture.
CHECK_ANSWERS = (
    "This checks that someone is reading: please choose this answer.",
    "This checks that someone is reading: please do not choose this answer.",
)


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to judge.

    Attributes:
      kind: what is asked: which of two is better, how good one is, which of a list are liked, a correction.
      prompt: what the answers answer; may be empty.
      answers: two to compare, one to rate or to correct, 2 to 26 in a list.
      picture: id of a picture in the store, or None.
      sound: id of a sound in the store, or None.
      expected: of an attention check: the only choice that someone who reads can make.
      wanted: by how many raters the item is to be judged.
      priority: items of a higher one are asked about first, where the strategy goes by priority.
      extras: anything further, carried to the export untouched.

    Raises:
      UserError: another number of answers than the kind needs, or another field that makes no sense.
    """

    kind: Kind
    prompt: str
    answers: tuple[str, ...]
    picture: str | None = None
    sound: str | None = None
    expected: Choice | None = None
    wanted: int = 1
    priority: float = 0.0
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"an item of kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        needed = _NEEDED[self.kind]
        if len(self.answers) not in needed:
            count = str(needed[0]) if len(needed) == 1 else f"{needed[0]} to {needed[-1]}"
            raise UserError(f"an item to {self.kind} needs {count} answers, not {len(self.answers)}")
        if self.expected is not None and (self.kind != "compare" or self.expected not in CHOICES):
            raise UserError(f"only a comparison can be a check, and expect one of {', '.join(CHOICES)}")
        if self.wanted < 1 or not math.isfinite(self.priority):
            raise UserError(f"an item wants at least one rater and a finite priority, not {self.priority}")

    @property
    def is_check(self) -> bool:
        return self.expected is not None


def attention_check(number: int) -> Item:
    """A comparison whose answer the words themselves give; it is A and B by turns."""
    answers = CHECK_ANSWERS if number % 2 == 0 else CHECK_ANSWERS[::-1]
    return Item("compare", "", answers, expected="a" if number % 2 == 0 else "b")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold `text`: JSON may smuggle in halves of characters, which it cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def is_skip(answer: Mapping[str, Any]) -> bool:
    """Whether a rater passed the item on to others."""
    return answer.get("choice") == "skip"


def check_answer(item: Item, answer: Mapping[str, Any]) -> dict[str, Any]:
    """`answer` with exactly the fields that the item's kind has.

    Raises:
      UserError: it is no whole answer to this item.
    """
    if dict(answer) == SKIP:
        return dict(SKIP)
    fields = {
        "compare": {"choice"},
        "rate": {"ratings"},
        "list": {"clicks", "dwell_seconds"},
        "correct": {"text"},
    }[item.kind]
    if set(answer) != fields:
        raise UserError(f"an answer to {item.kind} has {sorted(fields)} or skips; this one has other fields")
    if item.kind == "compare":
        return {"choice": _choice(answer["choice"])}
    if item.kind == "rate":
        return {"ratings": _ratings(answer["ratings"])}
    if item.kind == "correct":
        return {"text": _correction(answer["text"], item.answers[0])}
    count = len(item.answers)
    return {
        "clicks": _clicks(answer["clicks"], count),
        "dwell_seconds": _dwell(answer["dwell_seconds"], count),
    }


def _choice(value: Any) -> str:
    if value not in CHOICES:
        raise UserError(f"choice is one of {', '.join(CHOICES)} or skip")
    return value


def _ratings(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or set(value) != set(ASPECTS):
        raise UserError(f"ratings are for {', '.join(ASPECTS)}, all of them")
    if not all(type(value[aspect]) is int and value[aspect] in RATINGS for aspect in ASPECTS):
        raise UserError(f"a rating is a whole number from {RATINGS[0]} to {RATINGS[-1]}")
    return {aspect: value[aspect] for aspect in ASPECTS}


def _clicks(value: Any, count: int) -> list[int]:
    if not isinstance(value, list) or not all(type(i) is int and 0 <= i < count for i in value):
        raise UserError(f"clicks are numbers of answers, 0 to {count - 1}")
    if len(set(value)) != len(value):
        raise UserError("clicks name an answer at most once")
    return list(value)


def _dwell(value: Any, count: int) -> list[float]:
    numbers = value if isinstance(value, list) else []
    valid = all(type(x) in (int, float) and 0 <= x <= MAX_SECONDS for x in numbers)
    if len(numbers) != count or not valid:
        raise UserError(f"dwell_seconds holds the time on each of the {count} answers, in seconds")
    return [float(x) for x in numbers]


def _correction(value: Any, original: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise UserError(f"a correction is a text of 1 to {MAX_TEXT} characters")
    if not is_unicode(value):
        raise UserError("the correction holds half a surrogate pair, which is no character")
    if value.strip() == original.strip():
        raise UserError("the correction equals the original: skip the item if it is right as it is")
    return value.strip()


def preferred(item: Item, answer: Mapping[str, Any], shown: Sequence[int]) -> list[tuple[str, str]]:
    """The (chosen, rejected) pairs that an answer to `item` says.

    A comparison gives one pair unless it is a tie, a correction prefers itself to the original, and in a list
    a clicked answer is preferred to those that stood above it and were not clicked ("click > skip above",
    Joachims, "Optimizing Search Engines using Clickthrough Data", 2002). Ratings give none.

    Args:
      shown: the numbers of the answers in the order in which they stood on the page.
    """
    if item.kind == "compare" and answer["choice"] in ("a", "b"):
        first, second = item.answers
        return [(first, second) if answer["choice"] == "a" else (second, first)]
    if item.kind == "correct" and "text" in answer:
        return [(answer["text"], item.answers[0])]
    if item.kind == "list" and "clicks" in answer:
        liked = set(answer["clicks"])
        return [
            (item.answers[number], item.answers[above])
            for place, number in enumerate(shown)
            if number in liked
            for above in shown[:place]
            if above not in liked and item.answers[number] != item.answers[above]
        ]
    return []

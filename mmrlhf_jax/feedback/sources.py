"""What there is to judge, as items of a kind.

Every source becomes groups: some answers to one prompt about one picture. What is asked about a group depends
on the kind alone, so that each kind works with each source.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.tasks import MAX_LISTED, Item, Kind, attention_check

FEW_CHECKS = 20


@dataclasses.dataclass(frozen=True)
class Group:
    """Some answers to one prompt; none where a policy is still to write them.

    Attributes:
      picture: id in the store, or None.
      sound: id in the store, or None.
      extras: carried to the export; `sources` there names where each answer came from.
    """

    prompt: str
    answers: tuple[str, ...]
    picture: str | None = None
    sound: str | None = None
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_items(
    groups: Sequence[Group], kind: Kind, *, raters: int, overlap: float, checks: bool, seed: int
) -> list[Item]:
    """The items of one kind that can be asked about `groups`, and attention checks.

    A comparison is made of each two different answers of a group, which is a and which b drawn at random;
    lists are whole groups; ratings and corrections are of each answer.

    Args:
      raters: how many there are; with one, nothing overlaps.
      overlap: share of the items that a second rater judges too.

    Raises:
      UserError: the kind is unknown, or nothing can be asked about these groups.
    """
    if kind not in get_args(Kind):
        raise UserError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}")
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    for group in groups:
        answers = list(dict.fromkeys(answer for answer in group.answers if answer.strip()))
        shown: list[tuple[str, ...]] = [(answer,) for answer in answers]
        if kind == "compare":
            both = itertools.combinations(answers, 2)
            shown = [pair if rng.random() < 0.5 else pair[::-1] for pair in both]
        elif kind == "list":
            shown = [tuple(answers[:MAX_LISTED])] if len(answers) > 1 else []
        for texts in shown:
            extras = dict(group.extras)
            if "sources" in extras:
                by_answer = dict(zip(group.answers, extras["sources"], strict=True))
                extras["sources"] = [by_answer[text] for text in texts]
            items.append(Item(kind, group.prompt, texts, group.picture, group.sound, extras=extras))
    if not items:
        raise UserError(f"there is nothing to {kind} here: that needs other answers, or more of them")
    twice = set(rng.permutation(len(items))[: round(overlap * len(items))].tolist()) if raters > 1 else set()
    items = [dataclasses.replace(item, wanted=1 + (i in twice)) for i, item in enumerate(items)]
    return [*items, *(attention_check(i) for i in range(FEW_CHECKS if checks else 0))]

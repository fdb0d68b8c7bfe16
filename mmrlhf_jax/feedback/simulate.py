"""Simulated raters at the desk: they take items and judge them the way people do, without a page."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.desk import Desk, Given
from mmrlhf_jax.feedback.raters import SimulatedRater, judge, simulated_panel
from mmrlhf_jax.feedback.rubric import Aspects, Rubric
from mmrlhf_jax.feedback.simulation import attraction
from mmrlhf_jax.feedback.tasks import ASPECTS, RATINGS

_SECONDS = 1.0  # what is noted as the time of a simulated judgement


def simulate(desk: Desk, rubric: Rubric, captions: Mapping[str, Caption], seed: int) -> int:
    """The store's raters, played by a simulated panel, judge by turns until nothing is left for any of them.

    Args:
      captions: picture's id → what it shows.

    Returns:
      How many judgements were made.
    """
    panel = dict(zip(sorted(desk.names), simulated_panel(len(desk.names), seed), strict=True))
    rng = np.random.default_rng(seed)
    made, busy = 0, set(panel)
    while busy:
        with desk.store.transaction():
            for who in sorted(busy):
                given = desk.give(who, 1)
                if not given:
                    busy.discard(who)
                    continue
                answer, item = _answer(panel[who], rubric, captions, given[0], rng), given[0].lease.item
                desk.judge(f"simulated-{who}-{item}", who, item, answer, _SECONDS)
                made += 1
    return made


def _answer(
    rater: SimulatedRater,
    rubric: Rubric,
    captions: Mapping[str, Caption],
    given: Given,
    rng: np.random.Generator,
) -> dict[str, Any]:
    item, shown = given.item, given.lease.shown
    if item.expected is not None:
        return {"choice": item.expected}
    caption = captions.get(item.picture or "")
    if caption is None:
        raise UserError("simulated raters judge pictures whose names are known; these are not: use --policy")
    aspects = [rubric.aspects(text, caption) for text in item.answers]
    if item.kind == "compare":
        verdict = judge(rater, aspects[shown[0]], aspects[shown[1]], rng)
        if verdict == "tie":
            return {"choice": "tie"}
        return {"choice": "ab"[shown[0] if verdict == "first" else shown[1]]}
    if item.kind == "rate":
        return {"ratings": {name: _rating(aspects[0], name) for name in ASPECTS}}
    if item.kind == "list":
        chance = attraction(np.array([rater.weights.mean(aspects[number]) for number in shown]))
        clicked = np.array(shown)[rng.random(len(shown)) < chance]
        return {"clicks": clicked.tolist(), "dwell_seconds": [_SECONDS] * len(shown)}
    right = item.answers[0].strip() == caption.name.strip()
    return {"choice": "skip"} if right else {"text": caption.name}


def _rating(aspects: Aspects, name: str) -> int:
    """An aspect in [0, 1] as one of the ratings."""
    return RATINGS[0] + round(getattr(aspects, name) * (RATINGS[-1] - RATINGS[0]))

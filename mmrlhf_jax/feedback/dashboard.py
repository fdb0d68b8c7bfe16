"""What judgements say of items and raters: counts, agreement, consistency, disputed items, scores."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmrlhf_jax.feedback.agreement import choice_ratings, krippendorff_alpha, pairwise_agreement
from mmrlhf_jax.feedback.raters import Judgement
from mmrlhf_jax.feedback.scores import bradley_terry, bradley_terry_errors
from mmrlhf_jax.feedback.store import Judged, Store
from mmrlhf_jax.feedback.tasks import ASPECTS, Item, is_skip

DISPUTED_SHOWN = 20
PACE_BINS = 24


def comparisons(items: Mapping[int, Item], judged: Sequence[Judged]) -> list[Judgement]:
    """The comparisons, checks and skips left out, as `agreement` takes them; "both bad" is a tie."""
    found = []
    for row in judged:
        item = items[row.item]
        if item.kind != "compare" or item.is_check or is_skip(row.answer):
            continue
        said = row.answer["choice"]
        choice: Literal["a", "b", "tie"] = said if said in ("a", "b") else "tie"
        found.append(Judgement(row.item, str(row.rater), "a" if row.shown[0] == 0 else "b", choice))
    return found


def overview(store: Store, items: Mapping[int, Item] | None = None) -> dict[str, Any]:
    """All that the dashboard shows, as plain JSON; None where there is nothing to compute a number from.

    Args:
      items: those of the store, where they have been read already.
    """
    items = store.items() if items is None else items
    judged, names = store.standing(), {rater.id: rater.name for rater in store.raters()}
    compared = comparisons(items, judged)
    finished = Counter(row.item for row in judged if not is_skip(row.answer))
    asked = {number: item for number, item in items.items() if not item.is_check}
    return {
        "items": len(asked),
        "finished": sum(finished[number] >= item.wanted for number, item in asked.items()),
        "judgements": len(judged),
        "skipped": sum(is_skip(row.answer) for row in judged),
        "alpha": _number(krippendorff_alpha(choice_ratings(compared))) if compared else None,
        "agreement": _number(pairwise_agreement(compared)),
        "choices": Counter(row.choice for row in compared),
        "strategies": Counter(row.strategy for row in judged),
        "pace": _pace(judged),
        "raters": [
            {"name": name, **rater_record(who, items, judged, compared)} for who, name in names.items()
        ],
        "aspects": aspect_ratings(items, judged),
        "scores": source_scores(items, judged),
        "disputed": disputed(items, judged, names),
    }


def rater_record(
    who: int, items: Mapping[int, Item], judged: Sequence[Judged], compared: Sequence[Judgement]
) -> dict[str, Any]:
    """How much a rater did, and how consistently.

    Returns:
      `done`, `seconds` (median an item), `agreement` (share of comparisons in which another rater of the
      same item chose the same), `first` (share of decided comparisons won by what stood first: 0.5 is no
      bias), `checks` (share of attention checks passed).
    """
    mine = [row for row in judged if row.rater == who]
    by_item: dict[int, list[Judgement]] = defaultdict(list)
    for row in compared:
        by_item[row.pair].append(row)
    own = [row for row in compared if row.rater == str(who)]
    same = [
        row.choice == other.choice for row in own for other in by_item[row.pair] if other.rater != row.rater
    ]
    first = [row.choice == row.shown_first for row in own if row.choice != "tie"]
    passed = [row.answer == {"choice": items[row.item].expected} for row in mine if items[row.item].is_check]
    return {
        "done": len(mine),
        "seconds": statistics.median(row.seconds for row in mine) if mine else None,
        "agreement": _mean(same),
        "first": _mean(first),
        "checks": _mean(passed),
    }


def disputed(
    items: Mapping[int, Item], judged: Sequence[Judged], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The comparisons on which raters differ, those with the most even split first."""
    votes: dict[int, list[Judged]] = defaultdict(list)
    for row in judged:
        if items[row.item].kind == "compare" and not items[row.item].is_check and not is_skip(row.answer):
            votes[row.item].append(row)
    split = {
        number: 1 - max(Counter(row.answer["choice"] for row in rows).values()) / len(rows)
        for number, rows in votes.items()
    }
    worst = sorted((n for n in split if split[n] > 0), key=lambda n: (-split[n], n))[:DISPUTED_SHOWN]
    return [
        {
            "item": number,
            "prompt": items[number].prompt,
            "answers": items[number].answers,
            "picture": items[number].picture,
            "votes": [[names[row.rater], row.answer["choice"]] for row in votes[number]],
        }
        for number in worst
    ]


def aspect_ratings(items: Mapping[int, Item], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Of each aspect the number of ratings, their mean, and alpha of their intervals; empty without any."""
    rated = [row for row in judged if "ratings" in row.answer]
    raters = {who: r for r, who in enumerate(sorted({row.rater for row in rated}))}
    column = {item: n for n, item in enumerate(sorted({row.item for row in rated}))}
    found: list[dict[str, Any]] = []
    for aspect in ASPECTS if rated else ():
        rating_RxN = np.full((len(raters), len(column)), np.nan)
        for row in rated:
            rating_RxN[raters[row.rater], column[row.item]] = row.answer["ratings"][aspect]
        alpha = _number(krippendorff_alpha(rating_RxN, distance="interval"))
        mean = float(np.nanmean(rating_RxN))
        found.append({"aspect": aspect, "count": len(rated), "mean": mean, "alpha": alpha})
    return found


def source_scores(items: Mapping[int, Item], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Bradley-Terry scores, log-odds with mean 0, of where answers came from: `sources` in the extras.

    Returns:
      `source`, `score`, and `low` and `high` of its 95 % interval, best first; empty with fewer than two.
    """
    outcomes: list[tuple[str, str, float]] = []
    for row in comparisons(items, judged):
        sources = items[row.pair].extras.get("sources")
        if isinstance(sources, list) and len(sources) == 2 and sources[0] != sources[1]:
            first, second = map(str, sources)
            outcomes.append((first, second, {"a": 1.0, "b": 0.0, "tie": 0.5}[row.choice]))
    names = sorted({source for a, b, _ in outcomes for source in (a, b)})
    if len(names) < 2:
        return []
    wins_MxM = np.zeros((len(names), len(names)))
    for a, b, points in outcomes:
        wins_MxM[names.index(a), names.index(b)] += points
        wins_MxM[names.index(b), names.index(a)] += 1 - points
    score_M, error_M = bradley_terry(wins_MxM), 1.96 * bradley_terry_errors(wins_MxM)
    rows: list[dict[str, Any]] = [
        {"source": name, "score": float(s), "low": float(s - e), "high": float(s + e)}
        for name, s, e in zip(names, score_M, error_M, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["score"])


def _pace(judged: Sequence[Judged]) -> list[list[float]]:
    """(hours since the first judgement, judgements so far), at most PACE_BINS + 1 points."""
    if not judged:
        return []
    start = judged[0].time
    places = np.unique(np.linspace(0, len(judged) - 1, PACE_BINS + 1).astype(int))
    return [[round((judged[i].time - start) / 3600, 4), int(i) + 1] for i in places]


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value

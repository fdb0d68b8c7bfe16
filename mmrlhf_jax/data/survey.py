"""What there is to know of a set of judgements before anything is trained on it.

A reward model learns whatever separates chosen from rejected answers: repeated and contradicting judgements,
answers that win because they are longer or stand first, and pictures that could not be read are told here.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.judgements import JudgementSet
from mmrlhf_jax.data.pictures import PICTURE
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.unpaired import LabelledSet

Survey = dict[str, Any]  # JSON values by name; shares are None where there is nothing to share
FIRST_COLUMNS = ("chosen_first", "chosen_shown_first")  # further columns: whether the chosen side stood first
TOLD = 3  # messages about bad records that are kept


def survey(judged: JudgementSet) -> Survey:
    """Counts of a set of judgements, by name.

    `repeated` counts judgements that say the same as an earlier one, `contradicted` what was judged in more
    ways than one. Lengths are in words.
    """
    match judged:
        case PreferenceSet():
            index, own = [judged.image_index_P, judged.rejected_image_index_P], _pairs(judged)
        case RatingSet():
            index, own = [judged.image_index_R], _ratings(judged)
        case LabelledSet():
            index, own = [judged.image_index_R], _labels(judged)
        case ClickLog():
            index, own = [judged.image_index_L], _clicks(judged)
    # A judgement counts once for each of its pictures, even if both sides show the same one.
    rows = np.stack([side for side in index if side is not None], axis=1)
    times = Counter(picture for row in rows.tolist() for picture in set(row))
    return {
        "judgements": len(judged),
        "pictures": len(times),
        "judgements_of_a_picture": _spread(list(times.values())),
        **own,
        "left_out": len(judged.skipped),
        "unreadable_pictures": sum(f", {PICTURE} " in message for message in judged.skipped),
        "first_left_out": judged.skipped[:TOLD],
    }


def describe_survey(found: Survey, indent: str = "") -> str:
    """A survey as lines of text."""
    return "\n".join(_lines(found, indent))


def _lines(found: Survey, indent: str) -> list[str]:
    lines = []
    for name, value in found.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict) and not all(isinstance(v, (int, float)) for v in value.values()):
            lines += [title, *_lines(value, indent + "  ")]
        elif isinstance(value, dict):
            lines.append(f"{title}: " + ", ".join(f"{key} {_number(v)}" for key, v in value.items()))
        elif isinstance(value, list):
            lines += [f"{title}: {_number(v)}" for v in value]
        else:
            lines.append(f"{title}: {_number(value)}")
    return lines


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pairs(judged: PreferenceSet) -> Survey:
    rejected_P = (
        judged.image_index_P if judged.rejected_image_index_P is None else judged.rejected_image_index_P
    )
    tie_P = np.zeros(len(judged), bool) if judged.tie_P is None else judged.tie_P
    subjects: list[Hashable] = []
    outcomes: list[Hashable] = []
    for p in range(len(judged)):
        sides = [
            (int(judged.image_index_P[p]), judged.chosen[p]),
            (int(rejected_P[p]), judged.rejected[p]),
        ]
        subjects.append((judged.prompts[p], *sorted(sides)))
        outcomes.append("tie" if tie_P[p] else sides[0])
    chosen_P, rejected_words_P = _words(judged.chosen), _words(judged.rejected)
    unequal_P = (chosen_P != rejected_words_P) & ~tie_P
    own: Survey = {
        "ties": int(tie_P.sum()),
        **_repetitions(subjects, outcomes, clear=lambda outcome: outcome != "tie"),
        "words": {
            "prompt": _spread(_words(judged.prompts)),
            "chosen": _spread(chosen_P),
            "rejected": _spread(rejected_words_P),
        },
        "longer_wins": _share((chosen_P > rejected_words_P)[unequal_P]),
    }
    for name in FIRST_COLUMNS:
        if name in judged.extras:
            first = [bool(v) for v, tie in zip(judged.extras[name], tie_P, strict=True) if not tie]
            own["first_wins"] = _share(np.array(first))
    return own


def _ratings(judged: RatingSet) -> Survey:
    words_R = _words(judged.answers)
    aspects: Survey = {}
    answers = list(zip(judged.image_index_R.tolist(), judged.prompts, judged.answers, strict=True))
    for aspect, rating_R in judged.ratings.items():
        rated = np.flatnonzero(~np.isnan(rating_R))
        values = [float(rating) for rating in rating_R[rated]]
        aspects[aspect] = {
            "rated": len(rated),
            "mean": float(np.mean(values)) if values else None,
            "times": {f"{value:g}": count for value, count in sorted(Counter(values).items())[:10]},
            **_repetitions([answers[r] for r in rated], values),
            "correlation_with_words": _correlation(words_R[rated], rating_R[rated]),
        }
    return {
        "words": {"prompt": _spread(_words(judged.prompts)), "answer": _spread(words_R)},
        "aspects": aspects,
    }


def _labels(judged: LabelledSet) -> Survey:
    answers = list(zip(judged.image_index_R.tolist(), judged.prompts, judged.answers, strict=True))
    words_R = _words(judged.answers)
    return {
        "good": _share(judged.label_R),
        **_repetitions(answers, judged.label_R.tolist()),
        "words": {
            "prompt": _spread(_words(judged.prompts)),
            "good": _spread(words_R[judged.label_R]),
            "bad": _spread(words_R[~judged.label_R]),
        },
    }


def _clicks(judged: ClickLog) -> Survey:
    position_LxK, clicked_LxK = judged.position_LxK, judged.clicked_LxK
    known = 0 if judged.dwell_LxK is None else int((~np.isnan(judged.dwell_LxK)).sum())
    return {
        "answers_in_a_list": _spread([len(answers) for answers in judged.answers]),
        "lists_without_a_click": int((~clicked_LxK.any(axis=1)).sum()),
        "clicked_at_position": {
            str(place): _share(clicked_LxK[position_LxK == place])
            for place in np.unique(position_LxK[position_LxK >= 0]).tolist()
        },
        "known_seconds": known,
    }


def _repetitions(
    subjects: Sequence[Hashable], outcomes: Sequence[Hashable], clear: Any = lambda outcome: True
) -> Survey:
    """How many judgements repeat an earlier one, and how many subjects got two different clear outcomes."""
    times = Counter(zip(subjects, outcomes, strict=True))
    said = defaultdict(set)
    for subject, outcome in times:
        if clear(outcome):
            said[subject].add(outcome)
    return {
        "repeated": sum(count - 1 for count in times.values()),
        "contradicted": sum(len(outcomes) > 1 for outcomes in said.values()),
    }


def _words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts], np.int64)


def _spread(values: Sequence[int] | np.ndarray) -> Survey:
    if not len(values):
        return {}
    return {"least": int(np.min(values)), "median": float(np.median(values)), "most": int(np.max(values))}


def _share(hits: np.ndarray) -> float | None:
    return float(np.mean(hits)) if len(hits) else None


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])

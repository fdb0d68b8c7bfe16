"""Answers of each policy to held-out cases, by the gold rubric; comparisons of two policies."""

import dataclasses
from typing import Any

import numpy as np

from mmrlhf_jax.data.tone import KINDS, ToneSet
from mmrlhf_jax.data.tone_faces import FEELINGS
from mmrlhf_jax.evaluate.attribution import another
from mmrlhf_jax.evaluate.bootstrap import Interval, bootstrap_mean
from mmrlhf_jax.feedback.reply_rubric import ReplyAspects, ReplyRubric, ReplyWeights
from mmrlhf_jax.policy.captioner import Captioner

ASPECTS = ReplyAspects._fields


@dataclasses.dataclass(frozen=True)
class Answers:
    """R answers of one policy to N cases (R a multiple of N; row r belongs to case r mod N).

    Attributes:
      texts: the answers.
      gold_R: the noiseless rubric, in [0, 1].
      aspects_RxA: its aspects, see ASPECTS.
    """

    texts: list[str]
    gold_R: np.ndarray
    aspects_RxA: np.ndarray


def answer(
    policy: Captioner,
    cases: ToneSet,
    rubric: ReplyRubric,
    *,
    temperature: float,
    samples: int,
    seed: int,
    shuffle_faces: bool = False,
) -> Answers:
    """What `policy` answers, and how good that is to who said it.

    Args:
      shuffle_faces: every case comes with the face of another feeling, while the rubric still goes by the
        true one: what is lost by that is what the policy owes to the face.
    """
    count = len(cases)
    face_N = np.array([case.face for case in cases.cases])
    if shuffle_faces:
        feeling_N = np.array([FEELINGS.index(case.feeling) for case in cases.cases])
        face_N = face_N[another(feeling_N, np.random.default_rng(seed))]
    row_R = np.tile(np.arange(count), samples)
    image_RxHxWxC = cases.faces.images_FxHxWxC[face_N[row_R]]
    said = [cases.said[i] for i in row_R]
    texts = policy.caption(image_RxHxWxC, said, temperature=temperature, seed=seed)
    about = [cases.cases[i] for i in row_R]
    aspects_RxA = rubric.aspect_table(texts, about)
    weight_A = np.array(dataclasses.astuple(ReplyWeights()))
    return Answers(texts, aspects_RxA @ weight_A / weight_A.sum(), aspects_RxA)


def numbers(answers: Answers, cases: ToneSet) -> dict[str, Any]:
    """Means: of the gold rubric with its interval, by kind of case, and of each aspect."""
    rows = _rows(answers.gold_R, cases)
    gold = mean_over_faces(answers.gold_R, cases, rows["all"])
    tone_R = answers.aspects_RxA[:, ASPECTS.index("tone")]
    return {
        "gold": gold.mean,
        "gold_ci95": [gold.low, gold.high],
        "by_kind": {kind: float(answers.gold_R[rows[kind]].mean()) for kind in KINDS},
        "tone_by_kind": {kind: float(tone_R[rows[kind]].mean()) for kind in KINDS},
        "aspects": dict(zip(ASPECTS, answers.aspects_RxA.mean(axis=0).tolist(), strict=True)),
    }


def gain(one: Answers, other: Answers, cases: ToneSet) -> dict[str, Any]:
    """How much better `one` is than `other`, case by case, overall and by kind; intervals resample faces."""
    difference_R = one.gold_R - other.gold_R
    found: dict[str, Any] = {}
    for name, row_R in _rows(difference_R, cases).items():
        interval = mean_over_faces(difference_R, cases, row_R)
        found[name] = {"mean": interval.mean, "ci95": [interval.low, interval.high]}
    wins_R = np.sign(difference_R) / 2 + 0.5
    wins = mean_over_faces(wins_R, cases, np.arange(len(wins_R)))
    return {**found, "win_rate": wins.mean, "win_rate_ci95": [wins.low, wins.high]}


def mean_over_faces(value_R: np.ndarray, cases: ToneSet, row_R: np.ndarray) -> Interval:
    """The mean of some rows; its interval resamples faces, of which each is in several cases."""
    face_N = np.array([case.face for case in cases.cases])
    return bootstrap_mean(value_R[row_R], clusters=face_N[row_R % len(cases)])


def _rows(value_R: np.ndarray, cases: ToneSet) -> dict[str, np.ndarray]:
    """Which rows are of each kind, and "all" of them."""
    kind_N = np.array([case.kind for case in cases.cases])
    row_R = np.arange(len(value_R))
    kind_R = kind_N[row_R % len(cases)]
    return {"all": row_R, **{kind: row_R[kind_R == kind] for kind in KINDS}}

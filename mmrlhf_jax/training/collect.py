"""Collecting judgements: the policy writes pairs of captions, simulated raters compare them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.feedback.agreement import (
    choice_ratings,
    krippendorff_alpha,
    pairwise_agreement,
    rater_accuracy,
)
from mmrlhf_jax.feedback.raters import Judgement, Scale, SimulatedRater, judge_pairs, simulated_panel
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.files import write_text
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.training.config import CollectConfig
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import Subjects, subjects_of
from mmrlhf_jax.training.verdicts import distinct, write_verdicts

SubjectT = TypeVar("SubjectT")

TIE_MARGIN = 0.02  # texts whose rubric differs by less are a tie to the noiseless rubric


class Pairs(NamedTuple):
    """Two different texts for each of P pictures (a picture may come several times)."""

    image_index_P: np.ndarray
    a: list[str]
    b: list[str]


class Raters(NamedTuple, Generic[SubjectT]):
    """Who judges, and how.

    Attributes:
      rubric: what they see in texts.
      panel: the simulated raters, whose weights are for the rubric's aspects.
      overlap: share of the pairs that two of them judge.
      keep_ties: whether ties are written too.
    """

    rubric: Scale[SubjectT]
    panel: Sequence[SimulatedRater]
    overlap: float
    keep_ties: bool


def sample_pairs(
    captioner: Captioner, subjects: Subjects, *, pairs_per_picture: int, temperature: float, seed: int
) -> Pairs:
    """`pairs_per_picture` pairs of texts a picture; pairs of equal texts are left out."""
    index_P = np.tile(np.arange(len(subjects.images_NxHxWxC)), pairs_per_picture)
    image_PxHxWxC = subjects.images_NxHxWxC[index_P]
    said = None if subjects.said is None else [subjects.said[i] for i in index_P]
    first, second = (
        captioner.caption(image_PxHxWxC, said, temperature=temperature, seed=2 * seed + i) for i in range(2)
    )
    kept = [p for p in range(len(index_P)) if first[p] != second[p]]
    return Pairs(index_P[kept], [first[p] for p in kept], [second[p] for p in kept])


def as_preferences(
    subjects: Subjects, pairs: Pairs, judgements: list[Judgement], *, keep_ties: bool
) -> PreferenceSet:
    """The judgements as preferences in TRL's columns: those that are no ties, or all, with a column `tie`."""
    rows = [judgement for judgement in judgements if keep_ties or judgement.choice != "tie"]
    sides = {"a": pairs.a, "b": pairs.b, "tie": pairs.a}
    other = {"a": "b", "b": "a", "tie": "b"}
    index_R = np.array([pairs.image_index_P[row.pair] for row in rows], np.int32)
    return PreferenceSet(
        images_NxHxWxC=subjects.images_NxHxWxC,
        image_index_P=index_R,
        prompts=_prompts(subjects, index_R),
        chosen=[sides[row.choice][row.pair] for row in rows],
        rejected=[sides[other[row.choice]][row.pair] for row in rows],
        extras={
            "rater": [row.rater for row in rows],
            "pair": [row.pair for row in rows],
            "chosen_shown_first": [row.choice == row.shown_first for row in rows],
        },
        tie_P=np.array([row.choice == "tie" for row in rows]) if keep_ties else None,
    )


def by_rubric(
    subjects: Subjects, pairs: Pairs, utility_a_P: np.ndarray, utility_b_P: np.ndarray
) -> PreferenceSet:
    """What the noiseless rubric prefers; pairs within TIE_MARGIN are left out."""
    margin_P = utility_a_P - utility_b_P
    rows = np.flatnonzero(np.abs(margin_P) > TIE_MARGIN)
    index_R = pairs.image_index_P[rows].astype(np.int32)
    return PreferenceSet(
        images_NxHxWxC=subjects.images_NxHxWxC,
        image_index_P=index_R,
        prompts=_prompts(subjects, index_R),
        chosen=[pairs.a[p] if margin_P[p] > 0 else pairs.b[p] for p in rows],
        rejected=[pairs.b[p] if margin_P[p] > 0 else pairs.a[p] for p in rows],
        extras={"margin": np.abs(margin_P[rows]).astype(float).tolist()},
    )


def _prompts(subjects: Subjects, index_R: np.ndarray) -> list[str]:
    return ["" if subjects.said is None else subjects.said[i] for i in index_R]


def judge_and_write(
    path: Path,
    subjects: Subjects,
    about: Sequence[SubjectT],
    pairs: Pairs,
    raters: Raters[SubjectT],
    *,
    seed: int,
    gold: bool,
) -> dict[str, Any]:
    """Has the raters judge `pairs`; writes PATH.parquet, PATH_judgements.jsonl and, for `gold`, what the
    noiseless rubric prefers, PATH_rubric.parquet.

    Args:
      about: what the rubric takes, one for each of the subjects.

    Returns:
      Counts, the raters' agreement with one another and with the rubric.
    """
    rubric, shown = raters.rubric, [about[i] for i in pairs.image_index_P]
    judgements = judge_pairs(rubric, raters.panel, pairs.a, pairs.b, shown, seed=seed, overlap=raters.overlap)
    utility_a_P, utility_b_P = rubric.utilities(pairs.a, shown), rubric.utilities(pairs.b, shown)
    preferences = as_preferences(subjects, pairs, judgements, keep_ties=raters.keep_ties)
    write_preferences(path.with_name(f"{path.name}.parquet"), preferences)
    if gold:
        preferred = by_rubric(subjects, pairs, utility_a_P, utility_b_P)
        write_preferences(path.with_name(f"{path.name}_rubric.parquet"), preferred)
    _write_judgements(path.with_name(f"{path.name}_judgements.jsonl"), pairs, judgements)
    return {
        "pairs": len(pairs.a),
        "judgements": len(judgements),
        "preferences": sum(judgement.choice != "tie" for judgement in judgements),
        "ties": sum(judgement.choice == "tie" for judgement in judgements),
        "agreement": pairwise_agreement(judgements),
        "krippendorff_alpha": krippendorff_alpha(choice_ratings(judgements)),
        "rater_accuracy": rater_accuracy(judgements, utility_a_P, utility_b_P, TIE_MARGIN),
    }


@on_own_mesh
def run(config: CollectConfig) -> dict[str, Any]:
    """Writes preferences.parquet (feedback pictures), held_out.parquet and held_out_rubric.parquet (the first
    held-out part), every judgement, ties included, as judgements.jsonl, and further kinds of judgement of the
    feedback pictures, where they are wanted.

    Returns:
      The stage's result: counts, the simulated raters' agreement with one another and with the rubric.
    """
    source = picture_source(config)
    if config.dry_run:
        count = len(source.load("feedback")) * config.pairs_per_picture
        print(f"collect: {count} pairs of captions of feedback pictures")
        return {}
    with StageFolder.open(config.folder("collect"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        captioner = Captioner.load(config.folder("sft") / "model")
        rubric = Rubric.from_captions(source.all_captions())
        panel = simulated_panel(config.raters, config.seed)
        result: dict[str, Any] = {"raters": [rater.name for rater in panel]}
        for part, (split, name, pairs_per_picture) in enumerate(
            (
                ("feedback", "preferences", config.pairs_per_picture),
                (source.held_out[0], "held_out", config.held_out_pairs),
            )
        ):
            captions, seed = source.load(split), 2 * config.seed + part
            subjects = subjects_of(captions)
            pairs = sample_pairs(
                captioner,
                subjects,
                pairs_per_picture=pairs_per_picture,
                temperature=config.temperature,
                seed=seed,
            )
            result[name] = judge_and_write(
                folder.path / name,
                subjects,
                captions.captions,
                pairs,
                Raters(rubric, panel, config.overlap, config.keep_ties),
                seed=seed,
                gold=split != "feedback",
            )
            if split == "feedback":
                collected = distinct(np.tile(pairs.image_index_P, 2), pairs.a + pairs.b)
                result |= write_verdicts(
                    folder.path, config.kinds, captions, collected, rubric, panel, seed=seed
                )
        folder.finish(result)
        return folder.result()


def _write_judgements(path: Path, pairs: Pairs, judgements: list[Judgement]) -> None:
    records = [
        row._asdict()
        | {"picture": int(pairs.image_index_P[row.pair]), "a": pairs.a[row.pair], "b": pairs.b[row.pair]}
        for row in judgements
    ]
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

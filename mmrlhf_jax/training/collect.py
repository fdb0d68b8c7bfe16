"""Collecting judgements: the policy writes pairs of captions, simulated raters compare them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.feedback.agreement import (
    choice_ratings,
    krippendorff_alpha,
    pairwise_agreement,
    rater_accuracy,
)
from mmrlhf_jax.feedback.raters import Judgement, judge_pairs, simulated_panel
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.files import write_text
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.training.config import CollectConfig
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.verdicts import distinct, write_verdicts

TIE_MARGIN = 0.02  # captions whose rubric differs by less are a tie to the noiseless rubric


class Pairs(NamedTuple):
    """Two different captions for each of P pictures (a picture may come several times)."""

    image_index_P: np.ndarray
    a: list[str]
    b: list[str]


def sample_pairs(
    captioner: Captioner, captions: CaptionSet, *, pairs_per_picture: int, temperature: float, seed: int
) -> Pairs:
    """`pairs_per_picture` pairs a picture; pairs of equal captions are left out."""
    index_P = np.tile(np.arange(len(captions)), pairs_per_picture)
    image_PxHxWxC = captions.images_NxHxWxC[index_P]
    first, second = (
        captioner.caption(image_PxHxWxC, temperature=temperature, seed=2 * seed + i) for i in range(2)
    )
    kept = [p for p in range(len(index_P)) if first[p] != second[p]]
    return Pairs(index_P[kept], [first[p] for p in kept], [second[p] for p in kept])


def as_preferences(
    captions: CaptionSet, pairs: Pairs, judgements: list[Judgement], *, keep_ties: bool
) -> PreferenceSet:
    """The judgements as preferences in TRL's columns: those that are no ties, or all, with a column `tie`."""
    rows = [judgement for judgement in judgements if keep_ties or judgement.choice != "tie"]
    sides = {"a": pairs.a, "b": pairs.b, "tie": pairs.a}
    other = {"a": "b", "b": "a", "tie": "b"}
    return PreferenceSet(
        images_NxHxWxC=captions.images_NxHxWxC,
        image_index_P=np.array([pairs.image_index_P[row.pair] for row in rows], np.int32),
        prompts=[""] * len(rows),
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
    captions: CaptionSet, pairs: Pairs, utility_a_P: np.ndarray, utility_b_P: np.ndarray
) -> PreferenceSet:
    """What the noiseless rubric prefers; pairs within TIE_MARGIN are left out."""
    margin_P = utility_a_P - utility_b_P
    rows = np.flatnonzero(np.abs(margin_P) > TIE_MARGIN)
    return PreferenceSet(
        images_NxHxWxC=captions.images_NxHxWxC,
        image_index_P=pairs.image_index_P[rows].astype(np.int32),
        prompts=[""] * len(rows),
        chosen=[pairs.a[p] if margin_P[p] > 0 else pairs.b[p] for p in rows],
        rejected=[pairs.b[p] if margin_P[p] > 0 else pairs.a[p] for p in rows],
        extras={"margin": np.abs(margin_P[rows]).astype(float).tolist()},
    )


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
            pairs = sample_pairs(
                captioner,
                captions,
                pairs_per_picture=pairs_per_picture,
                temperature=config.temperature,
                seed=seed,
            )
            shown = [captions.captions[i] for i in pairs.image_index_P]
            judgements = judge_pairs(
                rubric, panel, pairs.a, pairs.b, shown, seed=seed, overlap=config.overlap
            )
            utility_a_P, utility_b_P = rubric.utilities(pairs.a, shown), rubric.utilities(pairs.b, shown)
            preferences = as_preferences(captions, pairs, judgements, keep_ties=config.keep_ties)
            write_preferences(folder.path / f"{name}.parquet", preferences)
            if split != "feedback":
                gold = by_rubric(captions, pairs, utility_a_P, utility_b_P)
                write_preferences(folder.path / f"{name}_rubric.parquet", gold)
            _write_judgements(folder.path / f"{name}_judgements.jsonl", pairs, judgements)
            result[name] = {
                "pairs": len(pairs.a),
                "judgements": len(judgements),
                "preferences": sum(judgement.choice != "tie" for judgement in judgements),
                "ties": sum(judgement.choice == "tie" for judgement in judgements),
                "agreement": pairwise_agreement(judgements),
                "krippendorff_alpha": krippendorff_alpha(choice_ratings(judgements)),
                "rater_accuracy": rater_accuracy(judgements, utility_a_P, utility_b_P, TIE_MARGIN),
            }
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

"""Evaluation: the SFT policy against the one after PPO, on pictures that neither has seen, over all seeds."""

import dataclasses
import json
import time
from typing import Any

import numpy as np

from mmrlhf_jax.config import from_dict
from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.evaluate.best_of_n import best_of_n, best_of_n_kl
from mmrlhf_jax.evaluate.bootstrap import Interval, bootstrap_mean
from mmrlhf_jax.evaluate.preference import win_points
from mmrlhf_jax.evaluate.report import write_report
from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.runtime.folder import StageFolder, read_config, read_result
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.runtime.platform import device_name, git_revision, peak_rss_mb, versions
from mmrlhf_jax.training.collect import TIE_MARGIN
from mmrlhf_jax.training.compare import Judged, judge_policy
from mmrlhf_jax.training.config import EvaluateConfig, TermsConfig
from mmrlhf_jax.training.judges import embed_references
from mmrlhf_jax.training.networks import load_networks, look
from mmrlhf_jax.training.picture_source import PictureSource, picture_source
from mmrlhf_jax.training.report import build_report

POLICIES = ("sft", "rl")
DECODINGS = {"sampled": 1.0, "greedy": 0.0}  # by temperature
TRAINED_STAGES = ("pretrain", "sft", "collect", "reward", "ppo")

Judgements = dict[str, dict[str, Judged]]  # by decoding, by policy


def judge_seed(
    config: EvaluateConfig, seed: int, parts: dict[str, CaptionSet], rubric: Rubric
) -> dict[str, Judgements]:
    """Both policies of one seed, sampled and greedy, on the pictures of each held-out part."""
    config = dataclasses.replace(config, seed=seed)
    terms = from_dict(TermsConfig, read_config(config.folder("ppo")).get("terms", {}))
    sft, networks, unseeing = load_networks(config, terms)
    assert networks.clip is not None  # a captioner comes from the stage that trained it
    policies = {"sft": sft, "rl": Captioner.load(config.folder("ppo") / "model")}
    judgements: dict[str, Judgements] = {}
    for split, captions in parts.items():
        names = embed_references(networks.clip, unseeing.clip, sft.tokenizer, captions.names, networks.length)
        views = look(networks, unseeing, captions.images_NxHxWxC)._replace(references_NxRxD=names)
        frozen = unseeing._replace(views=views)
        judgements[split] = {
            decoding: {
                name: judge_policy(
                    policy,
                    policies,
                    captions,
                    rubric,
                    networks,
                    frozen,
                    temperature=temperature,
                    samples=config.samples if temperature > 0 else 1,
                    seed=seed,
                )
                for name, policy in policies.items()
            }
            for decoding, temperature in DECODINGS.items()
        }
    return judgements


def compare(seeds: list[Judgements], decoding: str, references: list[list[str]]) -> dict[str, Any]:
    """SFT against RL in one decoding, over all seeds; intervals resample the pictures."""
    sft, rl = ([judgements[decoding][name] for judgements in seeds] for name in POLICIES)
    gain_R = np.concatenate([b.gold_R - a.gold_R for a, b in zip(sft, rl, strict=True)])
    picture_R = np.tile(np.arange(len(references)), len(gain_R) // len(references))
    wins_R = win_points(gain_R, TIE_MARGIN)
    kl_R = np.concatenate([judged.logprobs["rl"] - judged.logprobs["sft"] for judged in rl])
    gain = bootstrap_mean(gain_R, clusters=picture_R)
    wins = bootstrap_mean(wins_R, clusters=picture_R)
    numbers = {
        name: _mean([judged.numbers(references) for judged in group])
        for name, group in (("sft", sft), ("rl", rl))
    }
    return {
        "gold": {
            "sft": numbers["sft"]["gold"],
            "rl": numbers["rl"]["gold"],
            "gain": gain.mean,
            "gain_ci95": [gain.low, gain.high],
        },
        "win_rate": wins.mean,
        "win_rate_ci95": [wins.low, wins.high],
        "cider": {name: numbers[name]["cider_d"] for name in POLICIES},
        "kl": float(np.mean(kl_R)) if decoding == "sampled" else None,
        **numbers,
    }


def best_of_sft(config: EvaluateConfig, seeds: list[Judgements], pictures: int) -> list[dict[str, Any]]:
    """The SFT policy's best caption of n by the composite reward, for n = 2, 4, ... up to its samples.

    Nothing for a policy that was trained without that reward.
    """
    scores, golds = [], []
    if config.policy == "dpo":
        return []
    for seed, judgements in zip(config.seeds, seeds, strict=True):
        judged, folder = judgements["sampled"]["sft"], dataclasses.replace(config, seed=seed).folder("ppo")
        spread, weights = read_result(folder)["normaliser"]["std"], read_config(folder)["weights"]
        # A picture's mean under the SFT policy, which the reward takes off, is the same for all its captions.
        score_R = sum(weights[name] * judged.terms[name] / spread[name] for name in judged.terms)
        scores.append(np.reshape(score_R, (-1, pictures)).T)
        golds.append(judged.gold_R.reshape(-1, pictures).T)
    score_NxS, gold_NxS = np.concatenate(scores), np.concatenate(golds)
    rows = []
    for n in (2**power for power in range(1, config.samples.bit_length())):
        best_N = best_of_n(score_NxS, gold_NxS, n)
        clusters = np.tile(np.arange(pictures), len(seeds))
        gain = bootstrap_mean(best_N - gold_NxS.mean(axis=1), clusters=clusters)
        rows.append(
            {
                "n": n,
                "gold": float(np.mean(best_N)),
                "gain": gain.mean,
                "gain_ci95": [gain.low, gain.high],
                "kl_at_most": best_of_n_kl(n),
            }
        )
    return rows


def reward_model_numbers(config: EvaluateConfig) -> dict[str, Any]:
    """The reward models of all seeds, on held-out pairs: against the noiseless rubric and the raters."""
    results = [read_result(dataclasses.replace(config, seed=seed).folder("reward")) for seed in config.seeds]
    reference = "rubric" if all("rubric" in result for result in results) else "held_out"
    # a reward model that learned from other things than comparisons has these besides
    raters = [result.get("raters", result["held_out"]) for result in results]
    intervals = [Interval(**result[reference]["accuracy"]) for result in results]
    return {
        "measured_against": reference,
        "accuracy": float(np.mean([interval.mean for interval in intervals])),
        # the widest of the seeds' intervals: the seeds share their pictures
        "accuracy_ci95": [min(i.low for i in intervals), max(i.high for i in intervals)],
        "accuracy_against_raters": float(np.mean([pairs["accuracy"]["mean"] for pairs in raters])),
        "accuracy_picture_shuffled": float(
            np.mean([r[reference]["accuracy_picture_shuffled"] for r in results])
        ),
        "calibration_error": float(np.mean([pairs["calibration_error"] for pairs in raters])),
        "attribution": mean_attribution([result[reference].get("attribution") for result in results]),
        "raters_agreement": [result.get("raters_agreement") for result in results],
    }


def summarise(
    config: EvaluateConfig,
    source: PictureSource,
    judgements: dict[str, list[Judgements]],
    parts: dict[str, CaptionSet],
) -> dict[str, Any]:
    """Everything that summary.json holds; at the top are the numbers of the first held-out part, sampled."""
    folders = {seed: dataclasses.replace(config, seed=seed) for seed in config.seeds}
    splits = {
        split: {decoding: compare(seeds, decoding, parts[split].references) for decoding in DECODINGS}
        for split, seeds in judgements.items()
    }
    for split, seeds in judgements.items():
        splits[split]["sampled"]["best_of_n"] = best_of_sft(config, seeds, len(parts[split].names))
    first = source.held_out[0]
    head = splits[first]["sampled"]
    results = {
        stage: [read_result(folder.folder(stage)) for folder in folders.values()] for stage in TRAINED_STAGES
    }
    recall = {
        split: {
            name: float(np.mean([result[split][name] for result in results["pretrain"]]))
            for name in results["pretrain"][0][split]
        }
        for split in source.held_out
    }
    return {
        **{name: head[name] for name in ("gold", "win_rate", "win_rate_ci95", "cider", "kl")},
        "splits": splits,
        "reward_model": reward_model_numbers(config),
        "headline": first,
        "clip": {"recall_at_1": recall[first]["image_to_text_recall_at_1"], **recall},
        "kl_max_in_training": max(result["kl_max"] for result in results["ppo"]),
        "kl_bound": read_config(config.folder("ppo"))["kl_bound"],
        "seeds": list(config.seeds),
        "wall_seconds": {
            stage: sum(result["wall_seconds"] for result in results[stage]) for stage in TRAINED_STAGES
        },
        "peak_rss_mb": max(result["peak_rss_mb"] for rows in results.values() for result in rows),
        "device": device_name(),
        "versions": versions() | {"git_revision": git_revision()},
        "gold_rubric": source.rubric_name,
    }


@on_own_mesh
def run(config: EvaluateConfig) -> dict[str, Any]:
    """Writes RUN/summary.json and RUN/report.html; `config.suffix` is in their names.

    Returns:
      The summary.
    """
    config = dataclasses.replace(config, seed=config.seeds[0])
    source = picture_source(config)
    parts = {split: source.load(split) for split in source.held_out}
    if config.dry_run:
        for split, captions in parts.items():
            print(f"evaluate: {len(captions)} pictures of {split} x {config.samples} samples x 2 policies")
        return {}
    summary_name, report_name = f"summary{config.suffix}.json", f"report{config.suffix}.html"
    start = time.monotonic()
    with StageFolder.open(config.folder("evaluate"), config, resume=config.resume) as folder:
        if folder.is_done:
            return json.loads((config.run / summary_name).read_text(encoding="utf-8"))
        for seed in config.seeds:
            for stage in TRAINED_STAGES:  # told at once, not after the seeds before were judged
                read_result(dataclasses.replace(config, seed=seed).folder(stage))
        rubric = Rubric.from_captions(source.all_captions())
        by_seed = [judge_seed(config, seed, parts, rubric) for seed in config.seeds]
        judgements = {split: [judged[split] for judged in by_seed] for split in parts}
        summary = summarise(config, source, judgements, parts)
        summary["wall_seconds"]["evaluate"] = time.monotonic() - start
        summary["wall_seconds"]["total"] = sum(summary["wall_seconds"].values())
        summary["peak_rss_mb"] = max(summary["peak_rss_mb"], peak_rss_mb())
        write_summary(config.run / summary_name, summary)
        write_report(config.run / report_name, build_report(config, summary, judgements, parts))
        folder.finish({"summary": summary_name, "report": report_name})
    return summary


def mean_attribution(each: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Means over the seeds, the widest interval, and every warning; None where nothing was attributed."""
    rows = [row for row in each if row is not None]
    if not rows:
        return None
    numbers = [name for name in rows[0] if name not in ("picture_gain", "pairs", "warning")]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in numbers}
    gains = [row["picture_gain"] for row in rows]
    return {
        **{name: float(np.mean(values)) if values else None for name, values in known.items()},
        "picture_gain": float(np.mean([gain["mean"] for gain in gains])),
        "picture_gain_ci95": [min(gain["low"] for gain in gains), max(gain["high"] for gain in gains)],
        "warnings": [row["warning"] for row in rows if row["warning"]],
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

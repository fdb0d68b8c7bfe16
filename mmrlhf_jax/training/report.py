"""What a run's report shows: table, curves, reward against KL, gallery."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.evaluate.report import GalleryItem, Plot, Report, ResultRow, ScoredCaption, Series
from mmrlhf_jax.runtime.folder import read_result
from mmrlhf_jax.training.config import EvaluateConfig
from mmrlhf_jax.training.report_curves import alarm_notes, curves, gold_against_kl, reward_against_kl
from mmrlhf_jax.training.report_ledger import read_ledger

if TYPE_CHECKING:
    from mmrlhf_jax.training.evaluate import Judgements

NOTES = (
    "Preferences come from simulated raters: a rubric over accuracy, groundedness, fluency, conciseness and "
    "considerateness, with tastes, noise, ties and a position bias of their own. The gold score is that "
    "rubric without noise. No person judged anything here.",
    "Sampled captions are drawn at temperature 1, the distribution that training optimises; greedy captions "
    "take the likeliest token. Intervals are 95 % bootstrap intervals over pictures.",
)
EMOJI_NOTE = (
    "Held-out combinations are new combinations of parts that training shows; held-out concepts are things "
    "that it never shows."
)


def build_report(
    config: EvaluateConfig,
    summary: dict[str, Any],
    judgements: "dict[str, list[Judgements]]",
    parts: dict[str, CaptionSet],
) -> Report:
    """The report of the seeds in `config`, from their folders and the fresh comparison."""
    first = dataclasses.replace(config, seed=config.seeds[0])
    facts = {
        "Device": summary["device"],
        "Seeds": ", ".join(map(str, config.seeds)),
        "Wall time": f"{summary['wall_seconds']['total']:.0f} s",
        "Peak memory": f"{summary['peak_rss_mb']:.0f} MiB",
        "Command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **{name: str(value) for name, value in summary["versions"].items()},
    }
    reliability = read_result(first.folder("reward"))["held_out"]["reliability"]
    shares, ledger_tables = read_ledger(
        [dataclasses.replace(config, seed=seed).folder("ppo") / "metrics.jsonl" for seed in config.seeds]
    )
    return Report(
        title=f"Multimodal RLHF: {config.run.name}",
        subtitle="From pictures and names to a captioner that simulated raters prefer",
        facts=list(facts.items()),
        rows=result_rows(summary),
        curves=curves(config),
        ledger=shares,
        ledger_tables=ledger_tables,
        reward_against_kl=reward_against_kl(config),
        gold_against_kl=gold_against_kl(config),
        reliability=Plot(
            "Reward model: how often it is right, by how sure it is",
            "predicted probability",
            "observed share",
            [Series("held-out pairs", reliability["predicted_K"], reliability["observed_K"])],
        ),
        gallery=gallery(first, judgements, parts),
        stages=[(name, seconds) for name, seconds in summary["wall_seconds"].items() if name != "total"],
        notes=[
            *NOTES,
            EMOJI_NOTE if "concepts" in parts else f"The gold score: {summary['gold_rubric']}.",
            *alarm_notes(config),
        ],
    )


def result_rows(summary: dict[str, Any]) -> list[ResultRow]:
    """The result table: first what has a goal, on the first held-out part; then the rest."""
    headline = summary.get("headline", "combinations")  # which older summaries do not name
    shown = "pictures" if headline == "held_out" else headline
    gold, cider, reward_model = summary["gold"], summary["cider"], summary["reward_model"]
    agreement = [value for value in reward_model["raters_agreement"] if value is not None]
    rows = [
        ResultRow(
            f"Gold rubric, held-out {shown}, sampled",
            gold["sft"],
            gold["rl"],
            f"gain {gold['gain']:+.3f} {_interval(gold['gain_ci95'])}",
            "interval of the gain above 0",
            gold["gain_ci95"][0] > 0,
        ),
        ResultRow(
            "Win rate of RL over SFT, ties half",
            None,
            summary["win_rate"],
            _interval(summary["win_rate_ci95"]),
            "at least 60 %",
            summary["win_rate"] >= 0.6,
        ),
        ResultRow(
            "CIDEr-D, sampled",
            cider["sft"],
            cider["rl"],
            f"{cider['rl'] / cider['sft'] - 1:+.1%}" if cider["sft"] else "",
            "falls by at most 5 %",
            cider["rl"] >= 0.95 * cider["sft"],
        ),
        ResultRow(
            "KL to the SFT policy, nats a caption (most in training)",
            None,
            summary["kl_max_in_training"],
            f"{summary['kl']:.2f} on held-out",
            f"below {summary['kl_bound']:g}",
            summary["kl_max_in_training"] < summary["kl_bound"],
        ),
        ResultRow(
            "Reward model agrees with the noiseless rubric"
            if reward_model["measured_against"] == "rubric"
            else "Reward model agrees with the raters",
            None,
            reward_model["accuracy"],
            _interval(reward_model["accuracy_ci95"]),
            "at least 80 %",
            reward_model["accuracy"] >= 0.8,
        ),
        ResultRow("Reward model agrees with single raters", None, reward_model["accuracy_against_raters"]),
        ResultRow("Reward model with the picture shuffled", None, reward_model["accuracy_picture_shuffled"]),
        *attribution_rows(reward_model["attribution"]),
        ResultRow("Reward model: calibration error", None, reward_model["calibration_error"]),
        ResultRow(f"CLIP recall@1, picture to name, {headline}", None, summary["clip"]["recall_at_1"]),
    ]
    for best in summary["splits"][headline]["sampled"]["best_of_n"]:
        name = f"Gold rubric, the SFT policy's best of {best['n']} by the reward"
        gain = f"gain {best['gain']:+.3f} {_interval(best['gain_ci95'])}, KL at most {best['kl_at_most']:.2f}"
        rows.append(ResultRow(name, gold["sft"], best["gold"], gain))
    if agreement:
        rows.insert(6, ResultRow("Raters agree with one another", None, float(np.mean(agreement))))
    for split, decodings in summary["splits"].items():
        for decoding, numbers in decodings.items():
            where, sft, rl = f"{split}, {decoding}", numbers["sft"], numbers["rl"]
            gain, wins = (
                _interval(ends) for ends in (numbers["gold"]["gain_ci95"], numbers["win_rate_ci95"])
            )
            if (split, decoding) == (headline, "sampled"):  # its gold, wins and CIDEr-D stand above
                names = [name for name in sft if name not in ("gold", "cider_d")]
            else:
                rows.append(ResultRow(f"Gold rubric, {where}", sft["gold"], rl["gold"], f"gain {gain}"))
                rows.append(ResultRow(f"Win rate, {where}", None, numbers["win_rate"], wins))
                names = ["cider_d", "exact_match"]
            rows += [ResultRow(f"{name}, {where}", sft[name], rl[name]) for name in names]
    return rows


def attribution_rows(attribution: dict[str, Any] | None) -> list[ResultRow]:
    """What the reward model owes to picture and text, where that was measured."""
    if attribution is None:
        return []
    gain = _interval(attribution["picture_gain_ci95"])
    verdict = "the picture adds nothing" if attribution["warnings"] else ""
    return [
        ResultRow("Reward model: gain by the true picture", None, attribution["picture_gain"], gain),
        ResultRow("Reward model: the picture's Shapley share", None, attribution["picture_share"], verdict),
        ResultRow("Reward model without the picture", None, attribution["picture_absent"]),
        ResultRow("Reward model with the text shuffled", None, attribution["text_shuffled"]),
        ResultRow(
            "Reward model without interaction (EMAP)",
            attribution["emap"],
            attribution["emap_full"],
            "before: additive part; after: whole, on a sample",
        ),
    ]


def print_results(summary: dict[str, Any], run: Path) -> None:
    """The rows of the result table that have a goal, and where the whole report lies."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "SFT", "RL", "interval", "goal", "outcome")
    for row in result_rows(summary):
        if row.goal:
            values = ["" if value is None else f"{value:.3f}" for value in (row.before, row.after)]
            table.add_row(row.name, *values, row.interval, row.goal, "met" if row.met else "missed")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    seconds, memory = summary["wall_seconds"]["total"], summary["peak_rss_mb"]
    console.print(
        f"{seconds:.0f} s, at most {memory:.0f} MiB resident. Raters are simulated.", highlight=False
    )
    console.print(f"report: {run / 'report.html'}", highlight=False, soft_wrap=True)


def gallery(
    config: EvaluateConfig, judgements: "dict[str, list[Judgements]]", parts: dict[str, CaptionSet]
) -> list[GalleryItem]:
    """Pictures spread evenly over each held-out part, with a sampled caption by each policy."""
    items = []
    for split, captions in parts.items():
        sampled = judgements[split][0]["sampled"]
        count = min(config.gallery // len(parts), len(captions))
        part = "held-out" if split == "held_out" else f"held-out {split}"
        for i in np.linspace(0, len(captions) - 1, count).astype(int):
            scored = [
                ScoredCaption(
                    label,
                    judged.texts[i],
                    float(judged.gold_R[i]),
                    {name: float(values[i]) for name, values in judged.terms.items()},
                )
                for label, judged in (("SFT", sampled["sft"]), ("RL", sampled["rl"]))
            ]
            items.append(GalleryItem(captions.images_NxHxWxC[i], captions.names[i], part, scored))
    return items


def _interval(ends: list[float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"

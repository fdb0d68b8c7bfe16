"""The chatbot's report: results by arm, by kind of case and by aspect, attribution, curves and a gallery."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrlhf_jax.data.tone import KINDS, ToneSet
from mmrlhf_jax.evaluate.report import facts_html, plots_html, write_page
from mmrlhf_jax.evaluate.report_gallery import GalleryItem, ScoredCaption, gallery_html
from mmrlhf_jax.evaluate.report_plots import Plot, Series, plot_html
from mmrlhf_jax.evaluate.tables import Cell, Table, table_html
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training.chatbot.config import ChatbotConfig, ChatEvaluateConfig
from mmrlhf_jax.training.chatbot.judge import ASPECTS
from mmrlhf_jax.training.config.stage import arm

if TYPE_CHECKING:
    from mmrlhf_jax.training.chatbot.evaluate import Said

PARTS = {"combinations": "held-out topics for a feeling", "faces": "held-out faces"}
NOTES = (
    "The cases are made: words of a user with a smiley that shows what is felt. In half of them the words "
    "alone tell it, in a quarter they tell nothing, in a quarter the opposite. Preferences come from "
    "simulated raters around a rubric over tone, topic, politeness, form and length; gold is that rubric "
    "without noise. No person judged anything here.",
    "Without picture, the reward model learns from the same judgements and the policy starts from the same "
    "SFT weights, which were trained with the picture left out now and then; neither ever looks at a face. "
    "Intervals are 95 % bootstrap intervals over faces.",
)


def write_chatbot_report(
    config: ChatEvaluateConfig,
    chatbot: ChatbotConfig,
    summary: dict[str, Any],
    said: "Said",
    parts: dict[str, ToneSet],
) -> None:
    """Writes RUN/report.html: one page that needs nothing else."""
    facts = {
        "Device": summary["device"],
        "Seed": str(config.seed),
        "Wall time": f"{summary['wall_seconds']['total']:.0f} s",
        "Peak memory": f"{summary['peak_rss_mb']:.0f} MiB",
        "Command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **{name: str(value) for name, value in summary["versions"].items()},
    }
    tables = [*policy_tables(summary), gains_table(summary), *attribution_tables(summary)]
    write_page(
        config.run / "report.html",
        "A chatbot that hears the tone",
        "RLHF with the user's face, and the same without it",
        [
            *((table.title, table_html(table)) for table in tables),
            ("Training curves", plots_html([plot_html(plot) for plot in curves(config, chatbot)])),
            ("Cases and answers", gallery_html(gallery(config, said, parts))),
            ("How it was run", facts_html(list(facts.items()))),
            ("Notes", "".join(f"<p>{note}</p>" for note in NOTES)),
        ],
    )


def policy_tables(summary: dict[str, Any]) -> list[Table]:
    """One table for each part and decoding: gold, by kind of case, and every aspect."""
    header = ["Policy", "gold", "interval", *KINDS, *ASPECTS]
    tables = []
    for part, found in summary["parts"].items():
        for decoding in ("sampled", "greedy"):
            policies = found[decoding]["policies"]
            best = max(policy["gold"] for policy in policies.values())
            rows = [
                [
                    Cell(name),
                    Cell(f"{policy['gold']:.3f}", strong=policy["gold"] == best),
                    Cell(interval(policy["gold_ci95"])),
                    *(Cell(f"{policy['by_kind'][kind]:.3f}") for kind in KINDS),
                    *(Cell(f"{policy['aspects'][aspect]:.3f}") for aspect in ASPECTS),
                ]
                for name, policy in policies.items()
            ]
            note = "Gold rubric, then the same by kind of case, then its aspects."
            tables.append(Table(f"{PARTS[part]}, {decoding}", note, header, rows))
    return tables


def gains_table(summary: dict[str, Any]) -> Table:
    """Paired differences of the gold rubric, sampled answers."""
    rows = []
    for part, found in summary["parts"].items():
        for name, gained in found["sampled"]["gains"].items():
            cells = [
                Cell(
                    f"{gained[kind]['mean']:+.3f} {interval(gained[kind]['ci95'])}", good=_sign(gained[kind])
                )
                for kind in ("all", *KINDS)
            ]
            wins = f"{gained['win_rate']:.1%} {interval(gained['win_rate_ci95'])}"
            rows.append([Cell(f"{name}, {PARTS[part]}"), *cells, Cell(wins)])
    note = "Gold rubric of sampled answers, case by case; wins with ties as half."
    return Table("What is gained", note, ["Comparison", "all", *KINDS, "wins"], rows)


def attribution_tables(summary: dict[str, Any]) -> list[Table]:
    """What reward models and policies owe to the face."""
    shown = {
        "accuracy": "accuracy",
        "picture_shuffled": "picture shuffled",
        "picture_absent": "picture absent",
        "text_shuffled": "text shuffled",
        "picture_shapley": "picture's Shapley value",
        "text_shapley": "text's Shapley value",
        "picture_share": "picture's share",
    }
    rows = []
    for name, found in summary["reward_models"].items():
        attribution = found["attribution"]
        cells = [_number(attribution[key]) for key in shown]
        gained = attribution["picture_gain"]
        verdict = f"{gained['mean']:+.3f} {interval([gained['low'], gained['high']])}"
        rows.append([Cell(f"reward model {name.replace('_', ' ')}"), *cells, Cell(verdict)])
    note = "On held-out pairs, against the noiseless rubric; the last column is what the true picture gains."
    models = Table("Attribution: reward models", note, ["Model", *shown.values(), "gain"], rows)
    rows = []
    for part, found in summary["parts"].items():
        for name, policy in found["face_shuffled"].items():
            gained = policy["gain_by_true_face"]
            cells = [
                Cell(f"{gained[kind]['mean']:+.3f} {interval(gained[kind]['ci95'])}")
                for kind in ("all", *KINDS)
            ]
            rows.append([Cell(f"{name}, {PARTS[part]}"), Cell(f"{policy['gold']:.3f}"), *cells])
    note = "Gold rubric when every case comes with a face of another feeling, and what the true face gains."
    header = ["Policy", "gold, faces shuffled", "gain by the true face", *KINDS]
    return [models, Table("Attribution: policies", note, header, rows)]


def curves(config: ChatEvaluateConfig, chatbot: ChatbotConfig) -> list[Plot]:
    """Training curves; both arms in one plot."""
    ppo, reward = chatbot.ppo.algorithm, "reward"
    wanted = (
        (("sft",), "loss", "SFT: loss in nats a token"),
        ((reward, arm(reward, True)), "rewards/accuracies", "Reward models: accuracy on training pairs"),
        ((ppo, arm(ppo, True)), "objective/scores", "RL: reward of each arm's own model"),
        ((ppo, arm(ppo, True)), "objective/kl", "RL: KL to the SFT policy, nats an answer"),
        ((ppo, arm(ppo, True)), "objective/length", "RL: tokens of an answer"),
    )
    plots = []
    for stages, metric, title in wanted:
        series = []
        for stage in stages:
            file = config.folder(stage) / "metrics.jsonl"
            rows = [row for row in read_metrics(file) if row.get(metric) is not None] if file.exists() else []
            if rows:
                label = "without picture" if stage.endswith("without_picture") else "with picture"
                series.append(Series(label, [row["step"] for row in rows], [row[metric] for row in rows]))
        if series:
            plots.append(Plot(title, "step", "", series))
    return plots


def gallery(config: ChatEvaluateConfig, said: "Said", parts: dict[str, ToneSet]) -> list[GalleryItem]:
    """Cases spread evenly over each part, each with a sampled answer of every policy."""
    items = []
    for part, cases in parts.items():
        count = min(config.gallery // len(parts), len(cases))
        for i in np.linspace(0, len(cases) - 1, count).astype(int):
            case = cases.cases[i]
            answers = [
                ScoredCaption(
                    name,
                    each.texts[i],
                    float(each.gold_R[i]),
                    dict(zip(ASPECTS, each.aspects_RxA[i].tolist(), strict=True)),
                )
                for name, each in said[part]["sampled"].items()
            ]
            name = f"{case.said} ({case.kind}; {cases.faces.names[case.face]}: {case.feeling})"
            items.append(GalleryItem(cases.faces.images_FxHxWxC[case.face], name, PARTS[part], answers))
    return items


def interval(ends: list[float]) -> str:
    """[low, high], three decimals."""
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _sign(gained: dict[str, Any]) -> bool | None:
    """Whether an interval lies above 0 (True) or below (False)."""
    low, high = gained["ci95"]
    return True if low > 0 else False if high < 0 else None


def _number(value: float | None) -> Cell:
    return Cell("" if value is None or not np.isfinite(value) else f"{value:.3f}")

"""The benchmark's findings: conclusions, tables as Markdown, and one page with plots."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.evaluate.bootstrap import Interval
from mmrlhf_jax.evaluate.interval_plot import intervals_html
from mmrlhf_jax.evaluate.report import facts_html, plots_html, write_page
from mmrlhf_jax.evaluate.report_plots import Plot, Series, plot_html
from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.evaluate.tables import Cell, Table, table_html, table_markdown
from mmrlhf_jax.files import as_plain, write_text
from mmrlhf_jax.training.fusion_benchmark.conclusions import (
    LEVEL,
    Trials,
    accuracy_lost,
    mean_accuracy,
)

_WEIGHT_COLUMNS = ("honesty_correlation", "picture_honest", "picture_lying", "picture_spread")
CURVES = ("concat_linear", "late", "concat", "weighted_sum", "attention", "gated")  # colours for six lines


def write_reports(folder: Path, results: dict[str, Any]) -> None:
    """Writes results.json, results.md and report.html into `folder`."""
    results = as_plain(results, finite=True)
    write_summary(folder / "results.json", results)
    tables = make_tables(results)
    facts = _facts(results)
    lines = [f"- {name}: {value}" for name, value in facts]
    write_text(
        folder / "results.md", "\n".join(["# Fusion benchmark", "", *lines, "", *map(table_markdown, tables)])
    )
    sections = [(table.title, table_html(table)) for table in tables]
    sections.insert(2, ("Accuracy by task", plots_html(_accuracy_plots(results), " wide")))
    sections.append(("Noise on one modality", plots_html(_noise_plots(results["trials"]))))
    sections.append(("How it was run", facts_html(facts)))
    write_page(folder / "report.html", "Fusion benchmark", _SUBTITLE, sections)


_SUBTITLE = "Every way to weigh picture and text, on tasks whose answers are known"


def make_tables(results: dict[str, Any]) -> list[Table]:
    """All tables, in the order of the page."""
    trials, answers = results["trials"], results["answers"]
    tables = [
        _conclusions(results["conclusions"]),
        _accuracy(results),
        _by_task(
            trials,
            "The picture's Shapley share",
            "Exact two-player Shapley values of accuracy, with each modality absent in turn; the share of "
            "the mean over the seeds. A dash: nothing was gained, so nothing can be shared.",
            ("known", [_text(answer and answer["picture_share"]) for answer in answers.values()]),
            lambda trial: trial["attribution"]["picture_share"],
        ),
        _by_task(
            trials,
            "Accuracy that needs both modalities at once",
            "Accuracy of the score minus that of its additive part (EMAP), on a sample.",
            None,
            lambda trial: trial["attribution"]["emap_full"] - trial["attribution"]["emap"],
        ),
        _by_task(
            trials,
            "Accuracy with the picture shuffled",
            "Every picture replaced by another one, which may mislead where a missing one would not.",
            None,
            lambda trial: trial["attribution"]["picture_shuffled"],
        ),
        *_weights(trials),
        *_masks(trials),
        _costs(trials),
    ]
    return tables


def _conclusions(conclusions: list[dict[str, Any]]) -> Table:
    rows = []
    for one in conclusions:
        outcome = Cell("holds" if one["holds"] else "does not hold", good=one["holds"])
        rows.append([Cell(one["claim"]), outcome, Cell(one["numbers"], prose=True)])
    return Table("What is shown", "", ["Statement", "Outcome", "Numbers"], rows)


def _accuracy(results: dict[str, Any]) -> Table:
    trials, answers = results["trials"], results["answers"]
    rows = [
        [Cell("best possible"), *(Cell(_text(answer and answer["bayes"])) for answer in answers.values())]
    ]
    for method in _methods(trials):
        row = [Cell(method)]
        for task, compared in results["compared"].items():
            level_with = method == compared["best"] or compared["p_values"][method] >= LEVEL
            interval = results["intervals"][task][method]
            half = (interval["high"] - interval["low"]) / 2
            row.append(Cell(f"{interval['mean']:.3f} ±{half:.3f}", strong=level_with))
        rows.append(row)
    return Table(
        "Accuracy",
        "Mean over the seeds, ± half of its 95 % bootstrap interval. In bold: the best on a task, and those "
        "that Wilcoxon's signed-rank test over paired seeds (Holm-adjusted, 5 %) does not tell from it.",
        ["method", *trials],
        rows,
    )


def _by_task(trials: Trials, title: str, note: str, first: tuple[str, list[str]] | None, value: Any) -> Table:
    rows = [] if first is None else [[Cell(first[0]), *map(Cell, first[1])]]
    rows += [
        [Cell(method), *(Cell(_text(value(trials[task][method]))) for task in trials)]
        for method in _methods(trials)
    ]
    return Table(title, note, ["method", *trials], rows)


def _weights(trials: Trials) -> list[Table]:
    weighing = {m: t["weights"] for m, t in trials.get("conflict", {}).items() if t["weights"] is not None}
    if not weighing:
        return []
    rows = [
        [
            Cell(method),
            *(Cell(_text(float(np.mean(weights[name])))) for name in _WEIGHT_COLUMNS),
        ]
        for method, weights in weighing.items()
    ]
    return [
        Table(
            "Weights over inputs, on conflict",
            "The picture's weight on the test: its correlation with whether the picture is the honest one, "
            "its mean where it is and where it is not, and its standard deviation over the inputs; means "
            "over the seeds.",
            ["method", "correlation", "honest", "lying", "spread"],
            rows,
        )
    ]


def _masks(trials: Trials) -> list[Table]:
    here = {method: trial for method, trial in trials.get("missing", {}).items() if "unmasked" in trial}
    if not here:
        return []
    rows = []
    for method, trial in here.items():
        told, untold = accuracy_lost(trial)
        values = (
            mean_accuracy(trial, "accuracy_complete"),
            told,
            mean_accuracy(trial["unmasked"], "accuracy_complete"),
            untold,
        )
        rows.append([Cell(method), *(Cell(_text(value)) for value in values)])
    return [
        Table(
            "What a missing modality costs",
            "Accuracy with everything there, and what is lost where one modality of 30 % of the examples is "
            "another example's: for methods that are told so by the mask, and for the same without it.",
            ["method", "complete, told", "loss, told", "complete, not told", "loss, not told"],
            rows,
        )
    ]


def _costs(trials: Trials) -> Table:
    task = next(iter(trials))
    rows = [
        [
            Cell(method),
            Cell(f"{trial['parameters']:,}"),
            Cell(f"{trial['flops']:,.0f}"),
            Cell(f"{trial['step_ms']:.2f}"),
        ]
        for method, trial in trials[task].items()
    ]
    return Table(
        "Costs",
        f"On {task}: parameters with the head, floating-point operations of one score as XLA counts them, "
        "and milliseconds of one training step of all seeds together.",
        ["method", "parameters", "FLOPs", "ms a step"],
        rows,
    )


def _accuracy_plots(results: dict[str, Any]) -> list[str]:
    figures = []
    for task, row in results["trials"].items():
        rows = [(method, Interval(**results["intervals"][task][method])) for method in row]
        answer = results["answers"][task]
        low = math.floor(10 * min(0.5, *(interval.low for _, interval in rows))) / 10
        figures.append(intervals_html(task, rows, low=low, high=1.0, mark=answer and answer["bayes"]))
    return figures


def _noise_plots(trials: Trials) -> list[str]:
    figures = []
    for task, row in trials.items():
        shown = [method for method in CURVES if method in row] or list(row)[:6]
        for name, title in (("image", "picture"), ("text", "text")):
            series = [
                Series(method, row[method]["robustness"]["noise"], row[method]["robustness"][name])
                for method in shown
            ]
            figures.append(
                plot_html(
                    Plot(f"{task}: noise on the {title}", "noise, standard deviations", "accuracy", series)
                )
            )
    return figures


def _facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    trial, known = results["config"], results["versions"]
    return [
        ("Device", results["device"]),
        *((name, str(known[name])) for name in ("python", "jax", "flax", "mmrlhf_jax", "git_revision")),
        ("Seeds", str(trial["seeds"])),
        ("Training", f"{trial['steps']} steps of {trial['batch']} examples, width {trial['width']}"),
        ("Features of the pictures", results["features"]),
        ("Time, all trials", f"{results['seconds']:.0f} s"),
    ]


def _methods(trials: Trials) -> list[str]:
    return list(next(iter(trials.values())))


def _text(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"

"""report.html: a run's evidence on one page that needs nothing else."""

import dataclasses
import math
from importlib import resources
from pathlib import Path
from string import Template

from mmrlhf_jax.evaluate.report_gallery import GalleryItem, ScoredCaption, gallery_html
from mmrlhf_jax.evaluate.report_plots import Plot, Series, plot_html
from mmrlhf_jax.evaluate.report_text import NO_VALUE, duration, escape, number
from mmrlhf_jax.evaluate.tables import Table, table_html
from mmrlhf_jax.files import write_text

__all__ = ["GalleryItem", "Plot", "Report", "ResultRow", "ScoredCaption", "Series", "write_report"]


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One line of the result table.

    Attributes:
      name: the metric.
      before: its value under the starting policy (SFT), None where there is none.
      after: its value under the trained policy (RL).
      interval: the confidence interval in words, "" where there is none.
      goal: what was asked, e.g. "at least 60 %", "" where nothing was.
      met: whether the goal was met; None where there is no goal.
    """

    name: str
    before: float | str | None
    after: float | str | None
    interval: str = ""
    goal: str = ""
    met: bool | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows. Whatever is empty or None is left out together with its heading.

    Attributes:
      title: the run.
      subtitle: one sentence under it.
      facts: device, versions, command, seeds ...: (name, value).
      rows: the result table.
      curves: training curves.
      reward_against_kl: reward over sqrt(KL) to the reference policy.
      gold_against_kl: reward and gold measure of held-out pictures over sqrt(KL).
      reliability: observed over predicted preference; the diagonal is drawn for it.
      gallery: pictures with captions.
      stages: (stage, wall seconds).
      notes: one paragraph each; say here that raters are simulated when they are.
      ledger: share of each reward term in the reward's variance, over training.
      ledger_tables: what each term was at the end, and how the terms go together.
    """

    title: str
    subtitle: str = ""
    facts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    rows: list[ResultRow] = dataclasses.field(default_factory=list)
    curves: list[Plot] = dataclasses.field(default_factory=list)
    reward_against_kl: Plot | None = None
    gold_against_kl: Plot | None = None
    reliability: Plot | None = None
    gallery: list[GalleryItem] = dataclasses.field(default_factory=list)
    stages: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    ledger: Plot | None = None
    ledger_tables: list[Table] = dataclasses.field(default_factory=list)


def write_report(path: Path, report: Report) -> None:
    """Writes `report` as one HTML file, at once or not at all; the folder is made when it is not there.

    The file makes no request and runs no script (its content security policy forbids both); pictures are data
    URIs, plots inline SVG. All text is escaped. Values that are not finite show as a dash or a gap in a line.
    """
    sections = [
        ("Results", _results(report.rows)),
        ("Wall time by stage", _stages(report.stages)),
        ("Training curves", plots_html([plot_html(plot) for plot in report.curves])),
        ("What the reward is made of", _ledger(report)),
        ("Alignment", plots_html(_alignment(report), " wide")),
        ("Pictures and captions", gallery_html(report.gallery)),
        ("How it was run", facts_html(report.facts)),
        ("Notes", "".join(f"<p>{escape(note)}</p>" for note in report.notes)),
    ]
    write_page(path, report.title, report.subtitle, sections)


def write_page(path: Path, title: str, subtitle: str, sections: list[tuple[str, str]]) -> None:
    """Writes a page of (heading, HTML) sections in the report's dress; those without HTML are left out."""
    template = resources.files("mmrlhf_jax.evaluate").joinpath("report.html.in").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(title),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        sections="\n".join(_section(heading, body) for heading, body in sections if body),
    )
    write_text(Path(path), page)


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _results(rows: list[ResultRow]) -> str:
    if not rows:
        return ""
    goals = [row.met for row in rows if row.met is not None]
    verdict = f'<p class="verdict"><b>{sum(goals)} of {len(goals)}</b> goals met</p>' if goals else ""
    return (
        f'{verdict}<div class="card"><table class="results"><thead><tr><th scope="col">Metric</th>'
        '<th scope="col">Before</th><th scope="col">After</th><th scope="col">Interval</th>'
        '<th scope="col">Goal</th><th scope="col">Outcome</th></tr></thead>'
        f"<tbody>{''.join(map(_row, rows))}</tbody></table></div>"
    )


def _row(row: ResultRow) -> str:
    outcome = {
        True: '<span class="pill met">✓ met</span>',
        False: '<span class="pill missed">✗ missed</span>',
        None: '<span class="pill">no goal</span>',
    }[row.met]
    cells = [
        ("Before", number(row.before), ""),
        ("After", number(row.after), "after"),
        ("Interval", escape(row.interval) or NO_VALUE, ""),
        ("Goal", escape(row.goal) or NO_VALUE, ""),
        ("Outcome", outcome, ""),
    ]
    # On a phone each cell stands on a line of its own after its label, and those with nothing to tell go.
    return (
        f'<tr><th scope="row">{escape(row.name)}</th>'
        + "".join(
            f'<td data-label="{label}" class="{"none" if text == NO_VALUE else kind}">{text}</td>'
            for label, text, kind in cells
        )
        + "</tr>"
    )


def plots_html(figures: list[str], kind: str = "") -> str:
    """Figures side by side; `kind` " wide" makes them half as wide as the page."""
    return f'<div class="plots{kind}">{"".join(figures)}</div>' if figures else ""


def _ledger(report: Report) -> str:
    plot = plots_html([plot_html(report.ledger, wide=True)] if report.ledger else [], " wide")
    tables = "".join(f"<h3>{escape(table.title)}</h3>{table_html(table)}" for table in report.ledger_tables)
    return plot + tables


def _alignment(report: Report) -> list[str]:
    figures = []
    for plot in (report.reward_against_kl, report.gold_against_kl):
        if plot is not None:
            figures.append(plot_html(plot, wide=True))
    if report.reliability is not None:
        figures.append(plot_html(report.reliability, wide=True, diagonal=True))
    return figures


def _stages(stages: list[tuple[str, float]]) -> str:
    if not stages:
        return ""
    known = [seconds for _, seconds in stages if math.isfinite(seconds)]
    longest = max([*known, 1e-9])
    bars = "".join(
        f'<li><span>{escape(name)}</span><span class="track"><span class="bar" style="width:'
        f'{100 * seconds / longest if math.isfinite(seconds) else 0:.1f}%"></span></span>'
        f"<span>{duration(seconds)}</span></li>"
        for name, seconds in stages
    )
    total = f"<li><b>total</b><span></span><b>{duration(sum(known))}</b></li>"
    return f'<div class="card"><ul class="stages">{bars}{total}</ul></div>'


def facts_html(facts: list[tuple[str, str]]) -> str:
    """Names and values in columns."""
    if not facts:
        return ""
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<div class="card"><dl class="facts">{pairs}</dl></div>'

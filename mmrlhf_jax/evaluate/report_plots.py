"""Line plots as inline SVG that follow the page's light or dark theme.

matplotlib draws only lines, grid and tick numbers. Titles, axis names and legends are HTML, so that they wrap
on a phone, and nothing that a user wrote goes through matplotlib's mathematics or lacks a glyph in its fonts.
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmrlhf_jax.evaluate.report_text import escape

# matplotlib writes these colours, and the page's variables take their places.
_THEME = {
    "#0000a1": "var(--series-1)",
    "#0000a2": "var(--series-2)",
    "#0000a3": "var(--series-3)",
    "#0000a4": "var(--series-4)",
    "#0000a5": "var(--series-5)",
    "#0000a6": "var(--series-6)",
    "#0000b1": "var(--muted)",
    "#0000b2": "var(--line)",
}
_SERIES, (_MUTED, _LINE) = list(_THEME)[:6], list(_THEME)[6:]
_DASHES: list[Any] = [
    "solid",
    (0, (6, 1.5)),
    (0, (1.5, 1)),
    (0, (7, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    (0, (10, 2)),
]
_MOST_POINTS = 1000  # more than a plot has pixels


@dataclasses.dataclass(frozen=True)
class Series:
    """One line; `low` and `high`, given together, are drawn as a band. What is not finite leaves a gap.

    Of more than 1,000 points every second, third ... is drawn.

    Raises:
      ValueError: lengths that differ, or only one of `low` and `high`.
    """

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None

    def __post_init__(self):
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.label!r} needs both low and high, or neither")
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(lengths) > 1:
            raise ValueError(f"series {self.label!r}: x, y, low and high differ in length: {sorted(lengths)}")


@dataclasses.dataclass(frozen=True)
class Plot:
    """Some lines over one x axis."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]


def plot_html(plot: Plot, *, wide: bool = False, diagonal: bool = False) -> str:
    """A <figure> with the plot.

    Args:
      plot: at most six lines have colours and dashes of their own.
      wide: for a place half as wide as the page rather than a third.
      diagonal: draw the line y = x over 0 to 1, which a calibrated prediction follows.
    """
    legend = ""
    if len(plot.series) > 1 or diagonal:
        keys = [_legend_key(i, series.label) for i, series in enumerate(plot.series)]
        if diagonal:
            keys.append('<li><span class="swatch diagonal"></span>perfectly calibrated</li>')
        legend = f'<ul class="legend">{"".join(keys)}</ul>'
    return (
        f'<figure class="card plot"><figcaption>{escape(plot.title)}</figcaption>{legend}'
        f'<div class="axis">{escape(plot.y_label)}</div>'
        f"{_svg(plot, (5.4, 3.1) if wide else (4.4, 2.75), diagonal)}"
        f'<div class="axis x">{escape(plot.x_label)}</div></figure>'
    )


def _legend_key(index: int, label: str) -> str:
    dash = _DASHES[index % len(_DASHES)]
    pattern = "" if dash == "solid" else f' stroke-dasharray="{" ".join(str(2 * part) for part in dash[1])}"'
    return (
        f'<li><svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" stroke-width="2.5" '
        f'stroke="{_THEME[_SERIES[index % len(_SERIES)]]}"{pattern}/></svg>{escape(label)}</li>'
    )


def _svg(plot: Plot, size: tuple[float, float], diagonal: bool) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    drawn = [_draw(axes, index, series) for index, series in enumerate(plot.series)]
    if diagonal:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=11, labelcolor=_MUTED, pad=4)
    for axis in (axes.xaxis, axes.yaxis):
        formatter = ScalarFormatter(useOffset=False, useMathText=False)
        formatter.set_powerlimits((-4, 5))
        axis.set_major_formatter(formatter)
        axis.set_major_locator(MaxNLocator(5))
        axis.get_offset_text().set(color=_MUTED, size=11)
    axes.margins(x=0.02, y=0.08)
    if not any(drawn):
        axes.text(0.5, 0.5, "no finite values", size=11, color=_MUTED, ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])

    buffer = io.StringIO()
    # "none" keeps tick numbers as text; the salt keeps the identifiers of two plots on a page apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": repr(plot.title)}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_page(buffer.getvalue(), plot.title)


def _draw(axes: Any, index: int, series: Series) -> bool:
    """Draws one line; False when it has no finite point."""
    step = max(1, -(-len(series.x) // _MOST_POINTS))
    x, y = _finite(series.x)[::step], _finite(series.y)[::step]
    color, dash = _SERIES[index % len(_SERIES)], _DASHES[index % len(_DASHES)]
    points = int(np.sum(np.isfinite(x) & np.isfinite(y)))
    if points == 0:
        return False
    if series.low is not None and series.high is not None:
        low, high = _finite(series.low)[::step], _finite(series.high)[::step]
        axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
    # Few points are measurements rather than a curve: show each.
    marker = "o" if points <= 15 else None
    axes.plot(x, y, color=color, linestyle=dash, linewidth=1.8, marker=marker, markersize=4)
    return True


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """NaN for whatever no float32 run can have measured; the axis limits would overflow on it."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(values) < 1e38, values, np.nan)


def _for_page(svg: str, title: str) -> str:
    """The <svg> element alone: no prologue, no namespaces (HTML has its own), no repeated identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", svg, count=1)
    for color, variable in _THEME.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)

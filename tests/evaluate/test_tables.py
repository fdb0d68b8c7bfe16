"""Tables as Markdown and HTML, and intervals as SVG."""

import re

import pytest

from mmrlhf_jax.evaluate.bootstrap import Interval
from mmrlhf_jax.evaluate.interval_plot import intervals_html
from mmrlhf_jax.evaluate.tables import Cell, Table, table_html, table_markdown

TABLE = Table(
    "Accuracy",
    "Over <seeds>.",
    ["method", "a|b", "c"],
    [[Cell("late"), Cell("0.5", strong=True), Cell("")], [Cell("x<y"), Cell("1", good=False), Cell("2")]],
)


def test_markdown():
    assert table_markdown(TABLE).splitlines() == [
        "## Accuracy",
        "",
        "Over <seeds>.",
        "",
        "| method | a\\|b | c |",
        "| --- | --- | --- |",
        "| late | **0.5** | \N{EN DASH} |",
        "| x<y | 1 | 2 |",
    ]


def test_html_is_escaped_and_marked():
    html = table_html(TABLE)
    assert "Over &lt;seeds&gt;." in html and "x&lt;y" in html and "<y" not in html
    assert '<td class="strong">0.5</td>' in html and '<td class="missed">1</td>' in html
    assert html.count("<tr>") == 3 and html.count('scope="row"') == 2


def test_rows_fit_their_header():
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        Table("t", "", ["a", "b"], [[Cell("1")]])


def test_intervals_lie_where_they_belong():
    html = intervals_html(
        "t", [("half", Interval(0.5, 0.0, 1.0)), ("<b>", Interval(1.0, 1.0, 2.0))], low=0, high=1
    )
    circles = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', html)]
    ticks = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle"', html)]
    assert circles == [ticks[2], ticks[4]] and "&lt;b&gt;" in html
    spans = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="(\d+.\d)" y2="\3"', html)
    assert [tuple(map(float, span[:2])) for span in spans] == [(ticks[0], ticks[4]), (ticks[4], ticks[4])]
    with pytest.raises(ValueError, match="no length"):
        intervals_html("t", [], low=1, high=1)

import base64
import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.evaluate.report import (
    GalleryItem,
    Plot,
    Report,
    ResultRow,
    ScoredCaption,
    Series,
    write_report,
)
from mmrlhf_jax.evaluate.report_plots import plot_html
from mmrlhf_jax.evaluate.report_text import duration, number
from mmrlhf_jax.evaluate.tables import Cell, Table

VOID = {"meta", "link", "img", "br"}
NASTY = "<script>alert('x')</script> & \"$title\" $\\frac{ \N{CAT FACE}"


class Page(HTMLParser):
    """Checks that tags balance, and gathers what the tests ask about."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.cells = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(8, 8, channels), dtype=np.uint8)


def item(
    sft: float, rl: float, split: str = "held-out combinations", text: str = "woman judge"
) -> GalleryItem:
    captions = [
        ScoredCaption("SFT", "man judge", sft, {"fluency": -1.5, "image accuracy": 0.25}),
        ScoredCaption("RL", text, rl, {"fluency": -1.25, "human preference": 0.5}),
    ]
    return GalleryItem(picture(), "woman judge: dark skin tone", split, captions)


LINE = Plot("Reward", "step", "reward", [Series("total", [0, 1, 2], [0.1, 0.2, 0.4], [0, 0, 0], [1, 1, 1])])
FULL = Report(
    title="Captioner",
    subtitle="One sentence.",
    facts=[("device", "2 CPU cores"), ("seeds", "0, 1, 2")],
    rows=[
        ResultRow("gold rubric score", 0.512, 0.634, "[+0.1, +0.14]", "above zero", True),
        ResultRow("KL", None, 7.25, "", "at most 6", False),
        ResultRow("BLEU-4", 0.3125, float("nan")),
    ],
    curves=[LINE],
    reward_against_kl=dataclasses.replace(LINE, title="Reward against KL"),
    reliability=dataclasses.replace(LINE, title="Calibration"),
    gallery=[item(0.3, 0.9), item(0.8, 0.4, "unseen concepts"), item(0.5, 0.5, "unseen concepts")],
    stages=[("sft", 92.4), ("ppo", 188.9)],
    notes=["Judgements come from simulated raters."],
)


def write(tmp_path, report: Report) -> str:
    path = tmp_path / "new" / "report.html"
    write_report(path, report)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_everything_is_on_the_page(tmp_path):
    page = Page(write(tmp_path, FULL))
    for text in ("Captioner", "One sentence.", "2 CPU cores", "0, 1, 2", "1 of 2 goals met"):
        assert text in page.text
    rows = [page.cells[i : i + 6] for i in range(0, 24, 6)]
    assert rows[1:] == [
        ["gold rubric score", "0.512", "0.634", "[+0.1, +0.14]", "above zero", "✓ met"],
        ["KL", "\u2013", "7.250", "\u2013", "at most 6", "✗ missed"],
        ["BLEU-4", "0.312", "\u2013", "\u2013", "\u2013", "no goal"],
    ]
    assert "Judgements come from simulated raters." in page.text
    assert "4 min 41 s" in page.text  # the stages' total
    assert page.tags.count("img") == 3
    assert sum((tag, name, value) == ("svg", "role", "img") for tag, name, value in page.attributes) == 3


def test_the_page_is_self_contained(tmp_path):
    text = write(tmp_path, FULL)
    page = Page(text)
    assert "http://" not in text and "https://" not in text
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_identifiers_are_unique_and_all_references_resolve(tmp_path):
    page = Page(write(tmp_path, FULL))
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    used = [value[1:] for _, name, value in page.attributes if name == "xlink:href"]
    used += [m for _, _, value in page.attributes for m in re.findall(r"url\(#([^)]*)\)", value or "")]
    assert used and set(used) <= set(identifiers)


def test_what_users_write_is_shown_and_not_obeyed(tmp_path):
    nasty_plot = Plot(NASTY, NASTY, NASTY, [Series(NASTY, [0, 1], [0, 1]), Series(NASTY, [0, 1], [1, 0])])
    caption = ScoredCaption(NASTY, NASTY, 0.5, {NASTY: 1.0})
    report = Report(
        NASTY,
        NASTY,
        [(NASTY, NASTY)],
        [ResultRow(NASTY, NASTY, NASTY, NASTY, NASTY, True)],
        [nasty_plot],
        nasty_plot,
        nasty_plot,
        nasty_plot,
        [GalleryItem(picture(), NASTY, NASTY, [caption])],
        [(NASTY, 1.0)],
        [NASTY],
    )
    text = write(tmp_path, report)
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    # title 2, subtitle, fact 2, row 5, plots 4 x 5, gallery (split, name, label 2, text, term), stage, note
    assert page.text.count(NASTY) >= 2 + 1 + 2 + 5 + 20 + 6 + 1 + 1
    assert ("img", "alt", NASTY) in page.attributes


def test_the_better_caption_is_marked_in_words(tmp_path):
    page = Page(write(tmp_path, FULL))
    assert "RLbetterwoman judge" in page.text
    assert "SFTbetterman judge" in page.text
    assert "1 picture: RL better 1" in page.text
    assert "2 pictures: SFT better 1, no difference 1" in page.text


@pytest.mark.parametrize("scores", [(0.5, 0.5), (np.nan, 0.5), (0.5, np.inf)])
def test_no_caption_is_better_on_ties_or_missing_scores(tmp_path, scores):
    page = Page(write(tmp_path, Report("t", gallery=[item(*scores)])))
    assert "no difference 1" in page.text
    assert "better" not in page.text


def test_terms_are_a_table_with_a_dash_for_what_a_policy_lacks(tmp_path):
    page = Page(write(tmp_path, Report("t", gallery=[item(0.3, 0.9)])))
    assert page.cells == [
        *("Term", "SFT", "RL"),
        *("gold rubric (simulated raters)", "0.300", "0.900"),
        *("fluency", "\u22121.500", "\u22121.250"),
        *("image accuracy", "0.250", "\u2013"),
        *("human preference", "\u2013", "0.500"),
    ]


def test_the_ledger_is_a_plot_and_its_tables(tmp_path):
    tables = [
        Table("Terms", "Means.", ["Term", "Share"], [[Cell("fluency"), Cell("0.250")]]),
        Table(NASTY, "", ["Term", NASTY], [[Cell("length"), Cell("")]]),
    ]
    plot = dataclasses.replace(LINE, title="Shares")
    page = Page(write(tmp_path, Report("t", ledger=plot, ledger_tables=tables)))
    assert "What the reward is made of" in page.text and "Shares" in page.text and "Means." in page.text
    assert page.cells == ["Term", "Share", "fluency", "0.250", "Term", NASTY, "length", "\u2013"]
    assert page.text.count(NASTY) == 2


def test_empty_parts_are_left_out_with_their_headings(tmp_path):
    page = Page(write(tmp_path, Report("Only a title")))
    assert "h2" not in page.tags and "section" not in page.tags
    assert "Simulated raters follow a written rubric with noise; they are not people." in page.text


def test_an_empty_caption_says_so(tmp_path):
    assert "(empty)" in Page(write(tmp_path, Report("t", gallery=[item(0.3, 0.9, text=" ")]))).text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_come_back_pixel_by_pixel(tmp_path, channels):
    image = picture(3, channels)
    page = Page(write(tmp_path, Report("t", gallery=[GalleryItem(image, "noise", "any", [])])))
    (source,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
    np.testing.assert_array_equal(decoded.reshape(image.shape), image)


@pytest.mark.parametrize(
    "y",
    [[np.nan] * 3, [np.inf, -np.inf, 1.0], [1.0, np.nan, 2.0], [1e308, -1e308, 0.0], [5.0, 5.0, 5.0]],
)
def test_values_that_are_not_finite_break_neither_plot_nor_page(tmp_path, y):
    plot = Plot("Loss", "step", "loss", [Series("loss", [0, 1, 2], y, y, y), Series("none", [], [])])
    report = Report("t", curves=[plot], reliability=plot, stages=[("sft", float("nan")), ("ppo", 1.0)])
    page = Page(write(tmp_path, report))
    assert page.tags.count("figure") == 2
    assert ("no finite values" in page.text) == (not np.isfinite(y).any())
    assert not any("nan" in (value or "") for tag, _, value in page.attributes if tag == "path")


def test_a_line_is_broken_where_a_value_is_missing():
    whole = plot_html(Plot("a", "x", "y", [Series("s", np.arange(100), np.arange(100.0))]))
    y = np.arange(100.0)
    y[50] = np.nan
    broken = plot_html(Plot("a", "x", "y", [Series("s", np.arange(100), y)]))
    line = r'<path d="([^"]*)"[^>]*stroke: var\(--series-1\)'
    assert re.findall(line, whole)[0].count("M") == 1
    assert re.findall(line, broken)[0].count("M") == 2


def test_long_curves_stay_small():
    x = np.arange(200_000)
    noise = np.random.default_rng(0).normal(size=200_000)
    assert len(plot_html(Plot("a", "x", "y", [Series("s", x, noise, noise - 1, noise + 1)]))) < 200_000


def test_plots_take_their_colours_from_the_page():
    html = plot_html(LINE, diagonal=True)
    colours = set(re.findall(r"(?:fill|stroke): *([^;\"]+)", html))
    assert {"var(--series-1)", "var(--muted)", "var(--line)"} <= colours
    assert not any(colour.startswith("#") for colour in colours)
    assert "perfectly calibrated" in html


def test_bad_series_and_pictures_are_told():
    with pytest.raises(ValueError, match=r"'total'.*differ in length"):
        Series("total", [0, 1], [0])
    with pytest.raises(ValueError, match="both low and high"):
        Series("total", [0], [0], low=[0])
    with pytest.raises(ValueError, match="uint8 HxWxC"):
        GalleryItem(np.zeros((8, 8, 3), np.float32), "dog", "any", [])
    with pytest.raises(ValueError, match="uint8 HxWxC"):
        GalleryItem(np.zeros((3, 8, 8), np.uint8), "dog", "any", [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (float("inf"), "\u2013"),
        (-0.5, "\u22120.500"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1234567, "1.235e+06"),
        (-0.00012345, "\u22120.0001234"),
        (np.float32(2.5), "2.500"),
        ("66 % <", "66 % &lt;"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.25, "1.2 s"),
        (59.97, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (float("nan"), "\u2013"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_importing_the_report_loads_neither_jax_nor_matplotlib():
    code = (
        "import sys, mmrlhf_jax.evaluate.report, mmrlhf_jax.evaluate.captions, mmrlhf_jax.evaluate.summary;"
        "sys.exit(str({'jax', 'matplotlib', 'PIL'} & set(sys.modules)) if "
        "{'jax', 'matplotlib', 'PIL'} & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

"""The ledger's plot and tables, from metrics files as a run leaves them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.training.report_ledger import read_ledger


def write_metrics(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(step: int, shares: dict[str, float | None], correlation: float | None = 0.1) -> dict:
    terms = {f"rewards/{name}/share": share for name, share in shares.items()}
    means = {
        f"rewards/{name}/{kind}": value
        for name in shares
        for kind, value in (("mean", 2.0), ("normalised", -1.5), ("weighted", 0.25))
    }
    pairs = {
        "rewards/correlation/fluency/image_accuracy": correlation,
        "rewards/correlation/fluency/length": None,
    }
    return (
        {"step": step, "objective/kl": 0.1}
        | terms
        | means
        | pairs
        | {"rewards/correlation/image_accuracy/length": -0.75}
    )


SHARES = {"fluency": 0.2, "image_accuracy": 0.8, "length": 0.0}


def test_shares_are_drawn_as_mean_and_range_over_seeds(tmp_path):
    one = write_metrics(tmp_path / "a", [row(1, SHARES), row(2, SHARES), row(3, SHARES)])
    other = SHARES | {"fluency": 0.6, "image_accuracy": 0.4}
    two = write_metrics(tmp_path / "b", [row(2, other), row(3, dict.fromkeys(SHARES))])
    plot, _ = read_ledger([one, two])
    # "length" never had a share; the largest comes first; step 1 is known of one seed alone
    assert [series.label for series in plot.series] == ["image accuracy", "fluency"]
    for series, low, high in zip(plot.series, (0.4, 0.2), (0.8, 0.6), strict=True):
        assert list(series.x) == [2, 3]
        np.testing.assert_allclose(series.y, [(low + high) / 2, np.nan])
        np.testing.assert_allclose(series.low, [low, np.nan])
        np.testing.assert_allclose(series.high, [high, np.nan])
    alone, _ = read_ledger([one])
    assert alone.series[0].low is None and list(alone.series[0].y) == [0.8] * 3


def test_no_more_lines_than_colours(tmp_path):
    shares = {f"term{i}": i / 45 for i in range(10)}
    plot, _ = read_ledger([write_metrics(tmp_path / "a", [row(1, shares)])])
    assert [series.label for series in plot.series] == [f"term{i}" for i in (9, 8, 7, 6, 5, 4)]


def test_the_tables_are_those_of_the_last_step(tmp_path):
    first = {"fluency": 0.9, "image_accuracy": 0.1, "length": 0.0}
    path = write_metrics(tmp_path / "a", [row(1, first), row(2, SHARES, 0.5)])
    _, (terms, correlations) = read_ledger([path])
    texts = [[cell.text for cell in cells] for cells in terms.rows]
    assert texts[1] == ["image accuracy", "2.000", "\u22121.500", "0.250", "0.800"]
    assert len(texts) == 3 and len(terms.header) == 5
    texts = [[cell.text for cell in cells] for cells in correlations.rows]
    assert correlations.header == ["Term", "fluency", "image accuracy", "length"]
    assert texts == [
        ["fluency", "1", "0.500", "\u2013"],
        ["image accuracy", "0.500", "1", "\u22120.750"],
        ["length", "\u2013", "\u22120.750", "1"],
    ]
    assert [cell.strong for cell in correlations.rows[1]] == [False, True, False, True]


@pytest.mark.parametrize("rows", [[], [{"step": 1, "rewards/fluency/mean": 1.0}]])
def test_a_run_without_a_ledger_shows_none(tmp_path, rows):
    good = write_metrics(tmp_path / "a", [row(1, SHARES)])
    assert read_ledger([good, write_metrics(tmp_path / "b", rows)]) == (None, [])

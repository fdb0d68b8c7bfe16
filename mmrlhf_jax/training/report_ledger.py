"""What the report shows of the reward's ledger: shares over training, and the terms at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.evaluate.report import Plot, Series
from mmrlhf_jax.evaluate.report_text import number
from mmrlhf_jax.evaluate.tables import Cell, Table
from mmrlhf_jax.runtime.metrics import read_metrics

MOST_LINES = 6  # so many have colours of their own
STRONG = 0.5  # correlations from here on are in bold

_COLUMNS = {"mean": "Mean", "normalised": "Normalised", "weighted": "Weighted", "share": "Share of variance"}


def read_ledger(paths: Sequence[Path]) -> tuple[Plot | None, list[Table]]:
    """Plot and tables of the metrics files of all seeds; nothing where a run logged no ledger."""
    runs = [[row for row in read_metrics(path) if _terms(row)] for path in paths]
    if not all(runs):
        return None, []
    return shares(runs), [last_terms(runs), last_correlations(runs)]


def shares(runs: list[list[dict[str, Any]]]) -> Plot:
    """Share of each term in the variance of the reward: mean and range over seeds, the largest few terms."""
    by_step = [{row["step"]: row for row in rows} for rows in runs]
    steps = sorted(set.intersection(*(set(rows) for rows in by_step)))
    values = {
        term: np.array([[_value(rows[step], f"rewards/{term}/share") for step in steps] for rows in by_step])
        for term in _terms(runs[0][-1])
    }
    size = {term: np.abs(np.nan_to_num(share_KxS)).sum() for term, share_KxS in values.items()}
    largest = sorted((term for term in values if size[term]), key=lambda term: -size[term])[:MOST_LINES]
    series = [
        Series(
            _spoken(term),
            steps,
            values[term].mean(axis=0),
            *((values[term].min(axis=0), values[term].max(axis=0)) if len(runs) > 1 else ()),
        )
        for term in largest
    ]
    return Plot("Share of each term in the reward's variance", "step", "share", series)


def last_terms(runs: list[list[dict[str, Any]]]) -> Table:
    """Each term in the last logged step, mean over seeds."""
    rows = [
        [Cell(_spoken(term)), *(Cell(number(_last(runs, f"rewards/{term}/{kind}"))) for kind in _COLUMNS)]
        for term in _terms(runs[0][-1])
    ]
    note = (
        "Mean of each term over the last step's captions: in its own unit, in units of its spread under the "
        "SFT policy, and times its weight. The share says what the differences between captions are made of; "
        "a negative one works against the others."
    )
    return Table("Terms in the last step", note, ["Term", *_COLUMNS.values()], rows)


def last_correlations(runs: list[list[dict[str, Any]]]) -> Table:
    """Correlations between the terms over the captions of the last logged step, mean over seeds."""
    terms = _terms(runs[0][-1])

    def cell(one: int, other: int) -> Cell:
        if one == other:
            return Cell("1")
        low, high = sorted((one, other))
        value = _last(runs, f"rewards/correlation/{terms[low]}/{terms[high]}")
        return Cell(number(value), strong=abs(value) >= STRONG)

    rows = [[Cell(_spoken(term)), *(cell(i, j) for j in range(len(terms)))] for i, term in enumerate(terms)]
    note = f"Over the last step's captions; in bold from {STRONG} on. A dash: one of the two never varied."
    return Table("Correlations in the last step", note, ["Term", *map(_spoken, terms)], rows)


def _terms(row: dict[str, Any]) -> list[str]:
    return [name.split("/")[1] for name in row if name.startswith("rewards/") and name.endswith("/share")]


def _value(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return np.nan if value is None else float(value)


def _last(runs: list[list[dict[str, Any]]], name: str) -> float:
    return float(np.mean([_value(rows[-1], name) for rows in runs]))


def _spoken(term: str) -> str:
    return term.replace("_", " ")

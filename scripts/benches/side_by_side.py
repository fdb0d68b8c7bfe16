"""Two ways to do the same work, measured in turn, and the table and the file that come of it."""

import argparse
import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from mmrlhf_jax.files import as_plain, write_text
from mmrlhf_jax.runtime.platform import device_name, git_revision, versions

# Dense bf16 peak in FLOP/s by the beginning of the device's name, from NVIDIA's data sheets.
PAUSE = 0.3  # seconds between the sides: OpenMP threads spin on after a call and would hold the other side up
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10": 125e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of work.

    Attributes:
      amount: how many of `unit` one call does, e.g. 32 of "pictures".
      ours: does it once, to the end.
      theirs: the peer's way; None: there is no peer.
      flops: of one call of ours, for the share of the device's peak; None: not counted.
      limit: the rate that memory bandwidth allows; None: does not matter.
      difference: largest difference of the two sides' results.
      goal: ratio to the peer that is aimed at; None: none is named.
    """

    name: str
    unit: str
    amount: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None = None
    flops: float | None = None
    limit: float | None = None
    difference: float | None = None
    goal: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured: seconds of every repetition, units a second by the median."""

    name: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float | None
    goal: float | None
    limit: float | None
    share_of_limit: float | None
    mfu: float | None
    difference: float | None
    ours_seconds: list[float]
    theirs_seconds: list[float]


def measure(case: Case, repetitions: int) -> Row:
    """Runs both sides twice to warm up, then in turn."""
    sides = [case.ours] if case.theirs is None else [case.ours, case.theirs]
    for side in sides * 2:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(repetitions):
        for side, times in zip(sides, seconds, strict=True):
            if len(sides) > 1:
                time.sleep(PAUSE)
            times.append(seconds_of(side))
    rates = [case.amount / statistics.median(times) for times in seconds]
    theirs = rates[1] if len(rates) > 1 else None
    peak = peak_flops()
    return Row(
        name=case.name,
        unit=case.unit,
        ours=rates[0],
        theirs=theirs,
        ratio=None if theirs is None else rates[0] / theirs,
        goal=case.goal,
        limit=case.limit,
        share_of_limit=None if case.limit is None else rates[0] / case.limit,
        mfu=None if case.flops is None or peak is None else case.flops * rates[0] / case.amount / peak,
        difference=case.difference,
        ours_seconds=seconds[0],
        theirs_seconds=seconds[1] if len(seconds) > 1 else [],
    )


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_flops() -> float | None:
    """The device's dense bf16 peak in FLOP/s; None where it is not known, as on CPUs."""
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in PEAKS.items() if kind.startswith(name)), None)


def flops_of(compiled: Any) -> float | None:
    """FLOPs of one call of a compiled function, by XLA's count; None where it does not say."""
    analysis = compiled.cost_analysis()
    return analysis.get("flops") if isinstance(analysis, dict) else None


def has_peers(arguments: argparse.Namespace) -> bool:
    """Whether torch is there and wanted."""
    return not arguments.no_peers and importlib.util.find_spec("torch") is not None


def report(
    title: str, cases: Iterable[Case], arguments: argparse.Namespace, extra: dict[str, Any]
) -> list[Row]:
    """Measures one case after the other, prints the table, and writes the file that `--json` names."""
    console, rows = Console(width=max(170, Console().width)), []
    for case in cases:
        rows.append(measure(case, arguments.repetitions))
        console.print(f"[dim]{case.name}: {rows[-1].ours:.4g} {case.unit}/s[/dim]")
    table = Table(title=f"{title} ({device_name()}, {arguments.threads} threads, {arguments.dtype})")
    for column in ("work", "unit", "this package", "peer", "ratio", "goal", "of bandwidth limit", "MFU"):
        table.add_column(column, justify="left" if column in ("work", "unit") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.unit}/s",
            f"{row.ours:.4g}",
            "" if row.theirs is None else f"{row.theirs:.4g}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            "" if row.goal is None else f"{row.goal:.2f}",
            "" if row.share_of_limit is None else f"{row.share_of_limit:.0%} of {row.limit:.4g}",
            "" if row.mfu is None else f"{row.mfu:.1%}",
        )
    console.print(table)
    if arguments.json is not None:
        write_text(arguments.json, _json(title, rows, arguments, extra))
    if arguments.check:
        check(rows)
    return rows


def check(rows: Iterable[Row]) -> None:
    """Raises SystemExit with status 1 where a ratio is more than 10 % short of its goal."""
    short = [
        f"{row.name}: {row.ratio:.2f}, goal {row.goal:.2f}"
        for row in rows
        if row.goal is not None and row.ratio is not None and row.ratio < 0.9 * row.goal
    ]
    if short:
        print("short of the goal by more than 10 %: " + "; ".join(short))
        raise SystemExit(1)


def _json(title: str, rows: list[Row], arguments: argparse.Namespace, extra: dict[str, Any]) -> str:
    import json

    found = versions()
    for name in ("torch", "transformers", "trl", "stable-baselines3"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    content = {
        "title": title,
        "machine": device_name(),
        "threads": arguments.threads,
        "dtype": arguments.dtype,
        "attention": arguments.attention,
        "preset": arguments.preset,
        "repetitions": arguments.repetitions,
        "revision": git_revision(),
        "versions": found,
        **extra,
        "rows": rows,
    }
    return json.dumps(as_plain(content), indent=2) + "\n"

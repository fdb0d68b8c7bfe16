"""The annotation server under load: many raters at once over loopback, and kills that must lose nothing."""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benches.raters import ServerProcess, Storm, latency
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from mmrlhf_jax.files import write_text
from mmrlhf_jax.runtime.platform import device_name, git_revision, versions

STORMS = {
    "full": Storm(raters=50, judgements=20_000, kills=3, think=0.2),
    "smoke": Storm(raters=4, judgements=60, kills=1, think=0.02),
}
GOAL = 0.050  # seconds, of the 99th percentile


def run(arguments: argparse.Namespace) -> None:
    """One storm: prints how fast judgements were acknowledged, and whether all that were are stored once."""
    storm = STORMS[arguments.preset]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        prepare(path, storm)
        server = ServerProcess(path, os.environ)
        start = time.perf_counter()
        try:
            people = storm.rage(server)
        finally:
            server.kill()
        seconds = time.perf_counter() - start
        with Store(path) as store:
            stored = [row.key for row in store.standing()]
    acknowledged = [key for rater in people for key in rater.acknowledged]
    milliseconds = {
        name: {f"p{100 * share:g}": 1000 * latency(people, path, share) for share in (0.5, 0.9, 0.99, 1.0)}
        for name, path in (("judgement", "/api/judgements"), ("next items", "/api/tasks"))
    }
    result = {
        "judgements": len(acknowledged),
        "lost": len(set(acknowledged) - set(stored)),
        "twice": len(stored) - len(set(stored)),
        "seconds": seconds,
        "per_second": len(acknowledged) / seconds,
        "milliseconds": milliseconds,
    }
    report(storm, result, arguments)


def prepare(path: Path, storm: Storm) -> None:
    """A store with something to judge for everyone."""
    with Store(path) as store, store.transaction():
        store.add_raters([f"rater-{i}" for i in range(storm.raters)])
        store.add_items([Item("compare", "which?", ("x", "y")) for _ in range(storm.judgements)])


def report(storm: Storm, result: dict, arguments: argparse.Namespace) -> None:
    """Prints the table, writes the file that `--json` names; `--check` ends with status 1 off the goal."""
    columns = ("p50", "p90", "p99", "p100")
    table = Table(title=f"annotation ({device_name()}, {arguments.threads} threads for server and raters)")
    for column in ("milliseconds until answered", *columns, "goal of p99"):
        table.add_column(column, justify="right" if column != "milliseconds until answered" else "left")
    for name, times in result["milliseconds"].items():
        goal = f"{1000 * GOAL:g}" if name == "judgement" else ""
        table.add_row(name, *(f"{times[column]:.1f}" for column in columns), goal)
    Console(width=max(120, Console().width)).print(table)
    rate = f"{result['judgements']} in {result['seconds']:.1f} s ({result['per_second']:.0f}/s)"
    lost = f"{result['lost']} lost, {result['twice']} twice"
    print(f"{storm.raters} raters, {storm.kills} kills: judgements acknowledged {rate}, {lost}")
    if arguments.json is not None:
        machine = {"machine": device_name(), "threads": arguments.threads, "preset": arguments.preset}
        content = {
            "title": "annotation",
            **machine,
            "revision": git_revision(),
            "versions": versions(),
            **result,
        }
        write_text(arguments.json, json.dumps(content, indent=2) + "\n")
    p99 = result["milliseconds"]["judgement"]["p99"]
    if result["lost"] or result["twice"] or (arguments.check and p99 > 1000 * GOAL):
        print(f"short of the goal: p99 {p99:.1f} ms, {lost}")
        raise SystemExit(1)

"""Many simulated raters at once over HTTP, and a server that is killed meanwhile: nothing is lost."""

from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from scripts.benches.raters import ServerProcess, Storm, latency


@pytest.mark.parametrize(
    "storm",
    [
        pytest.param(Storm(raters=8, judgements=240, kills=2, think=0.05), marks=pytest.mark.medium),
        pytest.param(Storm(raters=50, judgements=20_000, kills=3, think=0.2), marks=pytest.mark.soak),
    ],
    ids=["small", "whole"],
)
def test_a_storm_of_raters(tmp_path: Path, user_environment: dict[str, str], storm: Storm):
    path = tmp_path / "store.sqlite"
    with Store(path) as store, store.transaction():
        store.add_raters([f"rater-{i}" for i in range(storm.raters)])
        store.add_items([Item("compare", "which?", ("x", "y")) for _ in range(storm.judgements)])
    server = ServerProcess(path, user_environment)
    try:
        people = storm.rage(server)
    finally:
        server.kill()
    assert len(people) == storm.raters
    with Store(path) as store:
        rows = store.standing()
    acknowledged = [key for person in people for key in person.acknowledged]
    assert len(acknowledged) == len(rows) == storm.judgements
    assert sorted(row.key for row in rows) == sorted(acknowledged)
    assert len({row.item for row in rows}) == storm.judgements  # leases held: nothing was judged by two
    p99 = latency(people, "/api/judgements", 0.99)
    print(f"{storm}: p99 {1000 * p99:.1f} ms, {sum(person.repeated for person in people)} sent again")

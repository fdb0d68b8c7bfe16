"""A journal is the same after a resume."""

import json
from pathlib import Path

from mmrlhf_jax.runtime.journal import Journal


def test_what_was_noted_from_a_step_on_is_forgotten(tmp_path: Path):
    journal = Journal(tmp_path / "members" / "0" / "watch.jsonl")
    assert journal.read(10) == []
    for step in (0, 5, 10):
        journal.add(step, {"x": [0.1 * step, 1 / 3]})
    assert [record["step"] for record in journal.read(5)] == [0, 5]
    journal.add(5, {"x": "again"})  # as a run does that had saved before step 5
    assert journal.read(10) == [{"step": 0, "x": [0.0, 1 / 3]}, {"step": 5, "x": "again"}]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    journal = Journal(tmp_path / "watch.jsonl")
    journal.add(1, {"x": 1})
    with open(journal.path, "a") as file:
        file.write(json.dumps({"step": 2})[:5])
    assert [record["step"] for record in journal.read(9)] == [1]

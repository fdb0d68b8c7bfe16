import json
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.evaluate.summary import write_summary
from mmrlhf_jax.files import write_text


def refuse(constant: str):
    raise AssertionError(f"{constant} is not strict JSON")


def test_numbers_come_back_and_non_finite_ones_are_null(tmp_path):
    path = tmp_path / "new" / "summary.json"
    write_summary(
        path,
        {
            "wall_seconds": {"sft": np.float32(1.5), "clip": 2},
            "kl": float("nan"),
            "gold.gain_ci95": (np.float64(0.25), np.inf),
            "scores": np.array([[1.0, np.nan]]),
            "met": np.bool_(True),
            "steps": np.int32(7),
            "run": Path("runs/first"),
            "note": None,
        },
    )
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "wall_seconds": {"sft": 1.5, "clip": 2},
        "kl": None,
        "gold.gain_ci95": [0.25, None],
        "scores": [[1.0, None]],
        "met": True,
        "steps": 7,
        "run": "runs/first",
        "note": None,
    }


def test_keys_are_sorted_at_every_depth(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {"b": 1, "a": {"d": 1, "c": 2}})
    pairs = json.loads(path.read_text(), object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    assert pairs == ["a", "b"]
    assert path.read_text().index('"c"') < path.read_text().index('"d"')


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_summary(path, {"a": 1})

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_summary(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_reader_of_the_old_file_never_meets_half_of_the_new_one(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {"a": 1})
    with open(path) as reader:
        write_summary(path, {"b": 2})
        assert json.load(reader) == {"a": 1}
    assert json.loads(path.read_text()) == {"b": 2}


def test_lone_surrogates_do_not_break_the_file(tmp_path):
    write_text(tmp_path / "page.html", "caf\u00e9 \ud800")
    assert (tmp_path / "page.html").read_bytes() == "café ?".encode()


@pytest.mark.parametrize("summary", [{1: "one"}, {"a": object()}, {"a": {2: 3}}])
def test_other_kinds_are_refused(tmp_path, summary):
    with pytest.raises(TypeError, match=r"keys must be strings|has no form"):
        write_summary(tmp_path / "summary.json", summary)
    assert not any(tmp_path.iterdir())

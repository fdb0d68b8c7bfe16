"""A small soak: PPO killed twice and resumed, and ten kinds of damage to its checkpoints."""

import json
import random
from pathlib import Path

import pytest

from scripts import soak


@pytest.mark.soak
def test_kills_and_damage_change_nothing(
    smoke_run: Path, tmp_path: Path, user_environment, monkeypatch, capsys
):
    for name, value in user_environment.items():
        monkeypatch.setenv(name, value)
    for name in ("XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "soak"
    flags = ["--run", str(smoke_run), "--out", str(out), "--kills", "2", "--corruptions", "10"]
    assert soak.main(flags) == 0, capsys.readouterr().out
    result = json.loads((out / "soak.json").read_text())
    assert [kill["status"] for kill in result["kills"]] == [-9, -9]
    assert result["differences"] == [] and len(result["corruptions"]) == 10
    assert {one["fate"] for one in result["corruptions"]} == {"detected"}
    assert "bit-equal" in capsys.readouterr().out


@pytest.mark.parametrize("kind", soak.KINDS)
def test_every_kind_of_damage_changes_the_file(kind, tmp_path):
    for seed in range(20):
        path = tmp_path / f"{seed}"
        path.write_bytes(b"\0\1\2")
        soak.damage(path, kind, random.Random(seed))
        assert not path.exists() or path.read_bytes() != b"\0\1\2"


def test_differences_are_found(tmp_path):
    for name, weights, loss in (("a", b"1", 1.0), ("b", b"1", 1.0), ("c", b"2", 1.0), ("d", b"1", 2.0)):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "w").write_bytes(weights)
        (tmp_path / name / "metrics.jsonl").write_text(f'{{"loss": {loss}, "time": {id(name)}}}\n')
        (tmp_path / name / "result.json").write_text(f'{{"wall_seconds": {id(loss)}}}')
    wanted = {"b": [], "c": ["model/w"], "d": ["metrics.jsonl"]}
    assert {name: soak.differences(tmp_path / "a", tmp_path / name) for name in wanted} == wanted

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import as_plain
from mmrlhf_jax.runtime import folder as folder_module
from mmrlhf_jax.runtime.folder import StageFolder, read_config, read_result


@dataclass(frozen=True)
class StageConfig:
    preset: str = "smoke"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    layers: tuple[int, ...] = (64, 32)
    data: Path = Path("data/emoji.parquet")
    note: str | None = None
    resume: bool = False
    log_every: int = 10


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until a test moves it."""
    now = [1_000_000.0]
    monkeypatch.setattr(folder_module.time, "time", lambda: now[0])
    return now


def start(path, config=None, *, resume=False):
    return StageFolder.open(path, config or StageConfig(), resume=resume)


def test_a_new_folder_records_config_versions_and_command(tmp_path):
    path = tmp_path / "runs" / "a" / "seed_0" / "sft"
    config = StageConfig(optimizer=OptimizerConfig(eps=1e-5))
    with start(path, config) as folder:
        assert (path / "lock.json").exists()
        assert folder.metrics_path == path / "metrics.jsonl"
        assert all(part.is_dir() for part in (folder.checkpoints, folder.samples, folder.model))
        assert not folder.is_done
    stored = read_config(path)
    assert stored["data"] == "data/emoji.parquet"
    assert stored["layers"] == [64, 32]
    assert stored["optimizer"]["eps"] == 1e-5
    assert stored["note"] is None
    versions = json.loads((path / "versions.json").read_text())
    assert versions["command"] == sys.argv
    assert versions["python"].startswith("3.")
    assert "git_revision" in versions
    assert not (path / "lock.json").exists()


def test_one_trainer_at_a_time(tmp_path):
    with start(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        start(tmp_path, resume=True)
    start(tmp_path, resume=True).close()


def test_an_unfinished_folder_wants_resume(tmp_path):
    start(tmp_path).close()
    with pytest.raises(UserError, match="add --resume"):
        start(tmp_path)
    with start(tmp_path, resume=True) as folder:  # the refusal gave the lock back
        assert not folder.is_done


def test_another_config_is_refused_key_by_key(tmp_path):
    start(tmp_path).close()
    other = StageConfig(optimizer=OptimizerConfig(learning_rate=0.5), layers=(64,), log_every=1)
    with pytest.raises(UserError) as caught:
        start(tmp_path, other, resume=True)
    message = str(caught.value)
    assert "layers: [64, 32] -> [64]; optimizer.learning_rate: 0.001 -> 0.5" in message
    assert "--run" in message
    assert "log_every" not in message
    assert read_config(tmp_path)["layers"] == [64, 32]
    assert not (tmp_path / "lock.json").exists()


def test_harmless_fields_may_change(tmp_path):
    start(tmp_path).close()
    start(tmp_path, StageConfig(preset="full", resume=True, log_every=99), resume=True).close()


def test_a_field_that_is_new_or_gone_counts_as_a_change(tmp_path):
    start(tmp_path).close()
    stored = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(stored.replace("note: null", "noise: 0.1"))
    with pytest.raises(UserError, match=r"noise: 0\.1 -> \(none\); note: \(none\) -> None"):
        start(tmp_path, resume=True)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n", ""])
def test_a_damaged_config_is_told(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not"):
        start(tmp_path, resume=True)


def test_a_start_that_died_before_its_config_is_no_start(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    start(tmp_path).close()
    assert read_config(tmp_path)["preset"] == "smoke"


def test_result_marks_the_stage_as_done(tmp_path):
    with pytest.raises(UserError, match=r"no result\.json"):
        read_result(tmp_path)
    with start(tmp_path) as folder:
        folder.finish(
            {"loss": np.float32(0.5), "nan": float("nan"), "curve": np.arange(2), "path": Path("a/b")}
        )
    result = read_result(tmp_path)
    assert (result["loss"], result["nan"], result["curve"], result["path"]) == (0.5, None, [0, 1], "a/b")
    assert result["peak_rss_mb"] > 10
    before = (tmp_path / "versions.json").read_text()
    with start(tmp_path) as folder:  # no --resume needed
        assert folder.is_done
        assert folder.result() == result
    assert (tmp_path / "versions.json").read_text() == before
    with pytest.raises(UserError, match="another config"):
        start(tmp_path, StageConfig(layers=(1,)))


def test_wall_time_adds_up_over_restarts(tmp_path, clock):
    with start(tmp_path):
        clock[0] += 10
    clock[0] += 1000  # nobody works
    with pytest.raises(KeyboardInterrupt), start(tmp_path, resume=True):
        clock[0] += 5
        raise KeyboardInterrupt
    with start(tmp_path, resume=True) as folder:
        clock[0] += 2
        folder.finish({})
        clock[0] += 100
    assert read_result(tmp_path)["wall_seconds"] == 17


def test_a_killed_start_counts_up_to_its_last_metrics(tmp_path, clock):
    folder = start(tmp_path)
    folder.metrics_path.write_text("{}\n")
    os.utime(folder.metrics_path, (clock[0] + 30, clock[0] + 30))
    (tmp_path / "lock.json").unlink()  # what a takeover does
    clock[0] += 500
    with start(tmp_path, resume=True) as folder:
        clock[0] += 4
        folder.finish({})
    assert read_result(tmp_path)["wall_seconds"] == 34


def test_versions_of_earlier_starts_are_kept(tmp_path, monkeypatch):
    for revision in ("a", "b", "c"):
        monkeypatch.setattr(folder_module, "git_revision", lambda revision=revision: revision)
        start(tmp_path, resume=True).close()
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["git_revision"] == "c"
    assert [entry["git_revision"] for entry in versions["earlier"]] == ["a", "b"]


def test_config_survives_yaml_exactly(tmp_path):
    tricky = replace(StageConfig(), note="1e-3", optimizer=OptimizerConfig(learning_rate=1e-05, eps=1e-30))
    start(tmp_path, tricky).close()
    start(tmp_path, tricky, resume=True).close()
    assert read_config(tmp_path) == as_plain(tricky)


def test_as_plain_refuses_what_has_no_form():
    with pytest.raises(TypeError, match="object"):
        as_plain({"a": object()})

"""The watch over PPO on the smoke run: what it measures, that it resumes, and that an alarm ends the run."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.runtime.metrics import read_metrics
from mmrlhf_jax.training import policy_stage as ppo
from mmrlhf_jax.training.config import PPOConfig
from mmrlhf_jax.training.config.adapt import LoraConfig
from mmrlhf_jax.training.config.watch import WatchConfig
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.presets import PRESETS

pytestmark = pytest.mark.slow

CONFIG = dataclasses.replace(
    PRESETS["smoke"].ppo,
    steps=4,
    save_every=1,
    adapt="lora",
    lora=LoraConfig(rank=2),
    critic="separate",
    optimizer=OptimizerConfig(learning_rate=0.03, weight_decay=0.0),
    watch_every=2,
    watch=WatchConfig(pictures=16, patience=1),
)


class Killed(Exception):
    """Stands for the end of the process."""


def config_in(folder: Path, smoke_run: Path, **changes) -> PPOConfig:
    """A run folder with all stages before PPO."""
    for stage in ("pretrain", "sft", "reward"):
        shutil.copytree(smoke_run / "seed_0" / stage, folder / "seed_0" / stage)
    return dataclasses.replace(CONFIG, run=folder, **changes)


def without_time(folder: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(smoke_run, tmp_path_factory) -> tuple[Path, dict]:
    """The folder and the result of a run without interruption."""
    config = config_in(tmp_path_factory.mktemp("whole"), smoke_run)
    return config.folder("ppo"), ppo.run(config)


def test_it_looks_before_the_first_step_at_intervals_and_at_the_end(whole):
    folder, result = whole
    rows = [row for row in without_time(folder) if "eval/gold" in row]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["eval/kl"] == pytest.approx(0.0, abs=1e-4) and rows[2]["eval/kl"] > 1e-3
    assert rows[0]["eval/gold_gain"] == rows[0]["eval/proxy_gain"] == 0.0
    assert all(0 <= row["eval/gold"] <= 1 and row["eval/length"] >= 1 for row in rows)
    assert {name for name in rows[0] if name.startswith("alarms/")} == {
        "alarms/overoptimisation", "alarms/disagreement", "alarms/repetition", "alarms/length"
    }  # fmt: skip
    assert not any(rows[0][name] for name in rows[0] if name.startswith("alarms/"))
    assert result["stopped"] is None and len(result["alarms"]) == 1


def test_the_gold_is_the_rubric_of_the_captions_that_it_keeps(whole, smoke_run):
    folder, _ = whole
    record = [json.loads(line) for line in (folder / "watch.jsonl").read_text().splitlines()][-1]
    config = dataclasses.replace(CONFIG, run=smoke_run)
    held_out = picture_source(config).load("combinations")
    held_out = held_out.take(np.linspace(0, len(held_out) - 1, 16).astype(np.int64))
    rubric = Rubric.from_captions(picture_source(config).all_captions())
    np.testing.assert_allclose(record["gold_N"], rubric.utilities(record["captions"], held_out.captions))
    assert not set(held_out.names) & set(load_emoji("feedback").names)
    row = without_time(folder)[-1]
    assert row["eval/gold"] == pytest.approx(np.mean(record["gold_N"]))
    assert row["eval/proxy"] == pytest.approx(np.mean(record["proxy_N"]))


def test_the_policy_that_it_leaves_loads_with_its_adapters_merged(whole):
    folder, _ = whole
    loaded = Captioner.load(folder / "model")
    assert loaded.caption(load_emoji("combinations").take(range(2)).images_NxHxWxC)
    assert (folder / "model" / "adapters" / "adapter_model.safetensors").exists()
    Captioner.load(folder / "model" / "critic")


def test_killed_and_resumed_it_is_the_same_run(whole, smoke_run, tmp_path, monkeypatch):
    config = config_in(tmp_path, smoke_run)
    prepare = ppo.prepare

    def dying(*inputs):
        update, calls = prepare(*inputs), []

        def step(*arguments):
            calls.append(1)
            if len(calls) == 4:
                raise Killed
            return update(*arguments)

        return step

    monkeypatch.setattr(ppo, "prepare", dying)
    with pytest.raises(Killed):
        ppo.run(config)
    monkeypatch.undo()
    result = ppo.run(dataclasses.replace(config, resume=True))
    folder, wanted = whole
    assert without_time(config.folder("ppo")) == without_time(folder)
    for file in ("watch.jsonl", "model/model.safetensors", "model/critic/model.safetensors"):
        assert (config.folder("ppo") / file).read_bytes() == (folder / file).read_bytes(), file
    assert result["alarms"] == wanted["alarms"] and result["kl_max"] == wanted["kl_max"]


def test_an_alarm_ends_the_run_as_a_finished_stage(smoke_run, tmp_path, capsys, monkeypatch):
    """Any change of the length is one alarm here; after a death behind the checkpoint nothing goes on."""
    sharp = WatchConfig(pictures=16, patience=1, t=1e-6, length=1e-6, repetition=9.0, disagreement=9.0)
    config = config_in(tmp_path, smoke_run, watch_every=1, watch=sharp, stop_on_alarm=True, steps=50)
    result = ppo.run(config)
    folder = config.folder("ppo")
    (step,) = {at for at in result["alarms"][0].values()}
    assert step < 50 and result["stopped"] == f"alarm at step {step}: {', '.join(result['alarms'][0])}"
    assert capsys.readouterr().out.count(f"ppo: alarm at step {step}: length") == 1
    rows = without_time(folder)
    assert rows[-1]["step"] == step and rows[-1]["alarms/length"] == 1.0
    assert Captioner.load(folder / "model")

    (folder / "result.json").unlink()
    monkeypatch.setattr(ppo, "prepare", lambda *inputs: None)  # no step is to be done
    again = ppo.run(dataclasses.replace(config, resume=True))
    assert again["stopped"] == result["stopped"] and without_time(folder) == rows
    assert "alarm at" not in capsys.readouterr().out


def test_a_watch_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match="--watch-every"):
        PPOConfig(stop_on_alarm=True)

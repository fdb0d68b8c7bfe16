"""The report's curves: seeds that were trained together, swept rates, and the watch."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmrlhf_jax.training.config import EvaluateConfig
from mmrlhf_jax.training.report_curves import (
    CURVES,
    alarm_notes,
    curves,
    gold_against_kl,
    lines,
    member_groups,
)


def write(folder: Path, values: list[float], **others: list[float]) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"step": i + 1, "objective/scores": value, **{name: more[i] for name, more in others.items()}}
        for i, value in enumerate(values)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_members_give_a_band_around_their_mean(tmp_path: Path):
    config = EvaluateConfig(run=tmp_path, policy="grpo", seeds=(0, 1))
    for stage in {stage for stage, _, _ in CURVES}:
        for seed in config.seeds:
            folder = tmp_path / f"seed_{seed}" / ("grpo" if stage == "ppo" else stage)
            write(folder, [1.0, 3.0] if stage == "ppo" else [])
    for member, values in enumerate(([0.0, 5.0], [2.0, 1.0])):
        write(tmp_path / "seed_1" / "grpo" / "members" / str(member), values)
    (plot,) = curves(config)
    alone, together = plot.series
    assert plot.title == "GRPO: composite reward"
    assert alone.low is None and alone.label == "seed 0"
    np.testing.assert_array_equal(together.y, [1.0, 3.0])
    # standard errors of the means are 1 and 2; 12.706 is Student's quantile for two values
    np.testing.assert_allclose(together.low, [1 - 12.706, 3 - 2 * 12.706])
    np.testing.assert_allclose(together.high, [1 + 12.706, 3 + 2 * 12.706])
    assert "mean of 2" in together.label


def test_a_swept_rate_has_a_line_for_each_value(tmp_path: Path):
    """Members come value by value, and beyond ten by number rather than by name."""
    folder = tmp_path / "seed_0" / "ppo"
    write(folder, [0.0, 0.0])
    sweep = {"kl_coef": [0.01, 0.2], "weights": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"sweep": sweep}), encoding="utf-8")
    for member in range(12):
        write(folder / "members" / str(member), [float(member), 0.0])
    low, high = lines(EvaluateConfig(run=tmp_path), "ppo", "step", "objective/scores")
    assert low.label.startswith("seed 0, kl_coef 0.01, mean of 6")
    assert high.label.startswith("seed 0, kl_coef 0.2, mean of 6")
    assert (low.y[0], high.y[0]) == (2.5, 8.5)
    assert [path.name for path in member_groups(folder)[1][1]] == ["6", "7", "8", "9", "10", "11"]


def test_the_watch_is_drawn_over_the_root_of_the_kl(tmp_path: Path):
    config = EvaluateConfig(run=tmp_path)
    folder = tmp_path / "seed_0" / "ppo"
    gains = {"eval/proxy_gain": [0.0, 0.5, 1.0], "eval/gold_gain": [0.0, 0.4, 0.1]}
    write(folder, [0.0] * 3, **{"eval/kl": [0.0, 9.0, 4.0]}, **gains)
    plot = gold_against_kl(config)
    assert plot is not None
    proxy, gold = plot.series
    np.testing.assert_allclose(proxy.x, [0.0, 2.0, 3.0])
    np.testing.assert_allclose(proxy.y, [0.0, 1.0, 0.5])
    np.testing.assert_allclose(gold.y, [0.0, 0.1, 0.4])
    assert "simulated" in gold.label


@pytest.mark.parametrize(
    ("alarms", "told"),
    [
        (None, []),
        ([{}], []),
        ([{"overoptimisation": 40}], ["Alarm in training (seed 0): overoptimisation at step 40."]),
        ([{}, {"length": 5}], ["Alarm in training (seed 0, member 1): length at step 5."]),
    ],
)
def test_alarms_are_told(tmp_path: Path, alarms, told):
    folder = tmp_path / "seed_0" / "ppo"
    write(folder, [0.0])
    (folder / "result.json").write_text(json.dumps({"alarms": alarms} if alarms else {}), encoding="utf-8")
    assert gold_against_kl(EvaluateConfig(run=tmp_path)) is None
    assert alarm_notes(EvaluateConfig(run=tmp_path)) == told

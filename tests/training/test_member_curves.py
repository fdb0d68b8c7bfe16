"""The report's curves of a run whose seeds were trained together."""

import json
from pathlib import Path

import numpy as np

from mmrlhf_jax.training.config import EvaluateConfig
from mmrlhf_jax.training.report import CURVES, curves


def write(folder: Path, values: list[float]) -> None:
    folder.mkdir(parents=True)
    rows = [{"step": step, "objective/scores": value} for step, value in enumerate(values, start=1)]
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
    np.testing.assert_array_equal(together.low, [0.0, 1.0])
    np.testing.assert_array_equal(together.high, [2.0, 5.0])

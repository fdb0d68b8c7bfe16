"""What the fusion benchmark must show, trained small: what each method learns, and a right attribution."""

import dataclasses

import pytest

from mmrlhf_jax.training.fusion_benchmark import run as benchmark
from mmrlhf_jax.training.fusion_benchmark.config import PRESETS, FusionBenchmarkConfig

METHODS = (
    "concat_linear",
    "late",
    "weighted_sum",
    "weighted_sum_fixed",
    "gated",
    "low_rank",
    "tensor",
    "attention",
)


@pytest.mark.learning
def test_every_statement_holds(tmp_path):
    trial = dataclasses.replace(PRESETS["quick"].trial, seeds=8, noise=(0.0,))
    config = FusionBenchmarkConfig(
        run=tmp_path / "run",
        methods=METHODS,
        tasks=("additive", "synergy", "conflict", "missing", "shift"),
        trial=trial,
    )
    found = {one["claim"]: one for one in benchmark.run(config)["conclusions"]}
    assert len(found) == 10
    assert not [one for one in found.values() if not one["holds"]]

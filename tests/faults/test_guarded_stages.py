"""Every stage under the guard: with a learning rate that blows the parameters up it ends in time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.faults.bad_input import start

STAGES = {
    "pretrain": ("clip/loss", "0.image_NxHxWxC"),
    "sft": ("loss", "ids_BxT"),
    "reward": ("loss", "ids_BxSxT"),
    "dpo": ("loss", "image_index_P"),
    "ppo": ("loss/policy_avg", "completions.ids_BxT"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_blows_up_ends_by_the_guard(stage: str, smoke_run: Path, tmp_path: Path):
    for needed in ("pretrain", "sft", "collect", "reward"):
        if needed != stage:
            shutil.copytree(smoke_run / "seed_0" / needed, tmp_path / "seed_0" / needed)
    flags = f"--preset smoke --run {tmp_path} --steps 6 --batch 8 --log-every 1 --stop-after-skipped 2"
    outcome = start(stage, *flags.split(), "--optimizer.learning-rate", "1e30")
    assert outcome.status == 2 and "Traceback" not in outcome.error, outcome.error
    told = outcome.error.partition("error: ")[2]  # behind the progress
    assert "2 updates in a row, from step " in told and len(told.splitlines()) == 2
    folder = tmp_path / "seed_0" / stage
    (failed,) = (folder / "failed").iterdir()
    with np.load(failed, allow_pickle=False) as batch:
        assert STAGES[stage][1] in batch.files and all(batch[name].size for name in batch.files)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["updates/skipped"] >= 2 and not (folder / "result.json").exists()
    assert list((folder / "checkpoints").glob("*.manifest"))

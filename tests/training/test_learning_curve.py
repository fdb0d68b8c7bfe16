"""Learning curves and ensembles as their commands make them, on a copy of the smoke run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.runtime.metrics import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(smoke_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "smoke"
    shutil.copytree(smoke_run, folder)
    return folder


def command(root: Path, environment: dict[str, str], script: str, run: Path, *options: str) -> str:
    """Runs an experiment at smoke size; what it printed."""
    words = [sys.executable, f"experiments/{script}.py", "--preset", "smoke", "--run", str(run), *options]
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_curve_has_every_share_transfer_and_augmentation(run, root, user_environment):
    table = command(root, user_environment, "learning_curve", run)
    folder = run / "seed_0" / "learning_curve"
    found = json.loads((folder / "learning_curve.json").read_text())
    assert [(curve["transfer"], curve["augmented"]) for curve in found["curves"]] == [
        ("frozen", False), ("frozen", True)
    ]  # fmt: skip
    assert (found["measured_on"], found["measure"], found["shares"]) == ("rubric", "accuracy", [0.1, 1.0])
    scores = np.array([curve["score_FxN"] for curve in found["curves"]])
    assert scores.shape == (2, 2, 2) and ((scores >= 0) & (scores <= 1)).all()
    assert (folder / "learning_curve.md").read_text() in table and "| frozen | on |" in table
    page = (folder / "learning_curve.html").read_text()
    assert page.count("<figure") == 1 and "Learning curves" in page


def test_an_ensemble_is_trained_saved_and_pooled_by_ppo(run, root, user_environment):
    for stage in ("reward", "ppo"):
        shutil.rmtree(run / "seed_0" / stage)
    options = ("--ensemble.members", "2", "--transfer", "lora", "--augment.flip", "0.5")
    shown = command(root, user_environment, "reward", run, *options)
    assert "disagreement/mean" in shown and "calibration_error" in shown
    result = json.loads((run / "seed_0" / "reward" / "result.json").read_text())
    assert result["rubric"]["disagreement"]["mean"] > 0
    command(root, user_environment, "ppo", run, "--ensemble.pooling", "worst")
    rows = read_metrics(run / "seed_0" / "ppo" / "metrics.jsonl")
    assert all(row["rewards/preference/disagreement"] > 0 for row in rows)

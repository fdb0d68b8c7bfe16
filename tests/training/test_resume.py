"""Real stages, killed in the middle and resumed, against the same stages left alone.

Every start is a process of its own, as a user's is.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

pytestmark = pytest.mark.slow

STEPS = {"pretrain": 30, "sft": 30, "ppo": 16}  # enough that there is a middle to be killed in
NEEDED = {"pretrain": (), "sft": ("pretrain",), "ppo": ("pretrain", "sft", "collect", "reward")}


class Stage:
    """A stage in a run folder of its own, whose inputs come from the smoke run."""

    def __init__(self, root: Path, environment: dict[str, str], smoke_run: Path, run: Path, name: str):
        for needed in NEEDED[name]:
            shutil.copytree(smoke_run / "seed_0" / needed, run / "seed_0" / needed)
        self.root, self.environment, self.name = root, environment, name
        self.folder = run / "seed_0" / name
        self.command = [
            sys.executable, f"experiments/{name}.py", "--preset", "smoke", "--run", str(run),
            "--steps", str(STEPS[name]), "--save-every", "2", "--log-every", "1",
        ]  # fmt: skip

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *flags],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *flags: str) -> str:
        """Runs to the end; what was printed."""
        process = self.start(*flags)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed[-4000:]
        return printed

    def stop(self, number: signal.Signals, beyond: int, *flags: str) -> tuple[int, str]:
        """Sends a signal once a checkpoint above step `beyond` is whole; exit status and what was printed."""
        process = self.start(*flags)
        while self.saved() <= beyond:
            assert process.poll() is None, f"ended too soon:\n{process.communicate()[0][-4000:]}"
            time.sleep(0.002)
        os.kill(process.pid, number)
        printed, _ = process.communicate(timeout=600)
        return process.returncode, printed

    def saved(self) -> int:
        """The last step whose checkpoint is whole."""
        return max((int(path.stem) for path in (self.folder / "checkpoints").glob("*.manifest")), default=0)

    def weights(self) -> dict[str, np.ndarray]:
        """Every tensor of every network that the stage left."""
        return {
            f"{path.parent.name}/{name}": array
            for path in sorted((self.folder / "model").rglob("*.safetensors"))
            for name, array in safetensors.numpy.load_file(path).items()
        }

    def metrics(self) -> list[dict]:
        """The lines of metrics, without their times."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


@pytest.mark.parametrize("name", list(STEPS))
def test_killed_stopped_and_resumed_it_is_the_same_run(root, user_environment, smoke_run, tmp_path, name):
    alone, troubled = (
        Stage(root, user_environment, smoke_run, tmp_path / run, name) for run in ("alone", "troubled")
    )
    alone.finish()

    status, printed = troubled.stop(signal.SIGKILL, 0)
    assert status == -signal.SIGKILL
    killed_at = troubled.saved()
    assert 2 <= killed_at < STEPS[name]
    assert not (troubled.folder / "result.json").exists()

    refused = troubled.start()
    printed, _ = refused.communicate(timeout=600)
    assert refused.returncode == 2 and "--resume" in printed and "Traceback" not in printed

    status, printed = troubled.stop(signal.SIGTERM, killed_at + 2, "--resume")
    assert status == 75, printed[-4000:]
    stopped_at = troubled.saved()
    assert killed_at < stopped_at < STEPS[name]
    assert f"stopped at step {stopped_at} and saved; add --resume" in printed

    troubled.finish("--resume")
    want, got = alone.weights(), troubled.weights()
    assert want.keys() == got.keys() and len(want) > 10
    different = [key for key in want if want[key].tobytes() != got[key].tobytes()]
    assert not different
    assert [row["step"] for row in alone.metrics() if len(row) > 3] == list(range(1, STEPS[name] + 1))
    assert troubled.metrics() == alone.metrics()
    results = [json.loads((stage.folder / "result.json").read_text()) for stage in (alone, troubled)]
    for result in results:
        del result["wall_seconds"], result["peak_rss_mb"]
    assert results[0] == results[1]

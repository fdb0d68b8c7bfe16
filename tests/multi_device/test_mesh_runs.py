"""A stage from the command line on a mesh, and its checkpoint on another one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.policy.captioner import Captioner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is pretrained."""
    folder = tmp_path_factory.mktemp("mesh") / "run"
    shutil.copytree(smoke_run / "seed_0" / "pretrain", folder / "seed_0" / "pretrain")
    return folder


def sft(root: Path, environment: dict[str, str], run: Path, *flags: str) -> str:
    """What the stage prints on eight devices."""
    flags = ("--preset", "smoke", "--run", str(run), "--save-every", "3", *flags)
    environment = environment | {
        "XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    }
    done = subprocess.run(
        [sys.executable, "experiments/sft.py", *flags],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(run: Path) -> dict[int, float]:
    lines = (run / "seed_0" / "sft" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if row.get("loss") is not None}


def test_a_run_goes_on_on_another_mesh(root: Path, before: Path, user_environment: dict[str, str]):
    own = before.with_name("own")
    shutil.copytree(before, own)
    sft(root, user_environment, own)
    sft(root, user_environment, before, "--mesh", "data=2,fsdp=2,tensor=2")
    stage = before / "seed_0" / "sft"
    assert losses(before) == pytest.approx(losses(own), abs=1e-5)
    one, other = (Captioner.load(run / "seed_0" / "sft" / "model") for run in (own, before))
    image = np.zeros((2, 64, 64, 3), np.uint8)
    assert one.caption(image) == other.caption(image)

    (stage / "result.json").unlink()
    for path in stage.glob("checkpoints/6*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    printed = sft(root, user_environment, before, "--mesh", "fsdp=4", "--resume")
    assert "begun on data=2,fsdp=2,tensor=2, now on fsdp=4" in printed and "no longer bit for bit" in printed
    assert losses(before) == pytest.approx(losses(own), abs=1e-5)


def test_a_dry_run_tells_the_memory_of_one_device(root: Path, before: Path, user_environment: dict[str, str]):
    def memory(*flags: str) -> float:
        printed = sft(root, user_environment, before.with_name("dry"), "--dry-run", *flags)
        return float(printed.split("memory of the compiled step: ")[1].split(" MiB")[0])

    shutil.copytree(before / "seed_0" / "pretrain", before.with_name("dry") / "seed_0" / "pretrain")
    assert memory("--mesh", "fsdp=8") < 0.7 * memory()

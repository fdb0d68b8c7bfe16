"""Runs of two real processes with two devices each, beside those of one: same numbers, one set of files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STAGES = ("pretrain", "sft", "reward", "ppo")


def start(root: Path, environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    """Two processes of an experiment."""
    return subprocess.Popen(
        [sys.executable, "scripts/launch_local.py", "2x2", *command],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(root: Path, environment: dict[str, str], *command: str, status: int = 0) -> str:
    """What two processes print."""
    process = start(root, environment, *command)
    printed, _ = process.communicate(timeout=1200)
    assert process.returncode == status, printed[-4000:]
    return printed


def alone(root: Path, environment: dict[str, str], devices: int, *command: str) -> str:
    """What one process with so many devices prints."""
    flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def rows(stage: Path) -> list[dict[str, Any]]:
    lines = (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def assert_same_numbers(stage: Path, wanted: Path, tolerance: float) -> None:
    ours, theirs = rows(stage), rows(wanted)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert {name for name, value in one.items() if value is None} == {
            name for name, value in other.items() if value is None
        }
        numbers = [{k: v for k, v in row.items() if v is not None} for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=tolerance, abs=tolerance)


@pytest.fixture(scope="module")
def both(root: Path, user_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the pipeline by two processes, every parameter cut over both."""
    run = tmp_path_factory.mktemp("both") / "run"
    pipeline = ("experiments/pipeline.py", "--preset", "smoke", "--run", str(run), "--mesh", "fsdp=4")
    printed = together(root, user_environment, *pipeline)
    for stage in STAGES:
        assert printed.count(f"[{stage}]") == 1  # the first one alone talks
    return run


def test_every_stage_gives_the_numbers_of_one_process(both: Path, smoke_run: Path):
    for stage in STAGES:
        # rewards are divided by the spread of so few samples, which enlarges what is rounded otherwise
        tolerance = 1e-3 if stage == "ppo" else 1e-5
        assert_same_numbers(both / "seed_0" / stage, smoke_run / "seed_0" / stage, tolerance)
    for name in ("preferences", "held_out"):  # the same captions were drawn, and judged alike
        ours, theirs = (run / "seed_0" / "collect" / f"{name}_judgements.jsonl" for run in (both, smoke_run))
        assert ours.read_text(encoding="utf-8") == theirs.read_text(encoding="utf-8")
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (both, smoke_run))
    assert ours["gold"]["rl"] == pytest.approx(theirs["gold"]["rl"], abs=0.01)


def test_one_process_writes(both: Path, smoke_run: Path):
    def files(run: Path) -> set[str]:
        found = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
        plain = (path for path in found if "checkpoints" not in path.parts)
        return {str(path.parent if "tensorboard" in path.parts else path) for path in plain}

    assert files(both) == files(smoke_run)  # no lock, no half of a file, no other process's metrics
    for stage in STAGES:
        events = list((both / "seed_0" / stage / "tensorboard").iterdir())
        assert len(events) == len(list((smoke_run / "seed_0" / stage / "tensorboard").iterdir()))


def sft(run: Path, *flags: str) -> tuple[str, ...]:
    return ("experiments/sft.py", "--preset", "smoke", "--run", str(run), "--save-every", "3", *flags)


def cut_short(run: Path) -> None:
    """As if the run had ended after step 3."""
    stage = run / "seed_0" / "sft"
    (stage / "result.json").unlink()
    shutil.rmtree(stage / "checkpoints" / "6")
    (stage / "checkpoints" / "6.manifest").unlink()


def test_checkpoints_of_two_are_read_by_one_and_the_other_way_round(
    root: Path, smoke_run: Path, user_environment: dict[str, str], tmp_path: Path
):
    for name in ("first_two", "first_one"):
        shutil.copytree(smoke_run / "seed_0" / "pretrain", tmp_path / name / "seed_0" / "pretrain")
    run = tmp_path / "first_two"
    together(root, user_environment, *sft(run, "--mesh", "data=2,fsdp=2"))
    cut_short(run)
    printed = alone(root, user_environment, 2, *sft(run, "--mesh", "fsdp=2", "--resume"))
    assert "begun on data=2,fsdp=2, now on fsdp=2" in printed
    assert_same_numbers(run / "seed_0" / "sft", smoke_run / "seed_0" / "sft", 1e-5)

    run = tmp_path / "first_one"
    alone(root, user_environment, 1, *sft(run))
    cut_short(run)
    together(root, user_environment, *sft(run, "--mesh", "tensor=4", "--resume"))
    assert_same_numbers(run / "seed_0" / "sft", smoke_run / "seed_0" / "sft", 1e-5)


def test_a_signal_stops_both_and_a_dead_one_ends_the_other(
    root: Path, smoke_run: Path, user_environment: dict[str, str], tmp_path: Path
):
    shutil.copytree(smoke_run / "seed_0" / "pretrain", tmp_path / "seed_0" / "pretrain")
    long = sft(tmp_path, "--mesh", "data=4", "--steps", "100000", "--save-every", "50", "--log-every", "1")
    stage = tmp_path / "seed_0" / "sft"

    def begun(process: subprocess.Popen[str], step: int) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if (stage / "metrics.jsonl").exists() and rows(stage)[-1:] and rows(stage)[-1]["step"] > step:
                return
            time.sleep(0.1)
        process.kill()
        pytest.fail(process.communicate()[0][-4000:])

    process = start(root, user_environment, *long)
    begun(process, 2)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 75, printed[-4000:]
    step = int(printed.split("stopped at step ")[1].split()[0])
    assert (stage / "checkpoints" / f"{step}.manifest").exists() and not (stage / "lock.json").exists()

    process = start(root, user_environment, *long, "--resume")
    begun(process, step + 2)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    children = [int(pid) for pid in found.stdout.split()]
    assert len(children) == 2
    os.kill(children[-1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode not in (0, 75)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    told = [row["step"] for row in rows(stage) if row.get("loss") is not None]
    assert told == list(range(1, told[-1] + 1)) and told[-1] > step

"""The launchers start what they are told, tell each process its place, and pass on how it ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# one write, so that lines of two processes do not mix
SAY = """
import os, sys
of = os.environ
place, ids, address = of["MMRLHF_JAX_PROCESS"], of.get("JAX_LOCAL_DEVICE_IDS"), of["JAX_COORDINATOR_ADDRESS"]
os.write(1, f"{place} {ids} {address.split(':')[0]} {'count=3' in of.get('XLA_FLAGS', '')}\\n".encode())
"""


def launch(root: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, root / "scripts/launch_local.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_each_process_is_told_its_place(root: Path):
    done = launch(root, "2", "-c", SAY)
    assert sorted(done.stdout.splitlines()) == ["0/2 None localhost False", "1/2 None localhost False"]
    done = launch(root, "2x3", "-c", SAY)
    assert sorted(done.stdout.splitlines()) == ["0/2 0,1,2 localhost True", "1/2 3,4,5 localhost True"]


def test_flags_go_to_the_experiment(root: Path):
    done = launch(root, "1", "-c", "import sys; print(sys.argv[1:])", "--mesh", "data=2", "--help")
    assert done.stdout == "['--mesh', 'data=2', '--help']\n"


def test_one_that_fails_ends_the_others(root: Path):
    fail = "import os, time; os.environ['MMRLHF_JAX_PROCESS'] == '1/2' and os._exit(7); time.sleep(60)"
    begun = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import launch_local as l; l.GRACE = 0.2; print(l.launch(['-c', {fail!r}], 2))",
        ],
        cwd=root / "scripts",
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "7\n" and time.monotonic() - begun < 30


def test_a_signal_reaches_all_of_them(root: Path, tmp_path: Path):
    wait = (
        "import os, pathlib, signal, sys, time\n"
        "mine = pathlib.Path(sys.argv[1]) / os.environ['MMRLHF_JAX_PROCESS'][0]\n"
        "signal.signal(signal.SIGTERM, lambda *_: (mine.with_suffix('.stopped').touch(), os._exit(75)))\n"
        "mine.touch(); time.sleep(50)"
    )
    process = subprocess.Popen(
        [sys.executable, root / "scripts/launch_local.py", "2", "-c", wait, str(tmp_path)]
    )
    deadline = time.monotonic() + 40
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 75
    assert {path.name for path in tmp_path.glob("*.stopped")} == {"0.stopped", "1.stopped"}


@pytest.mark.parametrize(
    "arguments", ((), ("2",), ("0", "x.py"), ("2x", "x.py"), ("2x2x2", "x.py"), ("two", "x.py"))
)
def test_what_is_not_understood_is_told(root: Path, arguments: tuple[str, ...]):
    done = launch(root, *arguments)
    assert done.returncode == 2 and "usage:" in done.stderr and "Traceback" not in done.stderr


class Shell:
    """A PATH with fakes of a cluster's commands, which note how they are called."""

    def __init__(self, root: Path, folder: Path, **exits: int) -> None:
        self._root, self._log = root, folder / "log"
        for name, status in exits.items():
            fake = folder / name
            fake.write_text(f'#!/bin/bash\necho "{name} $*" >>{self._log}\nexit {status}\n')
            fake.chmod(0o755)
        self._path = f"{folder}:{os.environ['PATH']}"

    def run(self, script: str, *arguments: str, **variables: str) -> tuple[int, list[str], str]:
        """(status, the fakes' notes, errors)."""
        done = subprocess.run(
            ["bash", str(self._root / "scripts" / script), *arguments],
            env={**os.environ, "PATH": self._path, **variables},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, self._log.read_text().splitlines() if self._log.exists() else [], done.stderr


@pytest.mark.parametrize(("ended", "again"), ((0, False), (2, False), (75, True)))
def test_a_slurm_job_that_saved_queues_itself_again(root: Path, tmp_path: Path, ended: int, again: bool):
    shell = Shell(root, tmp_path, srun=ended, scontrol=0)
    status, notes, _ = shell.run(
        "launch_slurm.sh", "experiments/ppo.py", "--mesh", "data=2", SLURM_JOB_ID="12", PYTHON="py"
    )
    assert status == ended
    assert notes[0] == "srun --kill-on-bad-exit=1 py experiments/ppo.py --mesh data=2"
    assert notes[1:] == (["scontrol requeue 12"] if again else [])


def test_a_tpu_pod_starts_on_all_hosts(root: Path, tmp_path: Path):
    shell = Shell(root, tmp_path, gcloud=3)
    status, notes, _ = shell.run("launch_tpu_pod.sh", "pod", "zone-b", "experiments/ppo.py", "--run", "a b")
    assert status == 3 and len(notes) == 1
    assert notes[0].startswith("gcloud compute tpus tpu-vm ssh pod --zone=zone-b --worker=all --command=cd ")
    assert notes[0].endswith("MMRLHF_JAX_PROCESS=auto .venv/bin/python experiments/ppo.py --run a\\ b")


@pytest.mark.parametrize(
    ("script", "arguments"), (("launch_slurm.sh", ("x.py",)), ("launch_tpu_pod.sh", ("pod", "zone")))
)
def test_scripts_say_how_they_are_used(root: Path, tmp_path: Path, script: str, arguments: tuple[str, ...]):
    status, _, errors = Shell(root, tmp_path).run(script, *arguments, SLURM_JOB_ID="")
    assert status == 2 and errors.startswith("usage: ")

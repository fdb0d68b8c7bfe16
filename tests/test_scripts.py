"""The shell scripts parse, and scripts/env.sh finds the right Python and accelerator among fakes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci/run"]
TOOLS = (
    "awk",
    "bash",
    "cat",
    "cksum",
    "cut",
    "dirname",
    "grep",
    "head",
    "mkdir",
    "paste",
    "rm",
    "sed",
    "sort",
    "tr",
    "uname",
)

# A fake interpreter. It answers env.sh's probe (a program on stdin) as Python VERSION would, makes
# environments that hold a copy of itself, and logs what pip is asked to do; pip fails for FAILING versions.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
  "-I -") cat >/dev/null; {probe} ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    cat "$0" >"$3/bin/python"
    chmod +x "$3/bin/python"
    echo >"$3/pyvenv.cfg"
    ;;
  "-m pip "*) echo "{version} $*" >>"$PIP_LOG"; [[ " $FAILING " != *" {version} "* ]] ;;
  "-c import pip") ;;
  *) exit 1 ;;
esac
"""


class Machine:
    """A PATH of its own, with fake interpreters on it, and a copy of scripts/env.sh."""

    def __init__(self, folder: Path):
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.project = folder / "project"
        self.venv = self.project / ".venv"
        self.pip_log = folder / "pip.log"
        (self.project / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        self.home.mkdir()
        shutil.copy(ROOT / "scripts/env.sh", self.project / "scripts/env.sh")
        (self.project / "pyproject.toml").write_text("[project]\n")
        for tool in (*TOOLS, "chmod"):
            path = shutil.which(tool)
            assert path, f"{tool} is missing"
            (self.bin / tool).symlink_to(path)

    def executable(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link to the machine's own tool: never write through it
        path.write_text(text)
        path.chmod(0o755)

    def python(self, name: str, version: str | None, folder: Path | None = None) -> None:
        """Puts an interpreter there; version None makes one that does not fit, or does not run."""
        probe = f'printf "{version}"' if version else "exit 1"
        text = FAKE_PYTHON.replace("{probe}", probe).replace("{version}", str(version))
        self.executable((folder or self.bin) / name, text)

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess:
        """Sources env.sh, then runs `command`."""
        return subprocess.run(
            [str(self.bin / "bash"), "-c", f"source scripts/env.sh; {command}"],
            cwd=self.project,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.home),
                "PIP_LOG": str(self.pip_log),
                "MMRLHF_ACCELERATOR": "none",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def make(self, *extras: str, **variables: str) -> subprocess.CompletedProcess:
        return self.run(" ".join(["make_environment", *extras]), **variables)

    def installations(self) -> list[tuple[str, str]]:
        """(version, extras) of each `pip install` so far."""
        lines = self.pip_log.read_text().splitlines() if self.pip_log.exists() else []
        return [(line.split()[0], line.partition("[")[2].rstrip("]")) for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_free_of_findings(script: Path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-x", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_probe_answers_with_the_version():
    """The real probe, on the interpreter that runs this test."""
    command = ["bash", "-c", 'source scripts/env.sh; python_version "$1"', "bash", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "{}.{}".format(*sys.version_info[:2]))


def test_search_takes_the_newest_that_works(machine: Machine):
    machine.python("python3.14", None)  # a shim without its version
    machine.python("python3.11", "3.11")
    machine.python("python3", None)
    machine.python("python", "3.13", machine.home / ".pyenv/versions/3.13.0/bin")
    machine.python("python", None, machine.home / ".pyenv/versions/3.8.18/bin")
    machine.python("python", "3.11", machine.home / ".pyenv/versions/3.11.7/bin")
    found = machine.run("find_pythons").stdout.splitlines()
    assert found == [
        f"3.13 {machine.home}/.pyenv/versions/3.13.0/bin/python",
        f"3.11 {machine.bin}/python3.11",
    ]


def test_search_sorts_versions_as_numbers(machine: Machine):
    machine.python("python3", "3.9")  # not filtered here: that is the probe's work
    machine.python("python3.12", "3.12")
    assert [line.split()[0] for line in machine.run("find_pythons").stdout.splitlines()] == ["3.12", "3.9"]


def test_no_python_is_told(machine: Machine):
    done = machine.make()
    assert done.returncode == 2
    assert "no Python from 3.11 up" in done.stderr


def test_second_call_installs_nothing(machine: Machine):
    machine.python("python3.12", "3.12")
    assert machine.make("test").returncode == 0
    assert machine.make("test").returncode == 0
    assert machine.make().returncode == 0  # wants less than there is
    assert machine.installations() == [("3.12", "test")]


def test_extras_add_up(machine: Machine):
    machine.python("python3.12", "3.12")
    machine.make()
    machine.make("test", "dev")
    machine.make("hub")
    assert machine.installations() == [("3.12", ""), ("3.12", "dev,test"), ("3.12", "dev,hub,test")]


def test_changed_pyproject_installs_again(machine: Machine):
    machine.python("python3.12", "3.12")
    machine.make("test")
    (machine.project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    machine.make()
    assert machine.installations() == [("3.12", "test"), ("3.12", "test")]


def test_falls_back_when_wheels_are_missing(machine: Machine):
    machine.python("python3.13", "3.13")
    machine.python("python3.12", "3.12")
    done = machine.make("test", FAILING="3.13")
    assert done.returncode == 0, done.stderr
    assert machine.installations() == [("3.13", "test"), ("3.12", "test")]
    assert "not everything could be installed" in done.stderr
    assert machine.run('python_version "$VENV/bin/python"').stdout == "3.12"


def test_failing_everywhere_is_told_and_tried_again(machine: Machine):
    machine.python("python3.13", "3.13")
    done = machine.make(FAILING="3.13")
    assert done.returncode == 2
    assert "the installation failed" in done.stderr
    assert machine.make().returncode == 0


def test_failed_update_keeps_the_environment(machine: Machine):
    """Without a network, wanting one extra more must not cost the environment that works."""
    machine.python("python3.12", "3.12")
    machine.make()
    (machine.venv / "precious").touch()
    done = machine.make("test", FAILING="3.12")
    assert done.returncode == 2
    assert (machine.venv / "precious").exists()
    assert machine.make().returncode == 0  # what it had is still good


def test_broken_environment_is_made_anew(machine: Machine):
    machine.python("python3.12", "3.12")
    machine.make()
    machine.python("python", None, machine.venv / "bin")
    assert machine.make().returncode == 0
    assert machine.installations() == [("3.12", ""), ("3.12", "")]


def test_other_folder_is_not_deleted(machine: Machine):
    machine.python("python3.12", "3.12")
    machine.venv.mkdir()
    (machine.venv / "thesis.txt").touch()
    done = machine.make()
    assert done.returncode == 2
    assert "no Python environment" in done.stderr
    assert (machine.venv / "thesis.txt").exists()


def test_interpreter_can_be_named(machine: Machine):
    machine.python("python3.12", "3.12")
    machine.python("python3.11", "3.11")
    machine.make()
    assert machine.make(MMRLHF_PYTHON="python3.11").returncode == 0  # another version: made anew
    assert machine.make(MMRLHF_PYTHON="python3.11").returncode == 0
    assert [version for version, _ in machine.installations()] == ["3.12", "3.11"]
    done = machine.make(MMRLHF_PYTHON="python3.10")
    assert done.returncode == 2
    assert "MMRLHF_PYTHON=python3.10" in done.stderr


@pytest.mark.parametrize(
    ("card", "extra"),
    [
        ("580.65.06, 9.0", "cuda13"),
        ("570.86.10, 9.0", "cuda12"),
        ("580.65.06, 7.0", "cuda12"),  # Volta: CUDA 13 has left it
        ("470.57.02, 7.5", ""),
        ("580.65.06, 9.0\\n580.65.06, 7.5", "cuda13"),
    ],
)
def test_accelerator_follows_the_driver(machine: Machine, card: str, extra: str):
    machine.executable(machine.bin / "uname", "#!/bin/bash\necho Linux x86_64\n")
    machine.executable(machine.bin / "nvidia-smi", f"#!/bin/bash\nprintf '{card}\\n'\n")
    done = machine.run("accelerator_extra", MMRLHF_ACCELERATOR="")
    assert (done.returncode, done.stdout.strip()) == (0, extra), done.stderr
    assert ("too old" in done.stderr) == (extra == "")


def test_broken_driver_means_no_accelerator(machine: Machine):
    machine.executable(machine.bin / "nvidia-smi", "#!/bin/bash\necho 'no devices were found'\nexit 9\n")
    assert "cuda" not in machine.run("accelerator_extra", MMRLHF_ACCELERATOR="").stdout


def test_accelerator_can_be_named(machine: Machine):
    assert machine.run("accelerator_extra", MMRLHF_ACCELERATOR="tpu").stdout.strip() == "tpu"
    done = machine.make(MMRLHF_ACCELERATOR="gpu")
    assert done.returncode == 2
    assert "must be cuda12, cuda13, tpu or none" in done.stderr


def test_scripts_can_be_executed():
    for script in SCRIPTS:
        if script.name == "env.sh":  # sourced
            continue
        assert os.access(script, os.X_OK), f"chmod +x {script.name}"

"""What all tests share: a strict, quiet JAX on eight fake CPU devices, no network, and one smoke run."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


def _compilation_cache() -> dict[str, str]:
    """Settings that keep compiled programs from one run of the tests to the next, where that is possible."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(caches, "mmrlhf_jax", "xla"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),  # bytes; the least recently used go first
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _quick_compilation() -> str:
    """XLA_FLAGS under which programs compile two to six times as fast, and run slower: tests mostly compile.

    A flag that jaxlib does not know ends the process, so each is given only to versions that have it.
    """
    release = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    flags = ["--xla_backend_optimization_level=0"]
    if release == (0, 10):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    if release == (0, 12):
        flags.append("--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE")
    return " ".join(flags)


# A user's environment, as commands run in a process of their own get it: offline and on the CPU.
USER_ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_quick_compilation()}".strip(),
    "JAX_PLATFORMS": "cpu",
    **_compilation_cache(),
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}

os.environ.update(USER_ENVIRONMENT)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the process that runs tests strict, before jax is imported for the first time.

    One that only hands tests to others stays as it was: they would pass its strictness on to users' commands.
    """
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
    os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_force_host_platform_device_count=8",
            # Its schedules let the collectives of several fake devices wait for each other on few cores.
            "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        ]
    ).strip()


def find_chromium() -> str | None:
    """The path of a Chromium-like browser, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long = ("medium", "slow", "parity", "learning", "soak", "browser")
    # The files with long tests first, so that no process of several is left alone with them at the end.
    long_files = {item.path for item in items if any(item.get_closest_marker(mark) for mark in long)}
    items.sort(key=lambda item: item.path not in long_files)
    reasons = {}
    if importlib.util.find_spec("torch") is None:
        reasons["parity"] = "torch is not installed, so there is nothing to compare with"
    if find_chromium() is None:
        reasons["browser"] = "no Chromium was found on PATH"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections that leave this machine fail."""

    def guard(connect):
        def guarded(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                host = address[0]
                if not (host in ("localhost", "::1") or host.startswith("127.")):
                    raise PermissionError(f"a test tried to connect to {host}; tests use no network")
            return connect(self, address)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """What a file's tests compiled does not stay in memory, of which it takes gigabytes in the end."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def chromium() -> str | None:
    """The browser for tests marked `browser`."""
    return find_chromium()


@pytest.fixture(scope="session")
def user_environment() -> dict[str, str]:
    """The environment variables for a command that a test runs as a user would."""
    return dict(USER_ENVIRONMENT)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `experiments/pipeline.py --preset smoke`, run once for all tests; read only.

    It takes the better part of a minute: mark the tests that use it `medium` or `slow`.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folders lie side by side
        shared = shared.parent
    folder = shared / "pipeline" / "smoke"
    with FileLock(shared / "pipeline.lock"):
        if not (folder / "summary.json").exists():
            _run_pipeline(folder)
    return folder


def _run_pipeline(folder: Path) -> None:
    command = [sys.executable, "experiments/pipeline.py", "--preset", "smoke", "--run", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=USER_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stdout[-4000:]}")

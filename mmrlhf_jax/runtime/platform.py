"""What the program runs on: settings of JAX for this machine, versions, device, memory, git revision."""

import importlib.util
import logging
import os
import platform as host
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mmrlhf_jax

# With this scheduler jaxlib 0.10 can deadlock on a CPU in small programs that are vmapped over seeds.
CPU_SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
_NVIDIA_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_OTHER_ACCELERATOR_FILES = ("/dev/kfd", "/dev/accel0", "/dev/vfio/0")  # ROCm, TPU, TPU


def prepare_jax(cache: Path | None = None) -> None:
    """Set JAX up for an entry point; call it before the first array is made.

    On a CPU the deadlocking scheduler is turned off, unless the user's XLA_FLAGS name that flag. Compiled
    programs are kept in `cache` (default: $JAX_COMPILATION_CACHE_DIR, else ~/.cache/mmrlhf_jax/xla), so that
    a second start is quick; JAX_ENABLE_COMPILATION_CACHE=false turns that off. JAX, absl and Orbax log
    warnings only.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _runs_on_cpu() and CPU_SCHEDULER_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_SCHEDULER_FLAG}=false".strip()
    for name in ("jax", "absl", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)

    import jax

    default = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/mmrlhf_jax/xla")
    jax.config.update("jax_compilation_cache_dir", str(cache or default))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _runs_on_cpu() -> bool:
    """Whether JAX will choose its CPU backend, judged without importing it; False where in doubt.

    The flag is for the CPU compiler alone, and a TPU's runtime may refuse flags that it does not know.
    """
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted:
        return wanted.split(",")[0].strip() == "cpu"
    if not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
        return True
    if sys.platform != "linux" or "TPU_NAME" in os.environ:
        return False
    nvidia_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    files = _OTHER_ACCELERATOR_FILES + (() if nvidia_hidden else _NVIDIA_FILES)
    return not any(os.path.exists(path) for path in files)


def versions() -> dict[str, str | int | None]:
    """Versions of Python and the libraries (None where absent), the system and the CPU count."""
    found: dict[str, str | int | None] = {
        "python": host.python_version(),
        "mmrlhf_jax": mmrlhf_jax.__version__,
    }
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            found[name.removesuffix("-checkpoint")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name.removesuffix("-checkpoint")] = None
    return found | {"platform": host.platform(), "cpu_count": cpu_count()}


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name() -> str:
    """The devices JAX computes on, e.g. "2 x NVIDIA H100 80GB HBM3". Starts the backend."""
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{_cpu_model()} ({cpu_count()} CPUs)"
    return f"{len(devices)} x {devices[0].device_kind}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else host.processor() or host.machine()


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MiB (resident set)."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would start at the size of the process that started this one
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def git_revision() -> str | None:
    """The commit of the checkout this package runs from, with "+dirty" for uncommitted changes, else None.

    None too where git is missing or refuses, and for an installed copy that only lies inside some repository.
    """
    package = Path(mmrlhf_jax.__file__).parent

    def git(*args: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        revision = git("rev-parse", "--verify", "HEAD").strip()
        return revision + ("+dirty" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None

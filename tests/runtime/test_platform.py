import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata

import jax
import numpy as np
import pytest

import mmrlhf_jax
from mmrlhf_jax.runtime import platform
from mmrlhf_jax.runtime.platform import CPU_SCHEDULER_FLAG


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No settings of the outside, and those of JAX put back afterwards."""
    for name in ("JAX_PLATFORMS", "TPU_NAME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "from_environment"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def machine(monkeypatch, packages=(), files=()):
    monkeypatch.setattr(platform.importlib.util, "find_spec", lambda name: name if name in packages else None)
    monkeypatch.setattr(platform.os.path, "exists", lambda path: path in files)
    monkeypatch.setattr(platform.sys, "platform", "linux")


@pytest.mark.parametrize(
    ("packages", "files", "environment", "expected"),
    [
        ((), (), {}, True),
        ((), ("/dev/nvidiactl",), {}, True),  # a GPU, but a JAX without its plugin
        (("jax_plugins",), (), {}, True),  # the plugin, but no GPU
        (("jax_plugins",), ("/dev/nvidiactl",), {}, False),
        (("jax_plugins",), ("/dev/nvidiactl",), {"CUDA_VISIBLE_DEVICES": ""}, True),
        (("jax_plugins",), ("/dev/kfd",), {"CUDA_VISIBLE_DEVICES": ""}, False),
        (("libtpu",), ("/dev/vfio/0",), {}, False),
        (("libtpu",), (), {"TPU_NAME": "local"}, False),
        (("jax_plugins",), ("/dev/nvidiactl",), {"JAX_PLATFORMS": "cpu"}, True),
        ((), (), {"JAX_PLATFORMS": "tpu,cpu"}, False),
    ],
)
def test_the_cpu_flag_is_set_on_cpu_backends_only(clean, packages, files, environment, expected):
    for name, value in environment.items():
        clean.setenv(name, value)
    with clean.context() as faked:
        machine(faked, packages, files)
        platform.prepare_jax()
    assert (CPU_SCHEDULER_FLAG in os.environ["XLA_FLAGS"]) == expected


def test_flags_of_the_user_stay(clean):
    clean.setenv("JAX_PLATFORMS", "cpu")
    clean.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    platform.prepare_jax()
    platform.prepare_jax()
    assert os.environ["XLA_FLAGS"] == (
        "--xla_force_host_platform_device_count=2 --xla_cpu_enable_concurrency_optimized_scheduler=false"
    )
    clean.setenv("XLA_FLAGS", f"{CPU_SCHEDULER_FLAG}=true")
    platform.prepare_jax()
    assert os.environ["XLA_FLAGS"] == f"{CPU_SCHEDULER_FLAG}=true"


def test_where_compiled_programs_are_kept(clean, tmp_path):
    platform.prepare_jax()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "from_environment")
    platform.prepare_jax(tmp_path / "given")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")
    clean.delenv("JAX_COMPILATION_CACHE_DIR")
    clean.setenv("HOME", str(tmp_path))
    platform.prepare_jax()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "mmrlhf_jax" / "xla")


def test_versions(clean):
    found = platform.versions()
    assert found["jax"] == metadata.version("jax")
    assert found["orbax"] == metadata.version("orbax-checkpoint")
    assert found["mmrlhf_jax"] == mmrlhf_jax.__version__
    assert json.loads(json.dumps(found)) == found
    assert 1 <= found["cpu_count"] <= os.cpu_count()

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    clean.setattr(platform.metadata, "version", absent)
    assert platform.versions()["flax"] is None


def test_peak_memory_is_that_of_this_process():
    held = np.ones(64 * 2**20, np.uint8)
    code = """
        from mmrlhf_jax.runtime.platform import peak_rss_mb
        before = peak_rss_mb()
        held = bytearray(b"x" * (100 * 2**20))
        during = peak_rss_mb()
        del held
        print(before, during, peak_rss_mb())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    before, during, after = map(float, subprocess.check_output(command, text=True).split())
    assert before < platform.peak_rss_mb() - 64, "counts the memory of the process that started this one"
    assert 90 < during - before < 220
    assert after > during - 5  # a peak does not fall, but the kernel counts roughly
    assert held.nbytes == 64 * 2**20


def test_device_name_tells_the_machine():
    name = platform.device_name()
    assert "cpu" not in name.split()  # the kind that JAX itself reports
    assert str(platform.cpu_count() if jax.default_backend() == "cpu" else jax.device_count()) in name


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The package in a small git repository; returns a function that runs git there."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "mmrlhf_jax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(platform.mmrlhf_jax, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(*args):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return git


def test_git_revision(checkout, tmp_path):
    assert platform.git_revision() is None  # no repository
    checkout("init", "-q")
    assert platform.git_revision() is None  # the package is not tracked
    checkout("add", "mmrlhf_jax")
    assert platform.git_revision() is None  # no commit
    checkout("commit", "-qm", "first")
    head = checkout("rev-parse", "HEAD")
    assert len(head) == 40
    assert platform.git_revision() == head
    (tmp_path / "mmrlhf_jax" / "__init__.py").write_text("x = 1\n")
    assert platform.git_revision() == head + "+dirty"


def test_git_revision_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert platform.git_revision() is None

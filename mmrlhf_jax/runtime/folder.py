"""The folder of one stage of a run: its config, versions, lock, time and result."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import as_plain, write_text
from mmrlhf_jax.processes import is_first, of_first
from mmrlhf_jax.runtime.footprint import Footprint
from mmrlhf_jax.runtime.lock import FolderLock
from mmrlhf_jax.runtime.platform import git_revision, peak_rss_mb, versions

# fields that may change between two starts of one stage: they do not change what is computed
HARMLESS_FIELDS = (
    "preset",
    "run",
    "resume",
    "dry_run",
    "log_every",
    "save_every",
    "stop_after_skipped",
    "keep_best",
    "workers",
    "mesh",
    "mesh_frozen",
)


OWN_FILES = ("config.yaml", "versions.json", "usage.json")  # written by every start


class StageFolder:
    """A stage's folder while this process owns it; a context manager that gives the folder back.

    Where a `UserError` ends the block before the stage wrote anything, opening the folder is undone.

    It holds config.yaml, versions.json, metrics.jsonl, tensorboard/, checkpoints/, samples/, model/ and, once
    the stage is done, result.json. Of several processes the first one owns it for all of them.
    """

    def __init__(self, path: Path, hold: "_Hold | None") -> None:
        self.path = path
        self.is_done = False
        self._hold = hold
        self._usage = _Usage(path / "usage.json")

    @classmethod
    def open(cls, path: str | Path, config: Any, *, resume: bool) -> Self:
        """Create the folder for the dataclass `config`, or reopen the one that has the same config.

        Raises `UserError` if another process holds the folder, if it was made with another config, or if its
        stage is started but not done and `resume` is False.
        """
        folder = cls(Path(path), _Hold(Path(path)) if is_first() else None)
        folder.is_done = of_first(lambda: folder._take(as_plain(config), resume))
        return folder

    def _take(self, config: dict[str, Any], resume: bool) -> bool:
        """Makes the folder this process's own; whether its stage is done."""
        assert self._hold is not None  # the first process
        self._hold.take()
        try:
            self._claim(config, resume)
        except BaseException as error:
            self._hold.give_back(error)
            raise
        return _is_done(self.path)

    def _claim(self, config: dict[str, Any], resume: bool) -> None:
        config_path = self.path / "config.yaml"
        started = config_path.exists()
        if started:
            _require_same_config(self.path, read_config(self.path), config)
            if _is_done(self.path):
                return
            if not resume:
                raise UserError(
                    f"{self.path} holds an unfinished run: "
                    "add --resume to go on, or delete the folder to start anew"
                )
        else:
            for folder in (self.checkpoints, self.samples, self.model):
                folder.mkdir(exist_ok=True)
        self._write_versions()
        self._usage.start(self.metrics_path)
        if not started:  # last, because from here on the stage counts as started
            import yaml

            write_text(config_path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _write_versions(self) -> None:
        path = self.path / "versions.json"
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        now = {"git_revision": git_revision(), "command": sys.argv, "started": started}
        record: dict[str, Any] = {**versions(), **now}
        if path.exists():  # a resumed run keeps what its earlier starts ran on
            before = _read_record(path, "delete it: only what earlier starts ran on is lost")
            record["earlier"] = [*before.pop("earlier", []), before]
        write_text(path, json.dumps(record, indent=2) + "\n")

    @property
    def checkpoints(self) -> Path:
        """Folder of the Orbax checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Folder of pictures and texts made along the way."""
        return self.path / "samples"

    @property
    def model(self) -> Path:
        """Folder of the final weights (safetensors)."""
        return self.path / "model"

    @property
    def metrics_path(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def result(self) -> dict[str, Any]:
        """What `finish` wrote. Raises `UserError` if the stage is not done."""
        return of_first(lambda: read_result(self.path))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the stage as done.

        Adds `wall_seconds` (time with the folder open, summed over restarts) and `peak_rss_mb` (the most over
        restarts). NaN and infinity become null.
        """

        def write() -> None:
            record = {**result, **self._usage.stop()}
            write_text(self.path / "result.json", json.dumps(as_plain(record, finite=True), indent=2) + "\n")

        of_first(write)
        self.is_done = True

    def close(self) -> None:
        """Note the time spent and give the folder back."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hold is not None:
            self._usage.stop()
            self._hold.give_back(error)


class _Hold:
    """The lock of a folder, and what opening it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FolderLock(path)
        self._footprint = Footprint(path, OWN_FILES, ignored=("lock.json",))

    def take(self) -> None:
        """Makes the folder, and locks it."""
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()

    def give_back(self, error: BaseException | None) -> None:
        """Unlocks it; after a `UserError` what was made for a stage that wrote nothing goes."""
        undone = isinstance(error, UserError)
        if undone:
            self._footprint.take_back()
        self._lock.release()
        if undone:
            self._footprint.remove_folders()


class _Usage:
    """Wall time and peak memory of a stage, summed over its restarts and kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since: float | None = None
        self._seconds = 0.0
        self._peak_mb = 0.0

    def start(self, metrics_path: Path) -> None:
        """Begin to count. A start that was killed counts up to its last line of metrics."""
        if self._path.exists():
            before = _read_record(self._path, "delete it: only the time spent before is lost")
            self._seconds, self._peak_mb = before["wall_seconds"], before["peak_rss_mb"]
            if before["running_since"] is not None and metrics_path.exists():
                self._seconds += max(0.0, metrics_path.stat().st_mtime - before["running_since"])
        self._since = time.time()
        self._write()

    def stop(self) -> dict[str, float]:
        """End the count; the totals. Does nothing more on a second call."""
        if self._since is not None:
            self._seconds += max(0.0, time.time() - self._since)
            self._peak_mb = max(self._peak_mb, peak_rss_mb())
            self._since = None
            self._write()
        return {"wall_seconds": round(self._seconds, 3), "peak_rss_mb": round(self._peak_mb, 1)}

    def _write(self) -> None:
        record = {"wall_seconds": self._seconds, "peak_rss_mb": self._peak_mb, "running_since": self._since}
        write_text(self._path, json.dumps(record) + "\n")


def _is_done(path: Path) -> bool:
    """Whether the stage in this folder has written its result."""
    return (path / "result.json").exists()


def read_result(path: str | Path) -> dict[str, Any]:
    """The result of the stage in folder `path`. Raises `UserError` if that stage is not done."""
    file = Path(path) / "result.json"
    if not file.exists():
        raise UserError(f"{path} holds no result.json: run that stage to its end first")
    return _read_record(file, "delete it and start that stage with --resume, which makes it anew")


def _read_record(file: Path, remedy: str) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{file} is damaged: {remedy}")
    return record


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of the stage in folder `path` as nested dicts. Raises `UserError` if it cannot be read."""
    import yaml

    file = Path(path) / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} holds no config.yaml: run that stage first") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} is not valid YAML: restore it, or delete the folder to start anew "
            f"({' '.join(str(error).split())})"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a config: delete the folder to start anew")
    return config


def _require_same_config(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    missing = "(none)"
    before, now = _flatten(old), _flatten(new)
    changes = [
        f"{name}: {before.get(name, missing)} -> {now.get(name, missing)}"
        for name in sorted(before.keys() | now.keys())
        if name.rsplit(".", 1)[-1] not in HARMLESS_FIELDS
        and before.get(name, missing) != now.get(name, missing)
    ]
    if changes:
        raise UserError(
            f"{path} was made with another config ({'; '.join(changes)}): "
            "choose another --run, or delete the folder to start anew"
        )


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat

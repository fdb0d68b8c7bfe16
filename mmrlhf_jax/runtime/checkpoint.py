"""Checkpoints that are saved in the background, checked before they are used, and survive damage.

Orbax writes each step; a manifest with the checksum of every file lies beside it. Orbax alone would restore
a flipped bit without a word, stop at a damaged step instead of taking the one before, and cast a wrong dtype.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmrlhf_jax.config import positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.processes import is_first, of_first

# What the system says where it refuses to write, somewhere in the error, and how to mend it.
_REFUSALS = {
    "No space left on device": "make room there",
    "Disk quota exceeded": "make room there",
    "Read-only file system": "choose a --run on a disk that can be written to",
    "Permission denied": "give yourself the right to write there",
    "Operation not permitted": "give yourself the right to write there",
    "timed out": "the disk is too slow, or the clock jumped",
}

_log = logging.getLogger(__name__)


class Checkpointer:
    """Saves and restores a pytree of arrays by step, in `directory`; a context manager.

    Keeps the newest `keep` steps, and the one with the highest score of those that were given one. Layout:
    `<step>/` by Orbax, a flat dict from leaf path ("params/head/kernel") to array, and `<step>.manifest`.
    Empty arrays, which Orbax refuses, are made anew on restore. Several processes, which must see one disk,
    save and restore together: each its own parts of arrays, and the first one decides and keeps the rest.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        positive_int("keep", keep, "2")
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._damaged: list[int] = []
        self._refused = False  # a save by the system
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        # Orbax keeps all: old steps are removed here, once the new one has its manifest
        # folders are made at once: where that is refused, Orbax's threads would wait for them for minutes
        at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=None, async_options=at_once)
        )

    @property
    def steps(self) -> list[int]:
        """Steps on disk, oldest first, damaged ones included."""
        return sorted(
            int(path.name) for path in self.directory.iterdir() if path.name.isdigit() and path.is_dir()
        )

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Begin to save `state` as `step`; arrays may be donated or changed as soon as this returns.

        Raises `UserError` if `step` is not above every saved one, if Orbax declines, or if the system refuses
        to write, now or where the save before ended in the background.
        """
        self.wait()
        if of_first(lambda: self._clear_the_way(step)):
            self._manager.reload()
        self._damaged = []
        leaves = _flatten(state)
        stored = {name: leaf for name, leaf in leaves.items() if math.prod(leaf.shape)}
        with self._told_if_refused(step):
            if not self._manager.save(step, args=ocp.args.StandardSave(stored)):
                raise UserError(f"Orbax declined to save step {step} in {self.directory}")
        described = {name: _describe(leaf) for name, leaf in leaves.items()}
        score = None if score is None or not math.isfinite(score) else float(score)
        self._pending = self._background.submit(self._finish, step, described, score)

    def wait(self) -> None:
        """Block until the save under way is complete; raises what it failed with."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
        """The newest undamaged step and its state, None if nothing was ever saved.

        `restore_best` gives the one with the highest score.

        `abstract_state` gives structure, shapes, dtypes and, where its leaves have one, shardings: the result
        of `jax.eval_shape`, or a state itself. Damaged steps are left as they are, with a warning that names
        them. Raises `UserError` if every step is damaged, or a leaf is absent or of another dtype or shape.
        """
        self.wait()
        return self._restore(self._newest, abstract_state)

    def restore_best(self, abstract_state: Any) -> tuple[int, Any] | None:
        """The undamaged step with the highest score and its state; None if no step that is left has one.

        Arguments and errors are those of `restore`.
        """
        self.wait()
        return self._restore(self._best, abstract_state)

    def close(self) -> None:
        """Complete the save under way and free Orbax's threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            try:
                self._manager.close()
            except Exception:  # it tells once more what was told
                if not self._refused:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _restore(
        self, choose: Callable[[], tuple[int, dict[str, Any]] | None], abstract_state: Any
    ) -> tuple[int, Any] | None:
        chosen = of_first(choose)
        if chosen is None:
            return None
        step, leaves = chosen
        if not is_first():
            self._manager.reload()  # the first one may have seen it earlier
        return step, self._load(step, leaves, abstract_state)

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest undamaged step and its leaves; remembers those that are damaged."""
        self._damaged = []
        steps = self.steps
        for step in reversed(steps):
            try:
                return step, self._verify(step)
            except _Damage as damage:
                _log.warning(
                    "checkpoint %s is damaged (%s): trying the one before", self.directory / str(step), damage
                )
                self._damaged.append(step)
        if steps:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged (steps {', '.join(map(str, steps))}): "
                "bring back a copy, or delete the folder to start anew"
            )
        return None

    def _best(self) -> tuple[int, dict[str, Any]] | None:
        """The undamaged step with the highest score, and its leaves."""
        ranked = sorted((score, step) for step in self.steps if (score := self._score(step)) is not None)
        for _, step in reversed(ranked):
            try:
                return step, self._verify(step)
            except _Damage as damage:
                _log.warning("checkpoint %s is damaged (%s)", self.directory / str(step), damage)
        return None

    def _clear_the_way(self, step: int) -> bool:
        """Makes sure that `step` can be saved; whether steps were set aside for it."""
        latest = max((known for known in self.steps if known not in self._damaged), default=-1)
        if step <= latest:
            raise UserError(
                f"cannot save step {step}: {self.directory} already holds step {latest}; "
                "add --resume to go on from it, or choose another --run"
            )
        aside = bool(self._damaged)
        self._set_damaged_aside()
        self._remove_unfinished()
        return aside

    def _finish(self, step: int, leaves: dict[str, list[Any]], score: float | None) -> None:
        """In the background: await Orbax, write the manifest, remove what is no longer kept."""
        with self._told_if_refused(step):
            self._manager.wait_until_finished()
            if is_first():
                self._write_manifest(step, leaves, score)
                self._remove_old()

    @contextlib.contextmanager
    def _told_if_refused(self, step: int) -> Iterator[None]:
        """Makes one line of what the system refuses, which Orbax passes on in many forms."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = next((reason for reason in _REFUSALS if reason.lower() in str(error).lower()), None)
            if reason is None:
                raise
            self._refused = True
            raise UserError(
                f"step {step} could not be saved in {self.directory} ({reason}): {_REFUSALS[reason]}, "
                "then --resume from the step before, which is whole"
            ) from error

    def _manifest(self, step: int) -> Path:
        return self.directory / f"{step}.manifest"

    def _score(self, step: int) -> float | None:
        """What the manifest says of a step's score; damage is found where the step is read."""
        try:
            return json.loads(self._manifest(step).read_text(encoding="utf-8").partition("\n")[2]).get(
                "score"
            )
        except (OSError, ValueError, AttributeError):
            return None

    def _write_manifest(self, step: int, leaves: dict[str, list[Any]], score: float | None) -> None:
        folder = self.directory / str(step)
        files = {
            path.relative_to(folder).as_posix(): _checksum(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        body = json.dumps({"leaves": leaves, "files": files, "score": score}, sort_keys=True)
        # the first line vouches for the second
        write_text(self._manifest(step), f"{hashlib.blake2b(body.encode()).hexdigest()}\n{body}\n")

    def _verify(self, step: int) -> dict[str, list[Any]]:
        """Dtype and shape of each leaf of an undamaged step; raises `_Damage`."""
        path = self._manifest(step)
        if not path.exists():
            raise _Damage(f"{path.name} is missing")
        digest, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        body = body.removesuffix("\n")
        if hashlib.blake2b(body.encode()).hexdigest() != digest:
            raise _Damage(f"{path.name} is not as it was written")
        manifest = json.loads(body)
        for name, checksum in manifest["files"].items():
            file = self.directory / str(step) / name
            if not file.is_file():
                raise _Damage(f"{name} is missing")
            if _checksum(file) != checksum:
                raise _Damage(f"{name} is not as it was written")
        return manifest["leaves"]

    def _load(self, step: int, saved: dict[str, list[Any]], abstract_state: Any) -> Any:
        targets = _flatten(abstract_state)
        _require_same_leaves(
            f"{self.directory / str(step)}", saved, {k: _describe(v) for k, v in targets.items()}
        )
        stored = {name: _target(leaf) for name, leaf in targets.items() if math.prod(leaf.shape)}
        arrays = self._manager.restore(step, args=ocp.args.StandardRestore(stored))
        empty = {name: leaf for name, leaf in targets.items() if name not in stored}
        arrays |= {name: jax.numpy.zeros(leaf.shape, leaf.dtype) for name, leaf in empty.items()}
        return jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[name] for name in targets])

    def _set_damaged_aside(self) -> None:
        """Rename the steps that `restore` skipped, so that their numbers can be saved again."""
        for step in self._damaged:
            number = 0
            while (aside := self.directory / f"damaged_{step}_{number}").exists():
                number += 1
            (self.directory / str(step)).rename(aside)
            if self._manifest(step).exists():
                self._manifest(step).rename(aside.with_suffix(".manifest"))

    def _remove_old(self) -> None:
        scores = {step: score for step in self.steps if (score := self._score(step)) is not None}
        best = max(scores, key=lambda step: (scores[step], step), default=None)
        for step in self.steps[: -self._keep]:
            if step == best:
                continue
            self._manifest(step).unlink(missing_ok=True)
            shutil.rmtree(self.directory / str(step))

    def _remove_unfinished(self) -> None:
        """What saves left behind that were killed, or for which there was no space."""
        for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path)


class _Damage(Exception):
    """What is wrong with a step on disk."""


def _flatten(state: Any) -> dict[str, Any]:
    """Leaves by path; whatever is neither an array nor a description of one becomes a numpy array."""
    leaves, _ = jax.tree.flatten_with_path(state)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        if hasattr(leaf, "dtype")
        else np.asarray(leaf)
        for path, leaf in leaves
    }
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have one path")
    return named


def _describe(leaf: Any) -> list[Any]:
    return [str(leaf.dtype), list(leaf.shape)]


def _target(leaf: Any) -> Any:
    """What Orbax shall restore a leaf as: numpy as numpy, the rest on its sharding or on the first device."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.asarray(leaf)
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _require_same_leaves(where: str, saved: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> None:
    def show(leaf: list[Any] | None) -> str:
        return "absent" if leaf is None else f"{leaf[0]}{leaf[1]}"

    different = [name for name in sorted(saved | wanted) if saved.get(name) != wanted.get(name)]
    if different:
        listed = "; ".join(
            f"{name} is {show(saved.get(name))}, wanted {show(wanted.get(name))}" for name in different[:3]
        )
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{where} is the state of another model: {listed}{more}. Use the config that it was made with"
        )


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()

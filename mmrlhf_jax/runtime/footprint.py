"""Leaving no trace: what a start that came to nothing wrote is taken back."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_bytes

_SQLITE = ("", "-wal", "-shm", "-journal")  # what SQLite lays beside a database


class Footprint:
    """What opening a folder changes in it; made before the folder is.

    Args:
      own: names of the files that every opening writes.
      ignored: names of files that do not count.
    """

    def __init__(self, folder: Path, own: Sequence[str], ignored: Sequence[str] = ()) -> None:
        self._folder = folder
        self._ignored = {*own, *ignored}
        self._missing = _missing(folder)
        self._content = {name: _read(folder / name) for name in own}
        self._others = self._seen()

    def take_back(self) -> None:
        """Puts the own files back as they were, unless any other file was written meanwhile.

        Folders that are empty and were not there before go too.
        """
        if {path: seen for path, seen in self._seen().items() if seen} != {
            path: seen for path, seen in self._others.items() if seen
        }:
            return
        for name, content in self._content.items():
            if content is None:
                (self._folder / name).unlink(missing_ok=True)
            else:
                write_bytes(self._folder / name, content)
        made = [path for path, seen in self._seen().items() if seen is None and path not in self._others]
        _remove_empty(sorted(made, reverse=True))

    def remove_folders(self) -> None:
        """Removes the folder itself, and those above it, where they were made for it and are empty."""
        _remove_empty(self._missing)

    def _seen(self) -> dict[Path, tuple[int, int] | None]:
        """Size and time of change of each file, None for a folder."""
        return {
            path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
            for path in self._folder.rglob("*")
            if path.parent != self._folder or path.name not in self._ignored
        }


@contextlib.contextmanager
def undone_on_error(database: Path) -> Iterator[None]:
    """Removes an SQLite database, and folders made for it, if it is new and a `UserError` ends the block."""
    was_there, missing = database.exists(), _missing(database.parent)
    try:
        yield
    except UserError:
        if not was_there:
            for suffix in _SQLITE:
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            _remove_empty(missing)
        raise


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

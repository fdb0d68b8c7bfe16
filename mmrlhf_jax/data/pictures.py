"""The pictures of a file of records: bytes in the record, files under one declared folder, or addresses.

A file from a stranger must not read other files of this machine, nor make it fetch anything: paths are
relative and stay under the folder, links included, and addresses are refused unless asked for.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.errors import UserError

IMAGE_COLUMNS = ("images", "image")
PICTURE = "picture column"  # in every message about a picture that cannot be had


class Pictures:
    """The distinct pictures (by their bytes) met so far, each decoded once, fitted into `size` on white.

    Args:
      folder: under which pictures given by path lie.
      size: pixels.
      fetch: gives the bytes at an address, or raises UserError; by default addresses are refused.
    """

    def __init__(self, folder: Path, size: int, fetch: Callable[[str], bytes] | None = None):
        self.folder = folder.resolve()
        self.size = size
        self.fetch = fetch
        self.images: list[Any] = []
        self._index_of: dict[bytes, int] = {}

    def add(self, value: Any, where: str, column: str) -> int:
        """The number of the picture that `value` holds or points to.

        Args:
          value: encoded bytes, a relative path, an address, or a struct {"bytes", "path"} whose bytes are
            base64 in JSON.
          where: file and row, for errors.
          column: in which `value` stands, for errors.

        Raises:
          UserError: no picture, a damaged one, or one outside of the folder.
        """
        where = f"{where}, {PICTURE} {column}"
        data = self._bytes(value, where)
        digest = hashlib.sha256(data).digest()
        if digest not in self._index_of:
            kept = self.take(data, where)
            if kept is not None:
                self.images.append(kept)
            self._index_of[digest] = len(self._index_of)
        return self._index_of[digest]

    def take(self, data: bytes, where: str) -> Any:
        """What is kept of a picture's bytes in memory: here its pixels, fitted into the size; or None."""
        return decode_image(data, size=self.size, source=where)

    @property
    def digests(self) -> list[bytes]:
        """SHA-256 of each picture's bytes, in the order in which they were met."""
        return list(self._index_of)

    def stack(self) -> np.ndarray:
        """All of them, uint8 (N, size, size, 3)."""
        return np.stack(self.images)

    def _bytes(self, value: Any, where: str) -> bytes:
        if isinstance(value, dict):
            data = value.get("bytes")
            if isinstance(data, str):
                try:
                    return base64.b64decode(data, validate=True)
                except (binascii.Error, ValueError) as error:
                    raise UserError(f"{where}: the picture's bytes are not base64 ({error})") from error
            value = value.get("path") if data is None else data
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return self._fetch(value, where) if _is_address(value) else self._read(value, where)
        raise UserError(f'{where}: no picture; give a relative path, or {{"bytes": ...}} (base64 in JSONL)')

    def _fetch(self, address: str, where: str) -> bytes:
        if self.fetch is None:
            raise UserError(
                f"{where}: {address[:80]!r} is a URL; fetch the picture and give its relative path, "
                "or allow URLs"
            )
        try:
            return self.fetch(address)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def _read(self, name: str, where: str) -> bytes:
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        outside = windows.anchor or posix.is_absolute() or ".." in windows.parts or "\0" in name
        file = None if outside else (self.folder / name).resolve()
        if file is None or not file.is_relative_to(self.folder):
            raise UserError(f"{where}: {name!r} lies outside of {self.folder}; pictures must lie under it")
        if not file.is_file():
            raise UserError(f"{where}: there is no picture {name!r} in {self.folder}; put it there")
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{where}: {name!r} cannot be read ({error.strerror})") from error


class PassedPictures(Pictures):
    """Pictures that are looked at and let go, where only what is said of them is wanted."""

    def take(self, data: bytes, where: str) -> None:
        super().take(data, where)


def _is_address(name: str) -> bool:
    return "://" in name or name.startswith("data:")


def check_columns(columns: Collection[str], texts: Collection[str], where: str) -> str:
    """The name of the picture column of a record or file; checks that the columns `texts` are there too."""
    need_columns(columns, texts, where)
    found = [name for name in IMAGE_COLUMNS if name in columns]
    if len(found) != 1:
        problem = (
            "columns 'images' and 'image' are both there; drop one"
            if found
            else "there is no column 'images'"
        )
        raise UserError(f"{where}: {problem} ({_have(columns)})")
    return found[0]


def need_columns(columns: Collection[str], needed: Collection[str], where: str) -> None:
    """Raises UserError if one of `needed` is not among the columns of a record or file."""
    for name in needed:
        if name not in columns:
            raise UserError(
                f"{where}: there is no column {name!r} ({_have(columns)}); rename the one that is meant"
            )


def _have(columns: Collection[str]) -> str:
    return f"it has {', '.join(columns) or 'none'}"


def record_pictures(row: dict[str, Any], column: str, where: str, *, at_most: int = 1) -> list[Any]:
    """What stands in the picture column, as a list of one to `at_most` pictures that are not read yet."""
    value, where = row[column], f"{where}, {PICTURE} {column}"
    if column == "image":
        return [value]
    if not isinstance(value, list) or not 1 <= len(value) <= at_most:
        wanted = "a list of one picture" + (" (or two, one for each answer)" if at_most == 2 else "")
        count = len(value) if isinstance(value, list) else repr(value)[:60]
        raise UserError(f"{where}: {wanted} is needed, not {count}")
    return value

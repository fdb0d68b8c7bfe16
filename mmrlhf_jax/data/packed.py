"""Pictures of a set that is larger than memory, packed once into array files that are mapped, never loaded.

A packed folder holds `pictures.bin`, the encoded pictures one after the other; `offsets.npy`, where each of
them starts and the last one ends; `captions.jsonl`, a line for each; and `manifest.json`, which says of what
files they were made. Captions are held in memory, pictures are not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmrlhf_jax.data.captioned import IMAGES, OwnPictures, picture_folder, read_pictures
from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.images import decode_image
from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import write_text
from mmrlhf_jax.processes import of_first

PICTURES, OFFSETS, CAPTIONS, MANIFEST = "pictures.bin", "offsets.npy", "captions.jsonl", "manifest.json"


class PackedPictures(OwnPictures):
    """The pictures of a packed folder, decoded when they are asked for.

    Args:
      folder: what `open_packed` made.
      image_size: pixels of the squares on white into which pictures are fitted.
    """

    def __init__(self, folder: Path, image_size: int):
        rows = [json.loads(line) for line in (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()]
        captions = tuple(
            Caption(row["captions"][0], tuple(row["keywords"]), others=tuple(row["captions"][1:]))
            for row in rows
        )
        digests = tuple(bytes.fromhex(row["sha256"]) for row in rows)
        super().__init__(captions, digests, None, _manifest(folder).get("skipped", []))
        self._image_size = image_size
        self._offsets = np.load(folder / OFFSETS)
        self._bytes = np.memmap(folder / PICTURES, np.uint8, "r")
        self._name = str(folder / PICTURES)

    def image(self, number: int) -> np.ndarray:
        """Picture `number`, uint8 (image_size, image_size, 3); threads may call it at the same time."""
        start, end = self._offsets[number : number + 2]
        where = f"{self._name}, picture {number + 1}"
        return decode_image(self._bytes[start:end].tobytes(), size=self._image_size, source=where)

    def images(self, rows: np.ndarray) -> "PackedImages":
        """The pictures at `rows`, decoded where they are indexed."""
        return PackedImages(self, rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> CaptionSet:
        """The pictures at `rows`, decoded into memory."""
        rows = np.asarray(rows)
        return CaptionSet(self.images(rows)[np.arange(len(rows))], tuple(self.captions[i] for i in rows))


class PackedImages:
    """Stands for an array (N, H, W, 3) of some pictures of a packed folder."""

    def __init__(self, pictures: PackedPictures, rows: np.ndarray):
        self._pictures, self._rows = pictures, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([self._pictures.image(int(self._rows[number])) for number in numbers])


def open_packed(folder: Path, path: Path, image_size: int, *, on_bad: str = "error") -> PackedPictures:
    """The pictures at `path` as packed in `folder`, which is done where it was not, or files have changed.

    Raises:
      UserError: what `read_pictures` raises.
    """

    def pack() -> None:
        source = {"path": str(path.resolve()), "files": fingerprint(path), "on_bad": on_bad}
        if _manifest(folder).get("source") != source:
            _pack(folder, path, image_size, on_bad, source)

    of_first(pack)
    return PackedPictures(folder, image_size)


def fingerprint(path: Path) -> str:
    """Changes with the name, length or time of change of any file of a set of pictures."""
    if not path.exists():
        raise UserError(f"{path}: there is no such folder or file")
    folders = [path] if path.is_dir() else [path.parent / IMAGES]
    files = [path] if path.is_file() else []
    files += sorted(file for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        if not file.is_dir():
            digest.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


class _Packer(Pictures):
    """Writes each picture's bytes once it was seen that they can be decoded."""

    def __init__(self, folder: Path, size: int, file: BinaryIO):
        super().__init__(folder, size)
        self._file = file
        self.offsets = [0]

    def take(self, data: bytes, where: str) -> None:
        super().take(data, where)
        self._file.write(data)
        self.offsets.append(self.offsets[-1] + len(data))


def _pack(folder: Path, path: Path, image_size: int, on_bad: str, source: dict[str, str]) -> None:
    """Packs beside `folder` and moves the whole there: a reader or a crash never meets half of it."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        with open(fresh / PICTURES, "wb") as file:
            packer = _Packer(picture_folder(path), image_size, file)
            own = read_pictures(path, image_size, on_bad=on_bad, pictures=packer)
        np.save(fresh / OFFSETS, np.array(packer.offsets, np.int64))
        lines = [
            {"sha256": digest.hex(), "captions": caption.texts, "keywords": caption.keywords}
            for digest, caption in zip(own.digests, own.captions, strict=True)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(fresh / CAPTIONS, text)
        record = {"source": source, "pictures": len(lines), "skipped": own.skipped}
        write_text(fresh / MANIFEST, json.dumps(record, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _manifest(folder: Path) -> dict[str, Any]:
    """What was packed in the folder; nothing where that is not known."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

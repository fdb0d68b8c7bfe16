"""Tiny one-coloured pictures for files of judgements, which lossless WebP keeps exactly."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.images import encode_webp

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}


def picture(name: str, size: int = 8) -> np.ndarray:
    """A picture in one colour, uint8 (size, size, 3)."""
    return np.full((size, size, 3), COLOURS[name], np.uint8)


def encoded(name: str) -> bytes:
    """The same as WebP."""
    return encode_webp(picture(name))


def in_json(name: str) -> dict[str, str]:
    """The same as a struct in JSON."""
    return {"bytes": base64.b64encode(encoded(name)).decode()}


def put(folder: Path, *names: str) -> None:
    """Writes such pictures as NAME.webp."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.webp").write_bytes(encoded(name))


def colour_of(image_HxWxC: np.ndarray) -> str:
    """The name of the colour of a picture."""
    return next(name for name, colour in COLOURS.items() if (image_HxWxC == colour).all())


def colours(images_NxHxWxC: np.ndarray, index: np.ndarray | None) -> list[str]:
    """The colours of the pictures at `index`."""
    assert index is not None
    return [colour_of(images_NxHxWxC[i]) for i in index]


def write_lines(path: Path, *records: Any) -> Path:
    """Writes a JSONL file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path

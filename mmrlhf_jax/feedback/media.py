"""Pictures and sounds on their way into the store: made anew from what they show and sound like."""

import io
import wave
from pathlib import Path

import numpy as np
from PIL import Image

from mmrlhf_jax.data.images import decode_image, encode_webp
from mmrlhf_jax.data.pictures import Pictures
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.store import Store

MAX_SIDE = 1600  # pixels of a picture on the page
LOSSLESS_SIDE = 256  # a picture up to this size is kept pixel by pixel


def add_picture(store: Store, picture: bytes | np.ndarray | Path, where: str) -> str:
    """Puts a picture into the store, made anew from its pixels: no metadata, nothing else, not too large."""
    array = decode_image(picture, size=None, source=where)
    if max(array.shape[:2]) > MAX_SIDE:
        image = Image.fromarray(array)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        array = np.asarray(image)
    quality = None if max(array.shape[:2]) <= LOSSLESS_SIDE else 90
    return store.add_media(encode_webp(array, quality=quality), "image/webp")


def add_sound(store: Store, path: Path, where: str) -> str:
    """Puts a WAV file into the store, made anew from its samples."""
    buffer = io.BytesIO()
    try:
        with wave.open(str(path), "rb") as source, wave.open(buffer, "wb") as target:
            target.setparams(source.getparams())
            target.writeframes(source.readframes(source.getnframes()))
    except (wave.Error, EOFError, OSError) as error:
        raise UserError(f"{where}: {path.name} is not a readable WAV file ({error})") from error
    return store.add_media(buffer.getvalue(), "audio/wav")


def beside(file: Path, name: str, where: str) -> Path:
    """The file `name` that lies beside `file` or below its folder.

    Raises:
      UserError: it lies elsewhere, is a URL, or is not there.
    """
    folder = file.parent.resolve()
    found = (folder / name).resolve() if name and "\0" not in name and "://" not in name else None
    if found is None or not found.is_relative_to(folder) or not found.is_file():
        raise UserError(f"{where}: {name[:80]!r} is not a file in {folder}; put it there and give its name")
    return found


class StoredPictures(Pictures):
    """The pictures of a file of records, each put into the store at its full size; `images` are their ids."""

    def __init__(self, folder: Path, store: Store):
        super().__init__(folder, MAX_SIDE)
        self.store = store

    def take(self, data: bytes, where: str) -> str:
        return add_picture(self.store, data, where)

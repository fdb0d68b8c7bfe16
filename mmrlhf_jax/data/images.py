"""Pictures of any origin to uint8 RGB arrays, and back: the one place where untrusted image bytes are opened.

A picture from a stranger may be a web page, half a file, or a few kilobytes that unpack to gigabytes.
`decode_image` reads the header, compares the size with a limit of its own, and only then decodes.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmrlhf_jax.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000

# What Pillow's readers raise on damaged input, seen by feeding them cut and flipped files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_image(
    data: bytes | Path | np.ndarray | Image.Image,
    *,
    size: int | None,
    max_pixels: int = MAX_PIXELS,
    source: str = "",
) -> np.ndarray:
    """One picture as RGB.

    The EXIF orientation is applied; transparent parts become white; CMYK, palette, grey and 16-bit pictures
    are converted; of an animation the first frame is taken.

    Args:
      data: an encoded picture (PNG, JPEG, WebP, GIF, BMP), the path of one, a uint8 array HxW, HxWx1, HxWx3
        or HxWx4, or a PIL image.
      size: if given, the picture is scaled to fit into size x size pixels, its shape kept, centred on white,
        so that nothing of it is cut off. None leaves the size as it is.
      max_pixels: a picture whose header announces more is refused before any pixel is decoded.
      source: what error messages call the picture, e.g. "pairs.jsonl, line 3, column images".

    Returns:
      uint8, HxWx3, 0-255, contiguous, writable.

    Raises:
      UserError: no picture, a damaged one, one of another format, or one that is too large.
    """
    name = source or (str(data) if isinstance(data, Path) else "the picture")
    if size is not None and size < 1:
        raise UserError(
            f"size is {size}: give a positive number of pixels, or None to leave pictures as they are"
        )
    if isinstance(data, np.ndarray):
        data = _from_array(data, name)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata (harmless) and of sizes above its own limit (checked here with ours).
        warnings.simplefilter("ignore")
        if isinstance(data, Image.Image):
            return np.array(_decode(data, size, max_pixels, name))
        with _open(data, name) as image:
            return np.array(_decode(image, size, max_pixels, name))


def encode_webp(image_HxWxC: np.ndarray, *, quality: int | None = None) -> bytes:
    """A uint8 RGB picture as WebP bytes: lossless, or lossy with `quality` 0-100 (90 is a third as large)."""
    buffer = io.BytesIO()
    # Lossless effort 0 is twenty times as fast as the default and costs seven percent of size.
    options = {"lossless": True, "method": 0} if quality is None else {"quality": quality}
    Image.fromarray(image_HxWxC).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _open(data: bytes | Path, name: str) -> Image.Image:
    """The picture with its header read and no pixel decoded."""
    if isinstance(data, Path):
        if not data.is_file():
            raise UserError(f"{name}: there is no such file")
        file: Path | io.BytesIO = data
    else:
        if not data:
            raise UserError(f"{name}: the picture is empty (0 bytes)")
        file = io.BytesIO(data)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: the picture is far too large ({error}); scale it down first") from error
    except _DAMAGE as error:
        raise UserError(f"{name}: {_what_else(data)}") from error


def _what_else(data: bytes | Path) -> str:
    """What is wrong with bytes that no reader recognises."""
    try:
        head = data[:512] if isinstance(data, bytes) else data.open("rb").read(512)
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    if head.lstrip()[:1] == b"<" and b"html" in head.lower():
        return "this is a web page, not a picture; its download failed, fetch it again"
    return "not a readable picture; give a whole PNG, JPEG, WebP, GIF or BMP file"


def _decode(image: Image.Image, size: int | None, max_pixels: int, name: str) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"{name}: {width}x{height} pixels, more than the limit of {max_pixels}; scale it down first"
        )
    if width * height == 0:
        raise UserError(f"{name}: the picture has no pixels ({width}x{height})")
    try:
        image.load()
        image = _on_white(_upright(image))
    except _DAMAGE as error:
        raise UserError(f"{name}: the picture is damaged or cut off ({error}); fetch it again") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="white")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says; unreadable EXIF data is no reason to lose a picture."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts; scale it instead.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey_HxW = ((grey + 128) // 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey_HxW[grey == transparent] = 255
        return Image.fromarray(grey_HxW).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise UserError(
            f"{name}: an array of {array.dtype} with shape {array.shape}; give uint8, height x width x 3"
        )
    if array.size == 0:
        raise UserError(f"{name}: the picture has no pixels (shape {array.shape})")
    return Image.fromarray(np.ascontiguousarray(array))

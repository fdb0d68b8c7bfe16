"""Pictures with captions under them, drawn as one grid."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_CELL = 128  # width of a picture in the grid, in pixels
_MARGIN = 6
_LINES = 4  # longest caption, in lines


def caption_grid(image_NxHxWxC: np.ndarray, captions: Sequence[str], columns: int = 6) -> "Image.Image":
    """One RGB picture of N pictures, `columns` in a row, each with its caption under it.

    `image_NxHxWxC` is uint8, or floating point in [0, 1]; C is 1, 3 or 4 (alpha is laid on white). Pictures
    are scaled to one width; captions are wrapped, and cut after a few lines. Raises `ValueError` unless there
    is one caption for each picture.
    """
    from PIL import Image, ImageDraw

    image_NxHxWxC = np.asarray(image_NxHxWxC)
    count, height, width, _ = image_NxHxWxC.shape
    if count != len(captions) or not count:
        raise ValueError(f"{count} pictures with {len(captions)} captions")
    font = _font()
    line_height = sum(font.getmetrics())
    picture_height = max(1, round(height * _CELL / width))
    cell_width, cell_height = _CELL + 2 * _MARGIN, picture_height + _LINES * line_height + 2 * _MARGIN
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    grid = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(grid)
    # enlarged pixels stay sharp, so that what the model saw is what is shown
    resample = Image.Resampling.NEAREST if width < _CELL else Image.Resampling.LANCZOS
    for index, (image_HxWxC, caption) in enumerate(zip(image_NxHxWxC, captions, strict=True)):
        left = index % columns * cell_width + _MARGIN
        top = index // columns * cell_height + _MARGIN
        picture = _rgb(image_HxWxC).resize((_CELL, picture_height), resample)
        grid.paste(picture, (left, top))
        text = "\n".join(_wrap(draw, font, caption))
        draw.multiline_text((left, top + picture_height), text, fill="black", font=font, spacing=0)
    return grid


def _font() -> "ImageFont.FreeTypeFont":
    import matplotlib
    from PIL import ImageFont

    # matplotlib's own copy of DejaVu knows accents and many scripts, which Pillow's built-in font does not
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)


def _rgb(image_HxWxC: np.ndarray) -> "Image.Image":
    from PIL import Image

    if np.issubdtype(image_HxWxC.dtype, np.floating):
        image_HxWxC = np.rint(np.clip(np.nan_to_num(image_HxWxC), 0, 1) * 255)
    pixels = image_HxWxC.astype(np.uint8)
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0]).convert("RGB")
    picture = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture


def _wrap(draw: "ImageDraw.ImageDraw", font: "ImageFont.FreeTypeFont", caption: str) -> list[str]:
    """The caption in lines that fit under a picture; a word too long for a line is broken."""

    def fits(text: str) -> bool:
        return draw.textlength(text, font=font) <= _CELL

    lines = [""]
    for word in caption.split():
        if fits(f"{lines[-1]} {word}".strip()):
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if fits(lines[-1] + letter):
                lines[-1] += letter
            else:
                lines.append(letter)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], lines[_LINES - 1][:-3] + "..."]
    return lines

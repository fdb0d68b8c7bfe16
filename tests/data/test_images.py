"""decode_image: every kind of picture comes out as RGB on white, and nothing else gets through."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.data.images import decode_image, encode_webp
from mmrlhf_jax.errors import UserError

RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
# 2 x 3 pixels, all different, so that any turn or swap shows.
QUADS = np.array([[RED, GREEN, BLUE], [WHITE, [0, 0, 0], [255, 255, 0]]], np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_lossless_formats(kind, options):
    image = decode_image(encode(QUADS, kind, **options), size=None)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous and image.flags.writeable
    assert np.array_equal(image, QUADS)


def test_jpeg():
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(decode_image(encode(flat, "JPEG", quality=95), size=None).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("source", ["path", "array", "image"])
def test_sources(source, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(QUADS, "PNG"))
    data = {"path": tmp_path / "a.png", "array": QUADS, "image": Image.fromarray(QUADS)}[source]
    image = decode_image(data, size=None)
    assert np.array_equal(image, QUADS)
    image[:] = 7  # the result is the caller's own
    assert QUADS[0, 0].tolist() == RED


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_arrays(shape):
    assert decode_image(np.full(shape, 9, np.uint8), size=None).tolist() == np.full((2, 3, 3), 9).tolist()


# EXIF orientations and what they mean, from the EXIF 2.3 specification, tag 0x0112.
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, QUADS),
        (2, QUADS[:, ::-1]),
        (3, QUADS[::-1, ::-1]),
        (4, QUADS[::-1]),
        (5, QUADS.transpose(1, 0, 2)),
        (6, np.rot90(QUADS, -1)),
        (7, np.rot90(QUADS, 2).transpose(1, 0, 2)),
        (8, np.rot90(QUADS, 1)),
        (99, QUADS),
    ],
)
def test_exif_orientation(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(encode(QUADS, "PNG", exif=exif), size=None), upright)


def test_broken_exif_does_not_lose_the_picture():
    assert np.array_equal(decode_image(encode(QUADS, "PNG", exif=b"Exif\0\0II*\0garbage"), size=None), QUADS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_on_white(kind):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 51]  # black: clear, solid, one fifth
    image = decode_image(
        encode(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), size=None
    )
    assert image[0, :, 0].tolist() == [255, 0, 204]
    assert np.array_equal(decode_image(rgba, size=None), image)


def test_transparent_palette_and_colour_key():
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    assert decode_image(encode(palette, "PNG", transparency=1), size=None).tolist() == [[RED, WHITE]]
    assert decode_image(encode(palette, "GIF", transparency=1), size=None).tolist() == [[RED, WHITE]]
    keyed = np.array([[RED, GREEN]], np.uint8)
    assert decode_image(encode(keyed, "PNG", transparency=tuple(GREEN)), size=None).tolist() == [[RED, WHITE]]


@pytest.mark.parametrize("mode", ["LA", "RGBa"])
def test_other_modes_with_alpha(mode):
    clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0)).convert(mode)
    assert decode_image(clear, size=None).tolist() == [[WHITE]]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert decode_image(encode(grey, "PNG"), size=None)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_and_bilevel():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image = decode_image(encode(cyan, "JPEG", quality=95), size=None)
    assert np.abs(image[4, 4].astype(int) - [0, 255, 255]).max() < 12
    assert decode_image(encode(Image.new("1", (1, 1), 1), "PNG"), size=None).tolist() == [[WHITE]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), tuple(colour)) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode_image(data, size=None)[0, 0].tolist() == RED


def test_size_keeps_the_shape_on_white():
    wide = np.tile(np.array(RED, np.uint8), (10, 40, 1))
    image = decode_image(wide, size=20)
    assert image.shape == (20, 20, 3)
    red_rows = (image == RED).all((1, 2)).nonzero()[0]
    assert len(red_rows) == 5
    assert red_rows[0] in (7, 8)
    assert (np.delete(image, red_rows, axis=0) == 255).all()
    assert decode_image(wide, size=1).shape == (1, 1, 3)


def test_resizing_does_not_darken_transparent_edges():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = [255, 255, 255, 255]
    assert decode_image(rgba, size=2).min() == 255


def test_pixel_limit_is_checked_from_the_header():
    # 30,000 x 30,000 would be 2.7 GB of RGB. The file has no pixels: decoding it would fail differently.
    with pytest.raises(UserError, match=r"bomb\.png: the picture is far too large"):
        decode_image(png_header(30_000, 30_000), size=None, source="bomb.png")
    with pytest.raises(UserError, match=r"10000x9000 pixels, more than the limit of 50000000"):
        decode_image(png_header(10_000, 9_000), size=None)
    with pytest.raises(UserError, match="2 pixels, more than the limit of 5"):
        decode_image(QUADS, size=None, max_pixels=5)
    assert decode_image(QUADS, size=None, max_pixels=6).shape == (2, 3, 3)


def test_pillow_is_left_as_it_was():
    before = (Image.MAX_IMAGE_PIXELS, list(Image.OPEN), list(Image.ID))
    decode_image(encode(QUADS, "PNG"), size=4)
    assert before == (Image.MAX_IMAGE_PIXELS, list(Image.OPEN), list(Image.ID))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"\x89PNG\r\n\x1a\n", "not a readable picture"),
        (b"just words", "not a readable picture"),
        (b"\xff\xd8\xff", "not a readable picture"),
    ],
)
def test_what_is_no_picture(data, complaint):
    with pytest.raises(UserError, match=f"pairs.jsonl, line 3: .*{complaint}"):
        decode_image(data, size=8, source="pairs.jsonl, line 3")


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "TGA", "ICO"])
def test_other_formats_are_refused(kind):
    with pytest.raises(UserError, match="PNG, JPEG, WebP, GIF or BMP"):
        decode_image(encode(Image.new("RGB", (32, 32)), kind), size=None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_files(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(noise, kind)
    for cut in (len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(UserError, match=r"damaged|not a readable"):
            decode_image(data[:cut], size=None)


def test_flipped_bytes_never_escape_as_another_error():
    shuffle = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8))
    originals = [
        encode(noise, "PNG", exif=exif),
        encode(noise, "JPEG", exif=exif),
        encode(noise, "WEBP", exif=exif),
        encode(noise.convert("P"), "GIF"),
        encode(noise, "BMP"),
    ]
    for _ in range(300):
        data = bytearray(shuffle.choice(originals))
        for _ in range(shuffle.choice([1, 3, 10])):
            data[shuffle.randrange(len(data))] = shuffle.randrange(256)
        with contextlib.suppress(UserError):
            assert decode_image(bytes(data), size=4).shape == (4, 4, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
    ],
)
def test_wrong_arrays(array):
    with pytest.raises(UserError, match="give uint8"):
        decode_image(array, size=None)


def test_empty_arrays_sizes_and_paths(tmp_path):
    with pytest.raises(UserError, match="no pixels"):
        decode_image(np.zeros((0, 2, 3), np.uint8), size=None)
    with pytest.raises(UserError, match="size is 0"):
        decode_image(QUADS, size=0)
    with pytest.raises(UserError, match=r"none\.png: there is no such file"):
        decode_image(tmp_path / "none.png", size=None)
    with pytest.raises(UserError, match="there is no such file"):
        decode_image(tmp_path, size=None)
    (tmp_path / "page.png").write_text("<html></html>")
    with pytest.raises(UserError, match=r"page\.png: this is a web page"):
        decode_image(tmp_path / "page.png", size=None)


def test_encode_webp():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(decode_image(encode_webp(noise), size=None), noise)
    assert len(encode_webp(noise, quality=50)) < len(encode_webp(noise))

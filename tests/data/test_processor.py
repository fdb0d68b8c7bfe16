"""Pictures through transformers' own processors: equal to them, and safe before them."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.data.processor import PictureProcessor
from mmrlhf_jax.errors import UserError

FOLDER = Path(__file__).parents[1] / "golden" / "clip_gelu"
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
# What published checkpoints have in preprocessor_config.json, at a small size.
PUBLISHED = {
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24, "resample": 3},
    "clip_new": {
        "image_processor_type": "CLIPImageProcessorFast",
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 20, "width": 20},
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 24, "width": 24}},
    "vit": {"image_processor_type": "ViTImageProcessor", "size": 24, "image_mean": [0.5, 0.4, 0.3]},
    "llava": {
        "image_processor_type": "LlavaImageProcessor",
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 24, "width": 24},
        "do_pad": True,
    },
}
THEIRS = {
    "clip": "CLIPImageProcessorPil",
    "clip_new": "CLIPImageProcessorPil",
    "siglip": "SiglipImageProcessorPil",
    "vit": "ViTImageProcessorPil",
    "llava": "LlavaImageProcessorPil",
}


def folder_of(tmp_path: Path, values: dict, name: str = "preprocessor_config.json") -> Path:
    (tmp_path / name).write_text(json.dumps(values))
    return tmp_path


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def processor():
    return PictureProcessor.from_folder(FOLDER)


@pytest.mark.parametrize("name", PUBLISHED)
def test_equal_to_the_processors_of_transformers(tmp_path, name):
    import transformers

    ours = PictureProcessor.from_folder(folder_of(tmp_path, PUBLISHED[name]))
    theirs = getattr(transformers, THEIRS[name])(
        **{key: value for key, value in PUBLISHED[name].items() if not key.endswith("_type")}
    )
    rgba = Image.fromarray(np.dstack([NOISE, NOISE[:, :, :1]]))
    pictures = [Image.fromarray(NOISE), Image.fromarray(NOISE[:30, :20])]
    if name != "vit":  # which converts nothing
        pictures += [rgba, Image.fromarray(NOISE[:, :, 0]), Image.fromarray(NOISE).convert("CMYK")]
        pictures.append(Image.fromarray(NOISE).convert("P"))
    wanted = np.stack(theirs(images=pictures)["pixel_values"]).transpose(0, 2, 3, 1)
    pixels = ours(pictures)
    assert pixels.dtype == np.float32 and pixels.shape[3] == 3 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, wanted.astype(np.float32))


def test_every_source_gives_the_same(processor, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encode(Image.fromarray(NOISE), "PNG"))
    wanted = processor(NOISE)
    assert wanted.shape == (1, 32, 32, 3)
    for source in (file, str(file), file.read_bytes(), Image.fromarray(NOISE), [file]):
        np.testing.assert_array_equal(processor(source), wanted)


def test_odd_pictures_come_out_right(processor):
    """Turned by EXIF, 16 bits deep, animated, transparent: each as the plain picture that it shows."""
    wanted = processor(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = encode(Image.fromarray(np.rot90(NOISE)), "PNG", exif=exif)
    np.testing.assert_array_equal(processor(turned), wanted)
    others = [Image.fromarray(NOISE[::-1]), Image.fromarray(NOISE[:, ::-1])]
    animated = encode(Image.fromarray(NOISE), "WEBP", lossless=True, save_all=True, append_images=others)
    np.testing.assert_array_equal(processor(animated), wanted)
    grey = NOISE[:, :, 0]
    deep = encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(processor(deep), processor(grey))
    clear = np.dstack([NOISE, np.zeros_like(grey)])
    np.testing.assert_array_equal(processor(clear), processor(np.full_like(NOISE, 255)))


@pytest.mark.parametrize("shape", [(3, 40), (1, 40), (40, 3), (1, 1)])
def test_thin_pictures_keep_their_axes(processor, shape):
    """Three rows look like three channels."""
    thin = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    turned = processor(np.ascontiguousarray(thin.swapaxes(0, 1)))
    # Pillow scales one axis after the other and rounds between them: a few of 255 steps, each about 0.015.
    np.testing.assert_allclose(processor(thin), turned.swapaxes(1, 2), atol=0.2)


def test_a_line_is_resized_or_told(tmp_path):
    line = np.zeros((1, 4000, 3), np.uint8)
    clip = PictureProcessor.from_folder(folder_of(tmp_path, {**PUBLISHED["clip"], "size": 224}))
    with pytest.raises(UserError, match="picture 0: 4000x1 pixels would be resized to 896000x224") as told:
        clip(line)
    assert "\n" not in str(told.value)
    square = PictureProcessor.from_folder(folder_of(tmp_path, PUBLISHED["siglip"]))
    assert square(line).shape == (1, 24, 24, 3)


def test_a_giant_is_refused_by_its_header(processor, tmp_path):
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0), b"IDAT")
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    file = tmp_path / "giant.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    with pytest.raises(UserError, match=r"giant\.png: (20000x20000|.*far too large)"):
        processor(file)


def test_what_is_no_picture_is_named(processor, tmp_path):
    page = tmp_path / "a.png"
    page.write_text("<!doctype html><html>not found</html>")
    with pytest.raises(UserError, match=r"a\.png: this is a web page"):
        processor([NOISE, page])
    with pytest.raises(UserError, match="picture 1"):
        processor([NOISE, b"junk"])
    with pytest.raises(UserError, match="no pictures"):
        processor([])


def test_pictures_of_several_sizes_need_a_resize(tmp_path):
    values = {"image_processor_type": "ViTImageProcessor", "do_resize": False}
    raw = PictureProcessor.from_folder(folder_of(tmp_path, values))
    assert raw([NOISE, NOISE]).shape == (2, 50, 70, 3)
    with pytest.raises(UserError, match="2 sizes"):
        raw([NOISE, NOISE[:40]])


def test_the_processor_of_a_whole_model(tmp_path):
    """processor_config.json holds it, where tokenizer and processor were saved together."""
    values = {"processor_class": "CLIPProcessor", "image_processor": PUBLISHED["clip_new"]}
    folder = folder_of(tmp_path, values, "processor_config.json")
    assert PictureProcessor.from_folder(folder)(NOISE).shape == (1, 20, 20, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not there"),
        ("{", "is not JSON"),
        ("[]", "holds no object"),
        ('{"image_processor_type": "BlipImageProcessor"}', "BlipImageProcessor, which is none of"),
        ('{"image_processor_type": "ViTImageProcessor", "size": "big"}', "cannot be understood"),
    ],
)
def test_files_that_describe_no_processor(tmp_path, text, message):
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=message) as told:
        PictureProcessor.from_folder(tmp_path)
    assert len(str(told.value).splitlines()) == 1

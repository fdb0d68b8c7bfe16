"""Pictures as a pretrained encoder wants them: transformers' own image processors behind safe decoding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrlhf_jax.data.images import MAX_PIXELS, decode_image
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import read_json

Picture = bytes | str | Path | np.ndarray | Image.Image

# By the `image_processor_type` of preprocessor_config.json, less the endings of its variants.
_CLASSES = {
    "CLIPImageProcessor": "CLIPImageProcessorPil",
    "SiglipImageProcessor": "SiglipImageProcessorPil",
    "ViTImageProcessor": "ViTImageProcessorPil",
    "LlavaImageProcessor": "LlavaImageProcessorPil",
}


class PictureProcessor:
    """Resizes, crops and normalises as the processor of a CLIP, SigLIP, ViT or LLaVA checkpoint does.

    Every picture goes through `decode_image` first: EXIF orientation applied, transparent parts white, CMYK,
    grey and 16-bit converted, the first frame of an animation, size limits checked before decoding.
    """

    def __init__(self, processor: Any, *, max_pixels: int = MAX_PIXELS):
        """`processor` is one of transformers' PIL image processors, which need no torch."""
        self.processor = processor
        self.max_pixels = max_pixels

    @classmethod
    def from_folder(cls, path: str | Path, *, max_pixels: int = MAX_PIXELS) -> "PictureProcessor":
        """The processor that a folder's preprocessor_config.json (or processor_config.json) describes.

        Raises:
          UserError: there is no such file, it is damaged, or it is of another family.
        """
        import transformers

        file, values = _read(Path(path))
        kind = str(values.get("image_processor_type") or values.get("feature_extractor_type"))
        family = kind.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
        if family not in _CLASSES:
            raise UserError(f"{file}: image_processor_type is {kind}, which is none of {', '.join(_CLASSES)}")
        try:
            processor = getattr(transformers, _CLASSES[family]).from_dict(values)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} cannot be understood ({error}): download it again") from None
        return cls(processor, max_pixels=max_pixels)

    def __call__(self, pictures: Picture | Sequence[Picture]) -> np.ndarray:
        """Pixels of one picture or several, float32 (B, H, W, 3), normalised.

        Args:
          pictures: paths, encoded pictures (bytes), uint8 arrays HxWx3, or PIL images.

        Raises:
          UserError: no picture, a damaged one, or one that is too large, also by its resizing: the short side
            of 1x4000 pixels cannot be made 224.
        """
        if isinstance(pictures, (bytes, str, Path, np.ndarray, Image.Image)):
            pictures = [pictures]
        if not pictures:
            raise UserError("there are no pictures to process: give at least one")
        decoded = [self._decode(picture, i) for i, picture in enumerate(pictures)]
        # Named, because 3 pixels of height look like 3 channels.
        pixels = self.processor(images=decoded, input_data_format="channels_last")["pixel_values"]
        sizes = {array.shape[1:] for array in pixels}
        if len(sizes) > 1:
            raise UserError(
                f"this processor leaves pictures of {len(sizes)} sizes: give pictures of one size"
            )
        return np.ascontiguousarray(np.stack(pixels).transpose(0, 2, 3, 1), np.float32)

    def _decode(self, picture: Picture, index: int) -> np.ndarray:
        name = str(picture) if isinstance(picture, (str, Path)) else f"picture {index}"
        data = Path(picture) if isinstance(picture, str) else picture
        image_HxWxC = decode_image(data, size=None, max_pixels=self.max_pixels, source=name)
        edge = self.processor.size.shortest_edge if self.processor.do_resize else None
        short, long = sorted(image_HxWxC.shape[:2])
        if edge and edge * (edge * long // short) > self.max_pixels:
            raise UserError(
                f"{name}: {long}x{short} pixels would be resized to {edge * long // short}x{edge}, more "
                f"than the limit of {self.max_pixels}; crop it first"
            )
        return image_HxWxC


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that describes the image processor, and what it says."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        values = read_json(file)
        if isinstance(values, dict):
            values = values.get("image_processor", values)
        if not isinstance(values, dict):
            raise UserError(f"{file} holds no object: download it again")
        return file, values
    raise UserError(f"{folder / 'preprocessor_config.json'} is not there: give the folder of a whole model")

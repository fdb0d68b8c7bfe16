"""Golden checkpoints where the README has those of the hub, so that its code runs without a network."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.gguf_files import write_gguf

GOLDEN = Path(__file__).parent / "golden"
PLACES = {
    "openai/clip-vit-large-patch14": "clip_gelu",
    "google/siglip-so400m-patch14-384": "siglip",
    "google/vit-base-patch16-224-in21k": "vit",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "llama_tied",
    "llava-hf/llava-1.5-7b-hf": "llava_llama_clip",
}
PROCESSORS = {"siglip": "SiglipImageProcessor", "vit": "ViTImageProcessor"}  # of checkpoints that have none


def put_checkpoints(folder: Path) -> None:
    """Puts them there, with a GGUF file (where gguf is installed) and a picture."""
    for place, name in PLACES.items():
        shutil.copytree(GOLDEN / name, folder / place)
        if name in PROCESSORS:
            values = {"image_processor_type": PROCESSORS[name], "size": {"height": 32, "width": 32}}
            (folder / place / "preprocessor_config.json").write_text(json.dumps(values))
    if importlib.util.find_spec("gguf"):
        write_gguf(folder / "SmolLM2-135M-Instruct.Q8_0.gguf", "llama_tied", "llama")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cat.png")

"""Makes tests/encoders/golden/clip.safetensors: what transformers' torch models answer, with their weights.

    pip install -e . torch==2.13.0 transformers==5.23.0
    python scripts/make_network_goldens.py

The weights keep transformers' names, under "weights."; "inputs." and "outputs." are what the tests
compare. Takes ten seconds; expect a file of 142 KB.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from torch_reference import (
    TORCH_ACTIVATIONS,
    arrays_of,
    clip_answers,
    torch_clip,
    with_activation,
)

from mmrlhf_jax.architecture import CLIPConfig, TextConfig, TransformerConfig, VisionConfig

OUTPUT = Path(__file__).parents[1] / "tests" / "encoders" / "golden"

CLIP = CLIPConfig(
    vision=VisionConfig(32, 8, TransformerConfig(width=16, layers=2, heads=2, mlp_width=40)),
    text=TextConfig(24, 7, TransformerConfig(width=24, layers=2, heads=3, mlp_width=48)),
    projection_width=12,
)


def clip() -> dict[str, np.ndarray]:
    """One set of weights, answers for each activation."""
    generator = np.random.default_rng(1)
    pixels_BxHxWxC = generator.normal(size=(3, 32, 32, 3)).astype(np.float32)
    end = CLIP.text.vocab_size - 1
    ids_BxT = generator.integers(1, end, (3, 7))
    lengths_B = np.array([7, 2, 4])
    mask_BxT = np.arange(7) < lengths_B[:, None]
    ids_BxT[np.arange(3), lengths_B - 1] = end
    ids_BxT[~mask_BxT] = 0
    arrays = {
        "inputs.pixels": pixels_BxHxWxC,
        "inputs.ids": ids_BxT.astype(np.int32),
        "inputs.mask": mask_BxT,
    }
    for activation in TORCH_ACTIVATIONS:
        model = torch_clip(with_activation(CLIP, activation), seed=2)
        answers = clip_answers(model, pixels_BxHxWxC, ids_BxT, mask_BxT)
        arrays |= {f"outputs.{activation}.{name}": answer for name, answer in answers.items()}
    return arrays | {f"weights.{name}": array for name, array in arrays_of(model).items()}


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / "clip.safetensors"
    arrays = {key: np.asarray(array, order="C") for key, array in clip().items()}
    safetensors.numpy.save_file(arrays, path, metadata={"architecture": json.dumps(dataclasses.asdict(CLIP))})
    print(f"{len(arrays)} arrays, {path.stat().st_size / 1000:.0f} KB -> {path}")


if __name__ == "__main__":
    main()

"""Makes tests/encoders/golden/*.safetensors: what transformers' torch models answer, with their weights.

    pip install -e . torch==2.13.0 transformers==5.23.0
    python scripts/make_network_goldens.py

The weights keep transformers' names, under "weights."; "inputs." and "outputs." are what the tests
compare. Takes ten seconds; expect a file of 74 KB.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from torch_reference import (
    arrays_of,
    decoder_logits,
    torch_decoder,
)

from mmrlhf_jax.architecture import DecoderConfig

OUTPUT = Path(__file__).parents[1] / "tests" / "encoders" / "golden"

DECODER = DecoderConfig(
    vocab_size=40, width=32, layers=2, heads=4, kv_heads=2, mlp_width=48, rope_theta=500.0
)


def decoder() -> dict[str, np.ndarray]:
    """Three rows: without padding, padded on the left, padded on the right."""
    generator = np.random.default_rng(3)
    ids_BxT = generator.integers(1, DECODER.vocab_size, (3, 8))
    mask_BxT = np.ones((3, 8), bool)
    mask_BxT[1, :3] = False
    mask_BxT[2, 5:] = False
    ids_BxT[~mask_BxT] = 0
    model = torch_decoder(DECODER, seed=4)
    return {
        "inputs.ids": ids_BxT.astype(np.int32),
        "inputs.mask": mask_BxT,
        "outputs.logits": decoder_logits(model, ids_BxT, mask_BxT).detach().numpy(),
        **{f"weights.{name}": array for name, array in arrays_of(model).items()},
    }


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, arrays, config in (("decoder", decoder(), DECODER),):
        path = OUTPUT / f"{name}.safetensors"
        arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}
        safetensors.numpy.save_file(
            arrays, path, metadata={"architecture": json.dumps(dataclasses.asdict(config))}
        )
        print(f"{len(arrays)} arrays, {path.stat().st_size / 1000:.0f} KB -> {path}")


if __name__ == "__main__":
    main()

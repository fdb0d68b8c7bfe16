"""Makes tests/golden/<variant>/: decoders of the Llama family as transformers saves them, and their answers.

    pip install -e . torch==2.13.0 transformers==5.23.0
    python scripts/make_decoder_goldens.py

Each folder is a checkpoint as transformers saves it, with the answers beside it: answers.safetensors holds
"ids" and "mask" (three rows: whole, padded on the left, on the right), vectors "hidden.<i>" before the
first block and after each (the last ones also normed), "logits", "loss" (mean cross-entropy of each real
token after a real one) and "gradient.<name>" of the loss. Takes ten seconds;
expect six folders, 0.8 MB in all.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch_reference import arrays_of, decoder_outputs, torch_decoder

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling

OUTPUT = Path(__file__).parents[1] / "tests" / "golden"

SMALL = DecoderConfig(
    vocab_size=32, width=24, layers=2, heads=4, kv_heads=2, mlp_width=40, rope_theta=500.0, max_positions=64
)
LLAMA3 = RopeScaling("llama3", 8.0, original_positions=16)
YARN = RopeScaling("yarn", 4.0, original_positions=16, beta_fast=2.0)
VARIANTS = {
    "llama_tied": SMALL,
    "llama_untied_llama3": replace(SMALL, kv_heads=4, head_dim=8, tied=False, rope_scaling=LLAMA3),
    "llama_linear": replace(SMALL, rope_scaling=RopeScaling("linear", 4.0)),
    "qwen2": replace(SMALL, kv_heads=1, qkv_bias=True, norm_eps=1e-6, rope_theta=1e6),
    "qwen2_yarn": replace(SMALL, head_dim=16, rope_theta=100.0, qkv_bias=True, tied=False, rope_scaling=YARN),
    "mistral": replace(SMALL, head_dim=10, tied=False, rope_theta=1e6, sliding_window=32),
}


def batch(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    mask_BxT = np.ones((3, 20), bool)
    mask_BxT[1, :7] = False
    mask_BxT[2, 9:] = False
    ids_BxT = np.random.default_rng(1).integers(1, vocab_size, mask_BxT.shape)
    return np.where(mask_BxT, ids_BxT, 0).astype(np.int32), mask_BxT


def make(folder: Path, config: DecoderConfig, seed: int) -> None:
    """Writes one variant's checkpoint and answers."""
    shutil.rmtree(folder, ignore_errors=True)
    model = torch_decoder(config, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()

    ids_BxT, mask_BxT = batch(config.vocab_size)
    outputs = decoder_outputs(model, ids_BxT, mask_BxT, output_hidden_states=True)
    counted = torch.from_numpy(mask_BxT[:, 1:] & mask_BxT[:, :-1])
    targets = torch.from_numpy(ids_BxT[:, 1:].astype(np.int64))[counted]
    loss = torch.nn.functional.cross_entropy(outputs.logits[:, :-1][counted], targets)
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert gradients.keys() == arrays_of(model).keys()
    answers = {
        "ids": ids_BxT,
        "mask": mask_BxT,
        "logits": outputs.logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        **{f"hidden.{i}": hidden.detach().numpy() for i, hidden in enumerate(outputs.hidden_states)},
        **{f"gradient.{name}": gradient for name, gradient in gradients.items()},
    }
    arrays = {name: np.asarray(array, order="C") for name, array in answers.items()}
    safetensors.numpy.save_file(arrays, folder / "answers.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def main() -> None:
    for seed, (name, config) in enumerate(VARIANTS.items()):
        make(OUTPUT / name, config, seed)
        size = sum(path.stat().st_size for path in (OUTPUT / name).iterdir())
        print(f"{name}: {size / 1000:.0f} KB")


if __name__ == "__main__":
    main()

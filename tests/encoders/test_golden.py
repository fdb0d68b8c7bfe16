"""CLIP against transformers' torch models: golden/clip.safetensors, by make_network_goldens.py."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors

from mmrlhf_jax.architecture import CLIPConfig, from_dict
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.modules import define
from scripts.torch_reference import TORCH_ACTIVATIONS, clip_table, convert, with_activation

GOLDEN = Path(__file__).parent / "golden"


def load(name: str, cls: type) -> tuple[Any, dict[str, dict[str, np.ndarray]]]:
    """The architecture, and the arrays as "weights", "inputs" and "outputs"."""
    parts: dict[str, dict[str, np.ndarray]] = {"weights": {}, "inputs": {}, "outputs": {}}
    with safetensors.safe_open(GOLDEN / f"{name}.safetensors", "numpy") as file:
        architecture = from_dict(cls, json.loads(file.metadata()["architecture"]))
        for key in file.keys():  # noqa: SIM118 (no dict)
            part, _, rest = key.partition(".")
            parts[part][rest] = file.get_tensor(key)
    return architecture, parts


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_clip_agrees_with_torch(activation):
    config, golden = load("clip", CLIPConfig)
    config = with_activation(config, activation)
    definition = define(lambda rngs: CLIP(config, rngs=rngs))
    table = clip_table(config.vision.transformer.layers, config.text.transformer.layers)
    params = convert(table, golden["weights"], definition.abstract())

    @jax.jit
    def answer(params, pixels, ids, mask):
        clip = definition.bind(params)
        return {
            "patches": clip.vision(pixels).tokens_BxTxD,
            "tokens": clip.text(ids, mask).tokens_BxTxD,
            "image_features": clip.encode_image(pixels),
            "text_features": clip.encode_text(ids, mask),
            "logits_per_image": clip(pixels, ids, mask).logits_per_image,
        }

    answers = answer(params, *(golden["inputs"][name] for name in ("pixels", "ids", "mask")))
    for name, ours in answers.items():
        theirs = golden["outputs"][f"{activation}.{name}"]
        assert np.abs(theirs).max() > 0.5, f"{name} is too small to tell anything"
        if name == "tokens":
            ours, theirs = ours[golden["inputs"]["mask"]], theirs[golden["inputs"]["mask"]]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_activations_differ():
    """The three answers differ by more than the tolerance, so each test above means its own activation."""
    _, golden = load("clip", CLIPConfig)
    first, second, third = (golden["outputs"][f"{name}.patches"] for name in TORCH_ACTIVATIONS)
    assert min(np.abs(first - second).max(), np.abs(second - third).max(), np.abs(third - first).max()) > 1e-4

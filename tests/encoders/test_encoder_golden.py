"""Encoders against transformers' torch models: tests/golden, by scripts/make_encoder_goldens.py."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mmrlhf_jax.encoders import load_clip, load_siglip, load_vit
from mmrlhf_jax.encoders.clip import contrastive_loss
from mmrlhf_jax.encoders.siglip import sigmoid_loss
from mmrlhf_jax.hub import clip, siglip, vit
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.hub.tensors import read_params
from mmrlhf_jax.modules import Params

pytestmark = pytest.mark.medium  # compiles for long

GOLDEN = Path(__file__).parents[1] / "golden"
TWO_TOWERS = {
    "clip_quick_gelu": (load_clip, clip, contrastive_loss),
    "clip_gelu": (load_clip, clip, contrastive_loss),
    "siglip": (load_siglip, siglip, sigmoid_loss),
}


def answers(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs, and outputs of torch."""
    arrays = safetensors.numpy.load_file(GOLDEN / name / "answers.safetensors")
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for key, array in arrays.items():
        part, _, rest = key.partition(".")
        parts[part == "outputs"][rest] = array
    return parts


def split(model: nnx.Module) -> tuple[Any, Params]:
    graphdef, params = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def layers(tower: Any, *inputs: Any) -> list[jax.Array]:
    """All hidden states of a tower, what enters the first block first."""
    features = jax.jit(lambda inputs: [tower.features(*inputs, layer=i) for i in range(count)])
    count = tower.config.transformer.layers + 1
    return features(inputs)


def assert_close(ours: dict[str, Any], theirs: dict[str, np.ndarray], tolerance: float) -> None:
    for name, array in ours.items():
        assert np.abs(theirs[name]).max() > 0.05, f"{name} is too small to tell anything"
        np.testing.assert_allclose(array, theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_gradients(ours: Params, theirs: Params) -> None:
    theirs = parameter_names(theirs)
    for name, gradient in parameter_names(ours).items():
        np.testing.assert_allclose(gradient, theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert max(np.abs(gradient).max() for gradient in theirs.values()) > 0.1


@pytest.mark.parametrize(
    ("name", "scan"),
    [("clip_quick_gelu", False), ("clip_gelu", False), ("siglip", False), ("clip_gelu", True)],
)
def test_two_towers_agree_with_torch(name, scan):
    load, hub, loss_of = TWO_TOWERS[name]
    inputs, outputs = answers(name)
    graphdef, params = split(model := load(GOLDEN / name, scan=scan))
    mask = inputs.get("mask")

    def loss(params):
        both = nnx.merge(graphdef, params)(inputs["pixels"], inputs["ids"], mask)
        return loss_of(both.logits_per_image, jnp.eye(3, dtype=bool)), both

    @jax.jit
    def answer(params):
        model = nnx.merge(graphdef, params)
        (value, both), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, {
            "tokens": model.text(inputs["ids"], mask).tokens_BxTxD,
            "image_features": model.encode_image(inputs["pixels"]),
            "text_features": model.encode_text(inputs["ids"], mask),
            "wide_features": model.encode_image(inputs["wide"]),
            "loss": value,
            **both._asdict(),
        }

    gradients, ours = answer(params)
    assert_close(ours, outputs, 1e-5)
    assert {key for key in outputs if not key.startswith(("vision.", "text."))} == ours.keys()
    wanted = read_params(GOLDEN / name / "gradients", hub.table(model.config), jax.eval_shape(lambda: params))
    assert_gradients(gradients, wanted)


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_every_layer_agrees_with_torch(name):
    inputs, outputs = answers(name)
    model = TWO_TOWERS[name][0](GOLDEN / name)
    pictures = layers(model.vision, inputs["pixels"])
    assert_close({f"vision.{i}": state for i, state in enumerate(pictures)}, outputs, 1e-5)
    texts = layers(model.text, inputs["ids"], inputs.get("mask"))
    assert_close({f"text.{i}": state for i, state in enumerate(texts)}, outputs, 1e-5)
    assert (len(pictures), len(texts)) == (3, 4)


@pytest.mark.parametrize(("name", "scan"), [("vit", False), ("vit_classifier", False), ("vit", True)])
def test_vit_agrees_with_torch(name, scan):
    inputs, outputs = answers(name)
    ignore = ("classifier.*",) if name == "vit_classifier" else ()
    graphdef, params = split(model := load_vit(GOLDEN / name, ignore=ignore, scan=scan))
    pooling = model.config.pooling
    assert pooling == ("class" if name == "vit_classifier" else "dense")

    @jax.jit
    def answer(params):
        model = nnx.merge(graphdef, params)
        encoded, wide = model(inputs["pixels"]), model(inputs["wide"])
        return {
            **{f"vision.{i}": model.features(inputs["pixels"], layer=i) for i in range(3)},
            "patches": encoded.tokens_BxTxD,
            "wide_patches": wide.tokens_BxTxD,
            pooling: encoded.pooled_BxD,
        }

    outputs |= {"patches": outputs["tokens"][:, 1:], "wide_patches": outputs["wide_tokens"][:, 1:]}
    assert_close(answer(params), outputs, 1e-5)
    gradients = jax.jit(
        jax.grad(lambda params: jnp.sum(jnp.sin(nnx.merge(graphdef, params)(inputs["pixels"]).pooled_BxD)))
    )(params)
    prefix = "vit." if name == "vit_classifier" else ""
    wanted = read_params(
        GOLDEN / name / "gradients",
        vit.table(model.config, prefix),
        jax.eval_shape(lambda: params),
        ignore=ignore,
    )
    assert_gradients(gradients, wanted)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_vit_pools_as_asked(pooling):
    inputs, outputs = answers("vit")
    tower = load_vit(GOLDEN / "vit", pooling=pooling)
    np.testing.assert_allclose(tower(inputs["pixels"]).pooled_BxD, outputs[pooling], rtol=1e-5, atol=1e-5)


def test_llava_reads_the_layer_before_the_last():
    inputs, outputs = answers("clip_gelu")
    tower = load_clip(GOLDEN / "clip_gelu").vision
    features = tower.features(inputs["pixels"], layer=-2)
    assert features.shape[1] == tower.config.num_patches + 1, "the class token is among them"
    np.testing.assert_allclose(features, outputs["vision.1"], rtol=1e-5, atol=1e-5)


def test_both_ways_to_find_the_end_of_a_text():
    """The golden texts tell the conventions apart: each would pool another token under the other one."""
    inputs, _ = answers("clip_gelu")
    end = load_clip(GOLDEN / "clip_gelu").config.text.end_id
    assert (inputs["ids"] == end).sum(axis=1).max() > 1, "the end token pads as well"
    inputs, _ = answers("clip_quick_gelu")
    config = load_clip(GOLDEN / "clip_quick_gelu").config.text
    assert config.pooling == "highest_id" and config.end_id is None
    assert (inputs["ids"] == 29).sum(axis=1).tolist() == [1, 1, 1] and (~inputs["mask"]).any()

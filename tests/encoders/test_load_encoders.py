"""Loading encoders: flags, dtypes, devices, and everything that can be wrong with a folder."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmrlhf_jax.encoders import load_clip, load_siglip, load_vit
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import clip, siglip, vit
from mmrlhf_jax.hub.config import read_config
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.hub.tensors import write_params
from mmrlhf_jax.modules import params_of

GOLDEN = Path(__file__).parents[1] / "golden"
LOADERS = {
    "clip_quick_gelu": (load_clip, clip),
    "clip_gelu": (load_clip, clip),
    "siglip": (load_siglip, siglip),
    "vit": (load_vit, vit),
}


def weights(name: str) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")


def copy(tmp_path: Path, name: str, *, config: dict | None = None, tensors: dict | None = None) -> Path:
    """A checkpoint with some fields of config.json and some tensors changed; None takes a tensor away."""
    folder = tmp_path / name
    folder.mkdir()
    values = {**json.loads((GOLDEN / name / "config.json").read_text()), **(config or {})}
    (folder / "config.json").write_text(json.dumps(values))
    arrays = {**weights(name), **(tensors or {})}
    arrays = {key: array for key, array in arrays.items() if array is not None}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("scan", [False, True], ids=["apart", "scan"])
@pytest.mark.parametrize("name", LOADERS)
def test_what_is_written_is_what_was_read(tmp_path, name, scan):
    """Names and config.json undo their reading: every tensor bit for bit."""
    load, hub = LOADERS[name]
    model = load(GOLDEN / name, scan=scan)
    write_params(tmp_path, hub.table(model.config), params_of(model))
    written, original = safetensors.numpy.load_file(tmp_path / "model.safetensors"), weights(name)
    assert written.keys() == original.keys()
    for key, array in original.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)
    config = hub.config_from_hf(read_config(GOLDEN / name))
    assert hub.config_from_hf(hub.config_to_hf(model.config)) == config, "the flags are not written"


def test_stacked_layers_hold_all_layers():
    apart = parameter_names(params_of(load_clip(GOLDEN / "clip_gelu")))
    stacked = parameter_names(params_of(load_clip(GOLDEN / "clip_gelu", scan=True)))
    block = "text.transformer.blocks"
    assert stacked[f"{block}.qkv.kernel"].shape == (3, 24, 72)
    for i in range(3):
        np.testing.assert_array_equal(
            stacked[f"{block}.qkv.kernel"][i], apart[f"{block}.{i}.qkv.kernel"], err_msg=f"layer {i}"
        )


def test_flags_reach_every_tower():
    config = load_siglip(GOLDEN / "siglip", scan=True, remat=True).config
    towers = (config.vision.transformer, config.text.transformer)
    assert [(tower.scan, tower.remat) for tower in towers] == [(True, True)] * 2
    config = load_vit(GOLDEN / "vit", remat=True).config
    assert (config.transformer.scan, config.transformer.remat) == (False, True)


def test_bfloat16_on_request():
    """All of it, and the answers stay near those of float32."""
    half, full = (load_clip(GOLDEN / "clip_gelu", dtype=dtype) for dtype in (jnp.bfloat16, None))
    assert {leaf.dtype for leaf in jax.tree.leaves(params_of(half))} == {jnp.dtype(jnp.bfloat16)}
    pixels = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    ids = jnp.asarray([[518, 3, 519], [518, 4, 519]])
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm takes its means in float32
        ours = half(pixels, ids)
    theirs = full(pixels, ids)
    assert ours.image_embeds.dtype == jnp.bfloat16
    for mine, wanted in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(mine.astype(jnp.float32), wanted, atol=0.05)


def test_parameters_go_where_they_are_sent():
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,))

    def place(name, leaf):
        split = name.endswith("up.kernel")
        return NamedSharding(mesh, PartitionSpec(None, "model") if split else PartitionSpec())

    tower = load_vit(GOLDEN / "vit", sharding=place)
    kernel = tower.transformer.blocks[0].up.kernel[...]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 6)}
    assert len(tower.positions[...].addressable_shards) == 4
    pixels = jnp.ones((1, 32, 32, 3))
    plain = load_vit(GOLDEN / "vit")(pixels).pooled_BxD
    np.testing.assert_allclose(jax.jit(lambda tower: tower(pixels).pooled_BxD)(tower), plain, atol=1e-5)


def test_buffers_of_old_files_are_passed_over(tmp_path):
    old = {
        "text_model.embeddings.position_ids": np.arange(9)[None],
        "vision_model.embeddings.position_ids": np.arange(17)[None],
    }
    ours = params_of(load_clip(copy(tmp_path, "clip_quick_gelu", tensors=old)))
    jax.tree.map(np.testing.assert_array_equal, ours, params_of(load_clip(GOLDEN / "clip_quick_gelu")))


def test_the_scale_of_a_loaded_clip_has_no_cap(tmp_path):
    """transformers has none; OpenAI's cap at 100 is for training."""
    folder = copy(tmp_path, "clip_gelu", tensors={"logit_scale": np.array(5.0, np.float32)})
    model = load_clip(folder)
    pixels, ids = jnp.ones((1, 32, 32, 3)), jnp.asarray([[518, 3, 519]])
    both = model(pixels, ids)
    cosine = jnp.sum(both.image_embeds * both.text_embeds)
    np.testing.assert_allclose(both.logits_per_image[0, 0], np.exp(5.0) * cosine, rtol=1e-5)


def test_a_classifier_is_left_out_only_when_asked():
    with pytest.raises(UserError, match=r"has a classifier.*ignore=\('classifier\.\*',\)"):
        load_vit(GOLDEN / "vit_classifier")
    assert load_vit(GOLDEN / "vit_classifier", ignore=("classifier.*",)).config.pooling == "class"


def test_a_pooler_is_used_unless_another_pooling_is_asked():
    assert load_vit(GOLDEN / "vit").config.pooling == "dense"
    assert not hasattr(load_vit(GOLDEN / "vit", pooling="mean"), "dense")
    with pytest.raises(UserError, match=r"lacks tensor vit\.pooler\.dense\.bias"):
        load_vit(GOLDEN / "vit_classifier", pooling="dense", ignore=("classifier.*",))


BAD_CONFIGS = [
    ({"model_type": "bert"}, "model_type is 'bert', but 'vit' is wanted"),
    ({"hidden_act": "mish"}, "hidden_act is 'mish': this package knows gelu"),
    ({"num_channels": 1}, "num_channels is 1: only 3"),
    ({"image_size": [32, 64]}, "only square"),
    ({"image_size": 30}, r"position_embeddings is \[1, 17, 16\], but the architecture wants \[1, 10, 16\]"),
    ({"num_attention_heads": "many"}, "heads is 'many'"),
    ({"num_hidden_layers": 3}, r"lacks tensor encoder\.layer\.2"),
    ({"num_hidden_layers": 1}, r"unknown tensor encoder\.layer\.1"),
    ({"intermediate_size": 32}, r"is \[16, 24\], but the architecture wants \[16, 32\]"),
    ({"pooler_act": "relu"}, "pooler_act is 'relu'"),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS, ids=[str(config) for config, _ in BAD_CONFIGS])
def test_configs_that_do_not_fit(tmp_path, config, message):
    folder = copy(tmp_path, "vit", config=config)
    with pytest.raises(UserError, match=message) as told:
        load_vit(folder)
    assert str(folder) in str(told.value) and len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"logit_scale": None}, "lacks tensor logit_scale"),
        ({"extra.weight": np.zeros(2, np.float32)}, r"unknown tensor extra\.weight"),
        ({"logit_scale": np.array(np.nan, np.float32)}, "logit_scale holds NaN"),
        ({"text_projection.weight": np.zeros((2, 24), np.float32)}, r"text_projection\.weight is \[2, 24\]"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, tensors, message):
    with pytest.raises(UserError, match=message):
        load_clip(copy(tmp_path, "clip_gelu", tensors=tensors))


def test_weights_that_cannot_be_read(tmp_path):
    folder = copy(tmp_path, "siglip")
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[:-100], b"\x80\x02}q\x00.", b""):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors") as told:
            load_siglip(folder)
        assert len(str(told.value).splitlines()) == 1
    shutil.rmtree(folder)
    with pytest.raises(UserError):
        load_siglip(folder)


def test_one_family_is_not_another():
    with pytest.raises(UserError, match="model_type is 'siglip', but 'clip' is wanted"):
        load_clip(GOLDEN / "siglip")
    with pytest.raises(UserError, match="model_type is 'clip', but 'siglip' is wanted"):
        load_siglip(GOLDEN / "clip_gelu")


def test_a_loaded_model_goes_through_jit_as_an_argument():
    """Twice the same shapes compile once, and so do other weights of the same architecture."""
    traces = []

    @jax.jit
    def embed(model: nnx.Module, pixels):
        traces.append(1)
        return model.encode_image(pixels)

    pixels = jnp.ones((1, 32, 32, 3))
    embed(load_clip(GOLDEN / "clip_gelu"), pixels)
    embed(load_clip(GOLDEN / "clip_gelu"), pixels)
    assert len(traces) == 1

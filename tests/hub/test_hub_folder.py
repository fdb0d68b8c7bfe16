"""Models on disk: every bit comes back, and whatever is wrong is named."""

import dataclasses
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.modules import define

TOWER = TransformerConfig(width=8, layers=2, heads=2, mlp_width=8)
SMALL = CLIPConfig(VisionConfig(16, 8, TOWER), TextConfig(16, 4, TOWER), 8)
DEFINITION = define(lambda rngs: CLIP(SMALL, rngs=rngs))


@pytest.fixture(scope="module")
def params():
    """A CLIP's: nested dicts with a list of blocks and a scalar, and no value that is merely its default."""
    leaves, tree = jax.tree.flatten(DEFINITION.abstract())
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves])


@pytest.fixture
def folder(tmp_path: Path, params) -> Path:
    """A folder with the CLIP saved in it."""
    save_model(tmp_path / "model", SMALL, params)
    return tmp_path / "model"


def rewrite(folder: Path, change) -> None:
    """Applies `change` to the dict of the folder's tensors."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load_params(folder, DEFINITION.abstract())
    message = str(error.value)
    assert len(message.splitlines()) <= 2
    for word in (str(folder / "model.safetensors"), *words):
        assert word in message


def test_round_trip_bit_for_bit(folder: Path, params):
    again = load_params(folder, DEFINITION.abstract())
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert again["logit_scale"].shape == ()
    assert load_architecture(folder, CLIPConfig) == SMALL
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_the_network_computes_the_same(folder: Path, params):
    pixels = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    ids, mask = jnp.array([[4, 5, 2, 0], [6, 2, 0, 0]]), jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    apply = jax.jit(lambda params: DEFINITION.bind(params)(pixels, ids, mask).logits_per_image)
    np.testing.assert_array_equal(apply(params), apply(load_params(folder, DEFINITION.abstract())))


def test_any_safetensors_reader_finds_names_and_values(folder: Path, params):
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {"logit_scale", "text.embed.embedding", "vision.transformer.blocks.1.qkv.kernel"} <= arrays.keys()
    np.testing.assert_array_equal(arrays["text.embed.embedding"], params["text"]["embed"]["embedding"])
    assert arrays["vision.transformer.blocks.1.qkv.kernel"].shape == (8, 24)
    assert arrays.keys() == parameter_names(params).keys()


def test_other_dtypes_and_memory_orders_survive(tmp_path: Path):
    @dataclasses.dataclass(frozen=True)
    class Small:
        width: int = 3

    params = {
        "half": jnp.asarray([1.5, -2.25], jnp.bfloat16),
        "whole": np.asarray(7, np.int32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not in C order
    }
    save_model(tmp_path, Small(), params)
    again = load_params(tmp_path, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params)))
    for name, before in params.items():
        assert again[name].dtype == before.dtype
        np.testing.assert_array_equal(np.asarray(again[name]), np.asarray(before))


def test_a_missing_tensor_is_named(folder: Path):
    rewrite(folder, lambda arrays: arrays.pop("text.embed.embedding"))
    refused(folder, "lacks", "text.embed.embedding")


def test_an_unknown_tensor_is_named(folder: Path):
    rewrite(folder, lambda arrays: arrays.update(stray=np.zeros(3, np.float32)))
    refused(folder, "unknown", "stray")


def test_a_tensor_of_another_shape_is_named(folder: Path):
    rewrite(folder, lambda arrays: arrays.update({"text.positions": np.zeros((5, 8), np.float32)}))
    refused(folder, "text.positions", "[5, 8]", "[4, 8]")


def test_a_tensor_of_another_dtype_is_named(folder: Path):
    rewrite(folder, lambda arrays: arrays.update(logit_scale=np.asarray(1.0, np.float16)))
    refused(folder, "logit_scale", "float16", "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(folder: Path, bad):
    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays["vision.positions"][2, 3] = bad

    rewrite(folder, spoil)
    refused(folder, "vision.positions", "NaN")


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, -1])
def test_a_truncated_file_is_refused(folder: Path, kept):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)] if isinstance(kept, float) else data[:kept])
    refused(folder, "damaged")


def test_a_file_of_another_kind_is_refused(folder: Path):
    # a header that claims more bytes than there are, and a pickle's first bytes
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    refused(folder, "damaged")
    (folder / "model.safetensors").write_bytes(b"\x80\x05\x95" + bytes(100))
    refused(folder, "pickle", "save_pretrained")


def test_a_missing_file_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    refused(folder, "not there")


def test_weights_of_another_architecture_are_refused(tmp_path: Path, params):
    wider = dataclasses.replace(SMALL, projection_width=16)
    save_model(tmp_path, wider, define(lambda rngs: CLIP(wider, rngs=rngs)).init(jax.random.key(0)))
    refused(tmp_path, "_projection.kernel", "[8, 16]", "[8, 8]")


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '"width"', '{"vision": 3}'])
def test_a_config_that_is_none_is_refused(folder: Path, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        load_architecture(folder, CLIPConfig)
    assert str(folder / "config.json") in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_the_config_of_another_network_is_refused(folder: Path):
    with pytest.raises(UserError, match=r"config\.json: DecoderConfig: .*projection_width"):
        load_architecture(folder, DecoderConfig)


def test_a_config_with_an_impossible_size_is_refused(folder: Path):
    values = json.loads((folder / "config.json").read_text())
    values["text"]["transformer"]["heads"] = 3
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json: width / heads"):
        load_architecture(folder, CLIPConfig)


def test_a_missing_config_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json is not there: run the stage"):
        load_architecture(tmp_path, CLIPConfig)


def test_a_failed_save_leaves_the_old_weights(folder: Path, params, monkeypatch: pytest.MonkeyPatch):
    def fail(arrays, path, metadata):
        Path(path).write_bytes(b"half a fi")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, SMALL, jax.tree.map(jnp.zeros_like, params))
    monkeypatch.undo()
    again = load_params(folder, DEFINITION.abstract())
    np.testing.assert_array_equal(again["logit_scale"], params["logit_scale"])

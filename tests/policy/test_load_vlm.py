"""Loading vision-language policies: every spelling of the tensors, flags, and folders that do not fit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.modules import params_of
from mmrlhf_jax.policy import load_vlm

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "llava_llama_clip"


def copy(folder: Path, *, name: str = NAME, rename=lambda key: key, tensors=None, config=None) -> Path:
    """The golden checkpoint with other names, some tensors changed (None: taken away) and other fields."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors") | (tensors or {})
    arrays = {rename(key): array for key, array in arrays.items() if array is not None}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def transformers_4(key: str) -> str:
    """Until 4.51, and llava-hf's repositories."""
    return key.replace("vision_tower.", "vision_tower.vision_model.")


def transformers_4_52(key: str) -> str:
    """As the modules are nested since 4.52."""
    if key == "language_model.lm_head.weight":
        return "lm_head.weight"
    return "model." + transformers_4(key).replace("language_model.model.", "language_model.")


def transformers_5(key: str) -> str:
    """As the modules are nested in 5."""
    return transformers_4_52(key).replace("vision_tower.vision_model.", "vision_tower.")


@pytest.mark.parametrize("name", [NAME, "llava_qwen2_siglip"])
@pytest.mark.parametrize("rename", [transformers_4, transformers_4_52, transformers_5])
def test_every_layout_gives_the_same_policy(tmp_path, name, rename):
    policy = load_vlm(copy(tmp_path, name=name, rename=rename))
    wanted = params_of(load_vlm(GOLDEN / name))
    jax.tree.map(np.testing.assert_array_equal, params_of(policy), wanted)


def test_a_fresh_value_head_says_nothing():
    head = params_of(load_vlm(GOLDEN / NAME))["value_head"]
    assert head["kernel"].shape == (24, 1) and not np.any(head["kernel"]) and not np.any(head["bias"])


def test_options_of_loading():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec(None, "model")), NamedSharding(mesh, PartitionSpec())

    def place(name, leaf):
        return split if name.endswith("kernel") and leaf.shape[-1] % 2 == 0 else whole

    policy = load_vlm(GOLDEN / NAME, dtype=jnp.bfloat16, sharding=place, remat=True)
    assert policy.config.decoder.remat and policy.config.vision.transformer.remat
    for name, leaf in parameter_names(params_of(policy)).items():
        assert leaf.dtype == jnp.bfloat16, name
        assert leaf.sharding == place(name, leaf), name


def test_half_precision_answers_nearly_the_same():
    golden = safetensors.numpy.load_file(GOLDEN / NAME / "answers.safetensors")
    ids, mask = golden["inputs.ids"], golden["inputs.mask"]

    @jax.jit
    def answer(policy):
        x, x_mask = policy.merge(policy.encode(golden["inputs.pixels"]), ids, mask)
        assert x.dtype == jnp.bfloat16
        return policy.decoder.logits(policy.decoder(x, x_mask))

    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm takes its means in float32
        logits = answer(load_vlm(GOLDEN / NAME, dtype=jnp.bfloat16))
    error = np.abs(logits - golden["outputs.logits"])[mask]
    assert logits.dtype == jnp.float32 and np.mean(error) < 0.02 * golden["outputs.logits"].std()


@pytest.mark.parametrize(
    "extra",
    [
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
        "lm_head.weight",
    ],
)
def test_tensors_that_follow_from_others_may_be_there(tmp_path, extra):
    load_vlm(copy(tmp_path, name="llava_qwen2_siglip", tensors={extra: np.zeros(3, np.float32)}))


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"multi_modal_projector.linear_1.bias": None}, None, r"lacks tensor multi_modal_projector"),
        ({"image_newline": np.zeros(24, np.float32)}, None, "unknown tensor image_newline"),
        ({"lm_head.weight": np.zeros((264, 24), np.float32)}, None, r"unknown tensor lm_head\.weight"),
        (None, {"multimodal_projector_bias": False}, r"unknown tensor multi_modal_projector\.linear_1\.bias"),
        (None, {"tie_word_embeddings": "yes", "model_type": "bert"}, r"config\.json: model_type is 'bert'"),
        (None, {"vision_feature_layer": 4}, r"config\.json: feature_layer is 4: choose -4 to 3"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit(tmp_path, tensors, config, message):
    with pytest.raises(UserError, match=message) as error:
        load_vlm(copy(tmp_path, tensors=tensors, config=config))
    assert len(str(error.value).splitlines()) == 1

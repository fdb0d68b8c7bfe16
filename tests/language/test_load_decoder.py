"""Loading decoders, as users meet it."""

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
from mmrlhf_jax.language import load_decoder
from mmrlhf_jax.modules import params_of

GOLDEN = Path(__file__).parents[1] / "golden"


def test_options_of_loading():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec(None, "model")), NamedSharding(mesh, PartitionSpec())
    decoder = load_decoder(
        GOLDEN / "llama_tied",
        dtype=jnp.bfloat16,
        sharding=lambda name, leaf: split if name.endswith("kernel") else whole,
        remat=True,
    )
    assert decoder.config.remat
    for name, leaf in parameter_names(params_of(decoder)).items():
        assert leaf.dtype == jnp.bfloat16, name
        assert leaf.sharding == (split if name.endswith("kernel") else whole), name


@pytest.mark.parametrize("kept", ["", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_tensors_that_follow_from_others_may_be_there(tmp_path: Path, kept):
    """Older files hold the tied output weights and the rotary frequencies too; another name is refused."""
    shutil.copytree(GOLDEN / "llama_tied", tmp_path, dirs_exist_ok=True)
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    arrays[kept or "model.layers.2.mlp.up_proj.weight"] = np.zeros(3, np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    if kept:
        load_decoder(tmp_path)
    else:
        with pytest.raises(UserError, match=r"unknown tensor model\.layers\.2\.mlp\.up_proj\.weight"):
            load_decoder(tmp_path)


def test_the_config_of_another_model_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "auto_map": {"AutoModel": "code.Model"}}')
    (tmp_path / "code.py").write_text("raise SystemExit")
    with pytest.raises(UserError) as error:
        load_decoder(tmp_path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for word in ("config.json", "gpt2", "llama, mistral, qwen2"):
        assert word in message


def test_weights_of_another_size_name_the_tensor(tmp_path: Path):
    shutil.copytree(GOLDEN / "llama_tied", tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"intermediate_size": 48}))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.down_proj\.weight is \[24, 40\].*\[24, 48\]"):
        load_decoder(tmp_path)

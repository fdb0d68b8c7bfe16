"""Low-rank adapters: nothing changes at first, they alone are trained, and merging equals applying."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub import llama
from mmrlhf_jax.hub.names import side_by_side
from mmrlhf_jax.hub.peft import load_adapters, save_adapters
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.lora import lora_apply, lora_init, lora_merge
from mmrlhf_jax.modules import define
from mmrlhf_jax.pretrained import save_pretrained
from mmrlhf_jax.types import Adapter
from tests.parameters import draw

CONFIG = DecoderConfig(vocab_size=13, width=16, layers=2, heads=4, kv_heads=2, mlp_width=24, tied=False)
DEFINITION = define(lambda rngs: Decoder(CONFIG, rngs=rngs))
RULES = [r"blocks\.\d+\.(query|value|down)", "head"]
IDS = np.array([[3, 4, 5, 6], [9, 10, 11, 12]], np.int32)


@pytest.fixture(scope="module")
def params():
    return draw(DEFINITION.abstract())


@pytest.fixture(scope="module")
def adapters(params):
    """As training would leave them: B is not 0."""
    adapters = lora_init(params, jax.random.key(0), RULES, rank=3)
    noise = np.random.default_rng(1)
    return {
        name: Adapter(a, jnp.asarray(noise.normal(size=b.shape), jnp.float32))
        for name, (a, b) in adapters.items()
    }


@jax.jit
def logits_of(params, adapters, scale):
    decoder = lora_apply(DEFINITION.bind(params), adapters, scale)
    return decoder.logits(decoder(decoder.embed(IDS), np.ones(IDS.shape, bool)))


def test_rules_choose_layers_by_their_whole_name(params):
    adapters = lora_init(params, jax.random.key(0), RULES, rank=3)
    assert list(adapters) == [
        *(f"blocks.{i}.{name}" for i in range(2) for name in ("down", "query", "value")),
        "head",
    ]
    assert adapters["blocks.0.down"].a_IxR.shape == (24, 3) and adapters["head"].b_RxO.shape == (3, 13)
    with pytest.raises(UserError, match="'query'"):
        lora_init(params, jax.random.key(0), ["query"], rank=3)
    with pytest.raises(UserError, match="rank"):
        lora_init(params, jax.random.key(0), RULES, rank=0)


def test_fresh_adapters_change_nothing(params):
    adapters = lora_init(params, jax.random.key(0), RULES, rank=3)
    np.testing.assert_array_equal(logits_of(params, adapters, 2.0), logits_of(params, {}, 2.0))
    for name, (a, b) in adapters.items():
        assert not b.any() and 0.5 < np.abs(a).max() * a.shape[0] ** 0.5 <= 1, name
    assert len({float(a[0, 0]) for a, _ in adapters.values()}) == len(adapters)


def test_merging_is_applying(params, adapters):
    merged = logits_of(lora_merge(params, adapters, 0.7), {}, 1.0)
    np.testing.assert_allclose(merged, logits_of(params, adapters, 0.7), rtol=1e-4, atol=1e-4)
    assert np.abs(merged - logits_of(params, {}, 1.0)).max() > 0.1


def test_an_adapted_layer_by_hand(params, adapters):
    merged = lora_merge(params, adapters, 0.5)
    a, b = adapters["blocks.1.query"]
    by_hand = np.asarray(params["blocks"][1]["query"]["kernel"]) + 0.5 * np.asarray(a) @ np.asarray(b)
    np.testing.assert_allclose(merged["blocks"][1]["query"]["kernel"], by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merged["blocks"][1]["key"]["kernel"], params["blocks"][1]["key"]["kernel"])


def test_blocks_may_be_computed_anew_in_the_backward_pass(params, adapters):
    """With a scale that is traced, as in a sweep of it."""
    remat = define(lambda rngs: Decoder(dataclasses.replace(CONFIG, remat=True), rngs=rngs))

    @functools.partial(jax.jit, static_argnums=0)
    def loss(definition, adapters, scale):
        decoder = lora_apply(definition.bind(params), adapters, scale)
        return jnp.sum(jnp.sin(decoder(decoder.embed(IDS), np.ones(IDS.shape, bool))))

    want = jax.value_and_grad(loss, argnums=(1, 2))(DEFINITION, adapters, 0.5)
    got = jax.value_and_grad(loss, argnums=(1, 2))(remat, adapters, 0.5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
    assert abs(float(want[1][1])) > 1e-3  # the scale matters


def test_only_adapters_are_trained(params):
    """At the start only B moves, for A's gradient goes through B = 0."""
    adapters = lora_init(params, jax.random.key(0), RULES, rank=3)
    gradients = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(logits_of(params, x, 1.0)))))(adapters)
    assert gradients.keys() == adapters.keys()
    for name, (a, b) in gradients.items():
        assert not np.asarray(a).any() and np.asarray(b).any(), name


def test_the_bound_module_itself_is_left_alone(params, adapters):
    decoder = DEFINITION.bind(params)
    lora_apply(decoder, adapters, 1.0)
    assert type(decoder.head).__name__ == type(decoder.blocks[0].query).__name__ == "Linear"


@jax.numpy_dtype_promotion("standard")  # jax.nn.dot_product_attention promotes bfloat16 itself
def test_half_precision_networks_have_float32_adapters(params, adapters):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    merged = lora_merge(half, adapters, 0.7)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    applied, exact = logits_of(half, adapters, 0.7), logits_of(params, adapters, 0.7)
    assert np.corrcoef(np.ravel(applied), np.ravel(exact))[0, 1] > 0.99


def test_towers_are_adapted_alike():
    tower = TransformerConfig(width=8, layers=1, heads=2, mlp_width=8)
    config = CLIPConfig(VisionConfig(16, 8, tower), TextConfig(16, 4, tower), 8)
    definition = define(lambda rngs: CLIP(config, rngs=rngs))
    params = draw(definition.abstract())
    adapters = lora_init(params, jax.random.key(0), [r"vision\..*\.qkv", "text_projection"], rank=2)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    pixels = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    ids, mask = jnp.array([[4, 5, 2, 0], [6, 2, 0, 0]]), jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    run = jax.jit(lambda clip: clip(pixels, ids, mask).logits_per_image)
    applied = run(lora_apply(definition.bind(params), adapters, 1.0))
    np.testing.assert_allclose(run(definition.bind(lora_merge(params, adapters, 1.0))), applied, rtol=1e-3)
    assert np.abs(applied - run(definition.bind(params))).max() > 1e-2


def test_saved_as_peft_documents_it(params, adapters, tmp_path: Path):
    table = llama.table(CONFIG)
    save_adapters(tmp_path, adapters, table, scale=2.0)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert (
        "model.layers.1.self_attn.v_proj" in config["target_modules"]
        and "lm_head" in config["target_modules"]
    )
    arrays = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    down = "base_model.model.model.layers.0.mlp.down_proj"
    assert arrays[f"{down}.lora_A.weight"].shape == (3, 24) and arrays[f"{down}.lora_B.weight"].shape == (
        16,
        3,
    )
    again, scale = load_adapters(tmp_path, table)
    assert scale == 2.0
    jax.tree.map(np.testing.assert_array_equal, again, adapters)


def test_adapters_that_do_not_fit_are_refused(params, adapters, tmp_path: Path):
    table = llama.table(CONFIG)
    with pytest.raises(UserError, match=r"adapter_config\.json is not there"):
        load_adapters(tmp_path, table)
    save_adapters(tmp_path, adapters, table, scale=2.0)
    with pytest.raises(UserError, match=r"unknown tensor .*layers\.1"):
        load_adapters(tmp_path, {name: rule for name, rule in table.items() if "blocks.1" not in name})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change in ({"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"r": None}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=r"adapter_config\.json"):
            load_adapters(tmp_path, table)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "r": 4}))
    assert load_adapters(tmp_path, table)[1] == 3.0
    with pytest.raises(UserError, match="side by side"):
        save_adapters(tmp_path, {"qkv": adapters["head"]}, side_by_side("qkv", ("q", "k", "v")), scale=1.0)


PEFT = """
import sys, numpy as np, torch, transformers, peft
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(model, sys.argv[2]).eval()
ids = torch.from_numpy(np.load(sys.argv[1] + "/ids.npy").astype(np.int64))
with torch.no_grad():
    np.save(sys.argv[1] + "/logits.npy", model(ids).logits.numpy())
model.save_pretrained(sys.argv[2])
"""


@pytest.mark.parity
def test_peft_loads_them_and_they_load_peft(params, adapters, tmp_path: Path):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    save_pretrained(DEFINITION.bind(params), tmp_path / "base")
    save_adapters(tmp_path / "adapters", adapters, llama.table(CONFIG), scale=2.0)
    np.save(tmp_path / "base" / "ids.npy", IDS)
    # in a process of its own: its imports warn, and warnings are errors here
    command = [sys.executable, "-c", PEFT, str(tmp_path / "base"), str(tmp_path / "adapters")]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "base" / "logits.npy")
    np.testing.assert_allclose(logits_of(params, adapters, 2.0), theirs, rtol=1e-4, atol=1e-4)
    again, scale = load_adapters(tmp_path / "adapters", llama.table(CONFIG))
    assert scale == 2.0
    jax.tree.map(np.testing.assert_array_equal, again, adapters)

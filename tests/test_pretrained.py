"""What is saved is loaded again, bit for bit, with everything that lay beside the weights."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax import pretrained
from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, PolicyConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import define, params_of
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.pretrained import load_clip, load_decoder, load_siglip, load_vit, load_vlm, save_pretrained
from tests.parameters import draw

GOLDEN = Path(__file__).parent / "golden"
LOADERS = {
    "clip_quick_gelu": load_clip,
    "clip_gelu": load_clip,
    "siglip": load_siglip,
    "vit": load_vit,
    "llama_tied": load_decoder,
    "qwen2_yarn": load_decoder,
    "mistral": load_decoder,
    "llava_llama_clip": load_vlm,
    "llava_qwen2_siglip": load_vlm,
}
COMPANIONS = {
    "clip_gelu": {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"},
    "llava_llama_clip": {
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    },
}
COMPANIONS["llava_qwen2_siglip"] = COMPANIONS["llava_llama_clip"]


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", LOADERS)
def test_saved_and_loaded_bit_for_bit(tmp_path: Path, name):
    model = LOADERS[name](GOLDEN / name)
    save_pretrained(model, tmp_path, like=GOLDEN / name)
    again = LOADERS[name](tmp_path)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, params_of(again), params_of(model))
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors"} | COMPANIONS.get(name, set())
    ours, theirs = config_of(tmp_path), config_of(GOLDEN / name)
    for key in ("architectures", "model_type"):
        assert ours[key] == theirs[key]
    for mine, wanted in ((ours, theirs), (ours.get("text_config", {}), theirs.get("text_config", {}))):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert mine.get(key) == wanted.get(key), key
    if "llava" not in name:  # whose tensors have more than one spelling
        written, original = (
            safetensors.numpy.load_file(folder / "model.safetensors") for folder in (tmp_path, GOLDEN / name)
        )
        assert written.keys() == original.keys()


def test_every_loader_is_exported():
    loaders = {loader.__name__ for loader in LOADERS.values()}
    assert loaders | {"resolve", "save_pretrained"} == set(pretrained.__all__)


def test_in_several_files(tmp_path: Path):
    policy = load_vlm(GOLDEN / "llava_llama_clip")
    save_pretrained(policy, tmp_path, max_shard_bytes=30_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert (tmp_path / "model.safetensors.index.json").exists()
    jax.tree.map(np.testing.assert_array_equal, params_of(load_vlm(tmp_path)), params_of(policy))


def test_what_lay_beside_the_weights_is_kept(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "target"
    decoder = load_decoder(GOLDEN / "llama_tied")
    save_pretrained(decoder, source)
    values = config_of(source)
    (source / "config.json").write_text(json.dumps(values | {"eos_token_id": [7, 8], "pad_token_id": 9}))
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text("{}")
    (source / "modeling_custom.py").write_text("raise SystemExit")
    save_pretrained(decoder, target, like=source)
    saved = config_of(target)
    assert (saved["eos_token_id"], saved["pad_token_id"]) == ([7, 8], 9)
    assert (target / "tokenizer.json").read_text() == "{}" and (target / "generation_config.json").exists()
    assert not (target / "modeling_custom.py").exists(), "code is not copied"
    save_pretrained(decoder, target, like=target)
    assert config_of(target) == saved


def test_the_end_of_a_text_is_the_models_own(tmp_path: Path):
    """`like` adds ids, but the one that the text tower pools by is part of the architecture."""
    clip = load_clip(GOLDEN / "clip_gelu")
    text = dataclasses.replace(clip.config.text, end_id=5)
    moved = define(lambda rngs: CLIP(dataclasses.replace(clip.config, text=text), rngs=rngs))
    save_pretrained(moved.bind(params_of(clip)), tmp_path, like=GOLDEN / "clip_gelu")
    saved = config_of(tmp_path)["text_config"]
    assert (saved["eos_token_id"], saved["bos_token_id"]) == (5, 518)


def test_half_precision_stays_half(tmp_path: Path):
    half = load_vlm(GOLDEN / "llava_llama_clip", dtype=jnp.bfloat16)
    save_pretrained(half, tmp_path)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert {array.dtype for array in written.values()} == {jnp.dtype(jnp.bfloat16)}
    assert not any("value" in name and "head" in name for name in written)


def test_forms_that_transformers_has_not_are_told(tmp_path: Path):
    clip = define(lambda rngs: CLIP(CLIPConfig(), rngs=rngs))
    tower = VisionConfig(8, 4, TransformerConfig(8, 1, 2, 8))
    captioner = define(
        lambda rngs: VisionLanguagePolicy(PolicyConfig(tower, DecoderConfig(20, 8, 1, 2, 2, 8)), rngs=rngs)
    )
    for definition, message in ((clip, "end token"), (captioner, "feature_layer")):
        with pytest.raises(UserError, match=message) as error:
            save_pretrained(definition.bind(draw(definition.abstract())), tmp_path)
        assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"

"""LLaVAs of a real size against transformers' torch models, and round trips through both packages."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.modules import params_of
from mmrlhf_jax.policy.sampling import sample_completions
from mmrlhf_jax.pretrained import load_vlm, save_pretrained
from mmrlhf_jax.types import Prompts
from scripts.torch_reference import randomised

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parents[1] / "golden"
PLACE, NEW_TOKENS = 4, 16
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
}
# The picture towers of ViT-B/16 size, with 196 patches.
BASE = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
TEXT = {
    "vocab_size": 2000,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "max_position_embeddings": 512,
}


def build(vision, text, **fields):
    """A torch LLaVA whose weights hide no mistake."""
    import transformers

    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=PLACE, **fields
    )
    config._attn_implementation = "eager"
    return randomised(transformers.LlavaForConditionalGeneration(config), seed=12)


def prompts_of(places: int, vocab_size: int) -> Prompts:
    """Two prompts of different lengths, left-padded, each with the places of its picture."""
    generator = np.random.default_rng(13)
    rows = [
        [1, *generator.integers(5, vocab_size, 3), *[PLACE] * places, *generator.integers(5, vocab_size, 9)],
        [1, *[PLACE] * places, *generator.integers(5, vocab_size, 4)],
    ]
    ids_BxL = np.zeros((2, max(map(len, rows))), np.int32)
    for ids, row in zip(ids_BxL, rows, strict=True):
        ids[len(ids) - len(row) :] = row
    return Prompts(ids_BxL, ids_BxL > 0)


def torch_logits(model, pixels: np.ndarray, prompts: Prompts) -> np.ndarray:
    import torch

    positions = np.maximum(np.cumsum(prompts.mask_BxL, axis=1) - 1, 0)
    with torch.no_grad():
        return model(**torch_inputs(pixels, prompts), position_ids=torch.from_numpy(positions)).logits.numpy()


def torch_inputs(pixels: np.ndarray, prompts: Prompts) -> dict:
    import torch

    return {
        "pixel_values": torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        "input_ids": torch.from_numpy(prompts.ids_BxL.astype(np.int64)),
        "attention_mask": torch.from_numpy(prompts.mask_BxL.astype(np.int64)),
    }


@jax.jit
def logits_of(policy, pixels, prompts):
    x, mask = policy.merge(policy.encode(pixels), *prompts)
    return policy.decoder.logits(policy.decoder(x, mask))


def check_logits(policy, model, pixels: np.ndarray, prompts: Prompts, tolerance: float) -> float:
    ours, theirs = logits_of(policy, pixels, prompts), torch_logits(model, pixels, prompts)
    real = prompts.mask_BxL
    assert np.abs(theirs[0, -1] - theirs[1, -1]).max() > 0.1
    np.testing.assert_allclose(ours[real], theirs[real], rtol=tolerance, atol=tolerance)
    return float(np.abs(ours - theirs)[real].max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CLIP + Llama", "SigLIP + Qwen2"])
def test_moderate_size_logits_and_greedy_generation(tmp_path, capsys, kind):
    import torch
    import transformers

    if kind == "CLIP + Llama":
        model = build(transformers.CLIPVisionConfig(**BASE), transformers.LlamaConfig(**TEXT))
    else:
        model = build(
            transformers.SiglipVisionConfig(**BASE),
            transformers.Qwen2Config(**TEXT),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    policy = load_vlm(tmp_path)
    pixels = np.random.default_rng(14).normal(size=(2, 224, 224, 3)).astype(np.float32)
    prompts = prompts_of(policy.config.picture_tokens, TEXT["vocab_size"])
    error = check_logits(policy, model, pixels, prompts, 1e-4)
    with torch.no_grad():
        wanted = model.generate(
            **torch_inputs(pixels, prompts), do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None
        )[:, prompts.ids_BxL.shape[1] :]

    @jax.jit
    def write(policy):
        return sample_completions(
            policy,
            policy.encode(pixels),
            Prompts(jnp.asarray(prompts.ids_BxL), jnp.asarray(prompts.mask_BxL)),
            jax.random.key(0),
            length=NEW_TOKENS,
            forbidden_V=jnp.zeros(TEXT["vocab_size"], bool),
            temperature=0.0,
            end_id=-1,
        )

    np.testing.assert_array_equal(write(policy).ids_BxT, wanted)
    with capsys.disabled():
        print(f"\n{kind}: largest error of a logit {error:.1e}, {NEW_TOKENS} greedy tokens equal")


@pytest.mark.parametrize("tower", ["clip", "siglip", "vit"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_saved_there_loaded_here_and_back(tmp_path, tower, family):
    """Every tower with every decoder; SigLIP at a size that its patches do not cover, where one is lost."""
    import transformers

    visions = {
        "clip": transformers.CLIPVisionConfig(**TINY, image_size=16),
        "siglip": transformers.SiglipVisionConfig(**TINY, image_size=19),
        "vit": transformers.ViTConfig(**TINY, image_size=16),
    }
    small = {"hidden_size": 24, "num_attention_heads": 4, "vocab_size": 30, "intermediate_size": 40}
    text = transformers.AutoConfig.for_model(family, **{**TEXT, **small})
    model = build(visions[tower], text)
    model.save_pretrained(tmp_path / "theirs")
    policy = load_vlm(tmp_path / "theirs")
    size = policy.config.vision.image_size
    pixels = np.random.default_rng(15).normal(size=(2, size, size, 3)).astype(np.float32)
    prompts = prompts_of(policy.config.picture_tokens, 30)
    assert policy.config.picture_tokens == (3 if tower == "siglip" else 4)
    check_logits(policy, model, pixels, prompts, 1e-5)

    save_pretrained(policy, tmp_path / "ours", like=tmp_path / "theirs")
    again, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    theirs, wanted = again.state_dict(), model.state_dict()
    assert theirs.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(theirs[key], tensor, err_msg=key)
    assert again.config.text_config.eos_token_id == model.config.text_config.eos_token_id


@pytest.mark.parametrize("name", ["llava_llama_clip", "llava_qwen2_siglip"])
def test_a_saved_folder_is_whole_for_transformers(tmp_path, name):
    """Model and processor, found by their auto classes, answer what they did."""
    import torch
    import transformers

    policy = load_vlm(GOLDEN / name)
    save_pretrained(policy, tmp_path, like=GOLDEN / name)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = transformers.LlavaProcessor.from_pretrained(tmp_path)
    picture = np.random.default_rng(16).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    read = processor(images=[picture], text=["<image> what?"], return_tensors="pt")
    with torch.no_grad():
        theirs = model(**read).logits.numpy()
    pixels = read["pixel_values"].numpy().transpose(0, 2, 3, 1)
    ids = read["input_ids"].numpy().astype(np.int32)
    ours = logits_of(policy, pixels, Prompts(ids, np.ones(ids.shape, bool)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    again = load_vlm(tmp_path)
    assert dataclasses.asdict(again.config) == dataclasses.asdict(policy.config)
    jax.tree.map(np.testing.assert_array_equal, params_of(again), params_of(policy))

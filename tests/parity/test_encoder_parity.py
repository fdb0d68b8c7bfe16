"""Encoders against transformers' torch models: full-size ones, and round trips through both packages."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mmrlhf_jax.encoders import load_clip, load_siglip, load_vit
from mmrlhf_jax.hub import clip, siglip, vit
from mmrlhf_jax.hub.config import write_config
from mmrlhf_jax.hub.tensors import write_params
from mmrlhf_jax.modules import params_of
from scripts.torch_reference import randomised

pytestmark = pytest.mark.parity

GOLDEN = Path(__file__).parents[1] / "golden"
LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


def save(model, folder: Path):
    """The model with weights that hide no mistake, in `folder`."""
    randomised(model, seed=7)
    model.save_pretrained(folder)
    return model


def pictures(size: int) -> np.ndarray:
    """Noise, and a ramp."""
    pixels = np.random.default_rng(8).normal(size=(2, size, size, 3)).astype(np.float32)
    pixels[1] = np.linspace(-2, 2, size)[:, None, None] * np.array([1, -1, 0.5])
    return pixels


def largest_error(ours: dict, theirs: dict) -> dict[str, float]:
    """Of vectors scaled to length 1, so that it means the same for all models."""
    errors = {}
    for name, array in ours.items():
        wanted = theirs[name].detach().numpy()
        length = np.linalg.norm(wanted, axis=-1, keepdims=True)
        assert np.abs((wanted[0] - wanted[1]) / length[0]).max() > 1e-3, f"{name} hardly depends on its input"
        errors[name] = float(np.abs((np.asarray(array) - wanted) / length).max())
    return errors


def check(name: str, errors: dict[str, float], capsys) -> None:
    with capsys.disabled():
        print(f"\n{name}: largest errors {', '.join(f'{k} {v:.1e}' for k, v in errors.items())}")
    assert max(errors.values()) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CLIP ViT-B/32", "CLIP ViT-L/14-336"])
def test_full_size_clip(tmp_path, capsys, name):
    import torch
    import transformers

    text = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    config = (
        transformers.CLIPConfig()
        if name == "CLIP ViT-B/32"
        else transformers.CLIPConfig(vision_config=LARGE_336, text_config=text, projection_dim=768)
    )
    model = save(transformers.CLIPModel(config), tmp_path)
    pixels = pictures(config.vision_config.image_size)
    ids = np.random.default_rng(9).integers(0, 49406, (2, 77))
    ids[:, 0], ids[0, 12:], ids[1, -1] = 49406, 49407, 49407
    mask = np.arange(77)[None] < np.array([[13], [77]])
    with torch.no_grad():
        both = model(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
        )
    ours = jax.jit(lambda model, *inputs: model(*inputs))(
        load_clip(tmp_path), pixels, ids.astype(np.int32), mask
    )
    np.testing.assert_allclose(ours.logits_per_image, both.logits_per_image, atol=1e-3)
    theirs = {"image_embeds": both.image_embeds, "text_embeds": both.text_embeds}
    check(name, largest_error({key: getattr(ours, key) for key in theirs}, theirs), capsys)


@pytest.mark.slow
def test_full_size_siglip(tmp_path, capsys):
    import torch
    import transformers

    model = save(transformers.SiglipModel(transformers.SiglipConfig()), tmp_path)
    pixels, ids = pictures(224), np.random.default_rng(9).integers(0, 32000, (2, 64))
    with torch.no_grad():
        both = model(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            input_ids=torch.from_numpy(ids),
        )
    ours = jax.jit(lambda model, *inputs: model(*inputs))(load_siglip(tmp_path), pixels, ids.astype(np.int32))
    np.testing.assert_allclose(ours.logits_per_image, both.logits_per_image, atol=1e-3)
    theirs = {"image_embeds": both.image_embeds, "text_embeds": both.text_embeds}
    check("SigLIP base", largest_error({key: getattr(ours, key) for key in theirs}, theirs), capsys)


@pytest.mark.slow
def test_full_size_vit(tmp_path, capsys):
    import torch
    import transformers

    model = save(transformers.ViTModel(transformers.ViTConfig()), tmp_path)
    pixels = pictures(224)
    with torch.no_grad():
        seen = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    ours = jax.jit(lambda model, pixels: model(pixels))(load_vit(tmp_path), pixels)
    theirs = {"patches": seen.last_hidden_state[:, 1:], "pooled": seen.pooler_output}
    check(
        "ViT-B/16", largest_error({"patches": ours.tokens_BxTxD, "pooled": ours.pooled_BxD}, theirs), capsys
    )


@pytest.mark.parametrize(
    ("name", "load", "hub", "cls"),
    [
        ("clip_quick_gelu", load_clip, clip, "CLIPModel"),
        ("clip_gelu", load_clip, clip, "CLIPModel"),
        ("siglip", load_siglip, siglip, "SiglipModel"),
        ("vit", load_vit, vit, "ViTModel"),
    ],
)
def test_saved_here_and_loaded_there(tmp_path, name, load, hub, cls):
    """transformers finds every tensor in its place, and builds the network that it was."""
    import transformers

    model = load(GOLDEN / name, scan=True)
    write_config(tmp_path, hub.config_to_hf(model.config))
    write_params(tmp_path, hub.table(model.config), params_of(model))
    theirs, info = getattr(transformers, cls).from_pretrained(tmp_path, output_loading_info=True)
    original = getattr(transformers, cls).from_pretrained(GOLDEN / name)
    assert not any(info.values()), info
    for key, tensor in original.state_dict().items():
        np.testing.assert_array_equal(theirs.state_dict()[key], tensor, err_msg=key)
    assert hub.config_from_hf(theirs.config.to_dict()) == hub.config_from_hf(original.config.to_dict())

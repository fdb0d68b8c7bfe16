"""Our CLIP against transformers' CLIPModel, made from tiny random architectures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.modules import define
from scripts.torch_reference import (
    TORCH_ACTIVATIONS,
    arrays_of,
    clip_answers,
    clip_table,
    convert,
    torch_clip,
    with_activation,
)

pytestmark = pytest.mark.parity

CONFIG = CLIPConfig(
    vision=VisionConfig(64, 16, TransformerConfig(width=24, layers=3, heads=4, mlp_width=64, norm_eps=1e-6)),
    text=TextConfig(50, 10, TransformerConfig(width=32, layers=2, heads=2, mlp_width=48)),
    projection_width=20,
)
END = CONFIG.text.vocab_size - 1


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_clip(activation):
    config = with_activation(CONFIG, activation)
    model = torch_clip(config, seed=5)
    definition = define(lambda rngs: CLIP(config, rngs=rngs))
    params = convert(clip_table(3, 2), arrays_of(model), definition.abstract())

    generator = np.random.default_rng(6)
    pixels = generator.normal(size=(4, 64, 64, 3)).astype(np.float32)
    lengths = np.array([10, 1, 3, 7])
    mask = np.arange(10) < lengths[:, None]
    ids = np.where(mask, generator.integers(1, END, (4, 10)), 0).astype(np.int32)
    ids[np.arange(4), lengths - 1] = END

    @jax.jit
    def answer(params):
        clip = definition.bind(params)
        return {
            "patches": clip.vision(pixels).tokens_BxTxD,
            "tokens": clip.text(ids, mask).tokens_BxTxD,
            "image_features": clip.encode_image(pixels),
            "text_features": clip.encode_text(ids, mask),
            "logits_per_image": clip(pixels, ids, mask).logits_per_image,
        }

    theirs = clip_answers(model, pixels, ids, mask)
    for name, ours in answer(params).items():
        rows = mask if name == "tokens" else ...
        np.testing.assert_allclose(ours[rows], theirs[name][rows], rtol=1e-5, atol=1e-5, err_msg=name)


def test_to_pixels_agrees_with_the_processor_of_transformers():
    import transformers

    processor = transformers.CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    theirs = processor(images=picture, return_tensors="np")["pixel_values"][0]
    ours = to_pixels(jnp.asarray(picture)[None])[0]
    np.testing.assert_allclose(ours, theirs.transpose(1, 2, 0), rtol=1e-5, atol=1e-6)

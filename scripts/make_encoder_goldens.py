"""Makes tests/golden/<variant>/: tiny encoders as transformers saves them, and what torch says they answer.

    pip install -e . torch==2.13.0 transformers==5.23.0
    python scripts/make_encoder_goldens.py

Each folder is a checkpoint (config.json, model.safetensors) with answers.safetensors beside it: "inputs.",
"outputs." and, of each hidden state, "outputs.<tower>.<number>". gradients/model.safetensors holds the
gradient of "outputs.loss" under the names of the weights. Takes twenty seconds; expect five folders of 80 to
250 KB.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
import torch
import transformers
from torch_reference import randomised

OUTPUT = Path(__file__).parents[1] / "tests" / "golden"

Arrays = dict[str, Any]  # by name; numpy or torch

TOWER: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
PICTURE: dict[str, Any] = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {**TOWER, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3}
CAPTIONS = ("a red house", "the dog", "two dogs and a red dog")


def clip_quick_gelu() -> None:
    """OpenAI's conversion: eos_token_id 2, so the highest id ends a text; padded with 0, masked."""
    text = {**TEXT, "vocab_size": 30, "max_position_embeddings": 9, "eos_token_id": 2, "bos_token_id": 28}
    config = transformers.CLIPConfig(vision_config=PICTURE, text_config=text, projection_dim=16)
    ids_BxT, mask_BxT = padded([9, 3, 6], highest=28, end=29, padding=0)
    two_towers("clip_quick_gelu", transformers.CLIPModel(config), ids_BxT, mask_BxT)


def clip_gelu() -> None:
    """LAION's form: gelu, a named end token that pads as well, a projection of its own width; a tokenizer."""
    folder = OUTPUT / "clip_gelu"
    tokenizer = clip_tokenizer()
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_act": "gelu",
    }
    config = transformers.CLIPConfig(
        vision_config={**PICTURE, "hidden_act": "gelu"}, text_config=text, projection_dim=20
    )
    read = tokenizer(
        list(CAPTIONS), padding="max_length", truncation=True, max_length=12, return_tensors="np"
    )
    two_towers(
        "clip_gelu", transformers.CLIPModel(config), read["input_ids"], read["attention_mask"].astype(bool)
    )
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}
    transformers.CLIPImageProcessorPil(size=size, crop_size=32).save_pretrained(folder)


def siglip() -> None:
    """No mask, and the last position speaks for the text."""
    text = {**TEXT, "vocab_size": 30, "max_position_embeddings": 7, "projection_size": 16}
    config = transformers.SiglipConfig(vision_config=PICTURE, text_config=text)
    ids_BxT, _ = padded([7, 2, 5], highest=28, end=1, padding=1)
    two_towers("siglip", transformers.SiglipModel(config), ids_BxT, None)


def vit() -> None:
    """A ViTModel with its pooler."""
    one_tower("vit", transformers.ViTModel(transformers.ViTConfig(**PICTURE)))


def vit_classifier() -> None:
    """ViTForImageClassification: another prefix, a classifier, and no bias of queries, keys and values."""
    config = transformers.ViTConfig(
        **{**PICTURE, "qkv_bias": False, "hidden_act": "gelu_fast", "num_labels": 3}
    )
    one_tower("vit_classifier", transformers.ViTForImageClassification(config))


def two_towers(name: str, model: Any, ids_BxT: np.ndarray, mask_BxT: np.ndarray | None) -> None:
    """Saves a CLIPModel or SiglipModel; the loss is its own contrastive one."""
    randomised(model, seed=2)
    pixels = pictures(len(ids_BxT), 32, 32)
    words: Arrays = {"input_ids": torch.from_numpy(ids_BxT.astype(np.int64))}
    inputs: Arrays = {"pixels": pixels, "ids": ids_BxT.astype(np.int32)}
    if mask_BxT is not None:
        words["attention_mask"] = torch.from_numpy(mask_BxT.astype(np.int64))
        inputs["mask"] = mask_BxT
    seen = model.vision_model(channels_first(pixels), output_hidden_states=True)
    read = model.text_model(**words, output_hidden_states=True)
    both = model(pixel_values=channels_first(pixels), **words, return_loss=True)
    inputs["wide"] = pictures(2, 24, 48)
    wide = model.get_image_features(channels_first(inputs["wide"]), interpolate_pos_encoding=True)
    outputs = {
        **numbered("vision", seen.hidden_states),
        **numbered("text", read.hidden_states),
        "tokens": read.last_hidden_state,
        "image_features": model.get_image_features(channels_first(pixels)).pooler_output,
        "text_features": model.get_text_features(**words).pooler_output,
        "wide_features": wide.pooler_output,
        "image_embeds": both.image_embeds,
        "text_embeds": both.text_embeds,
        "logits_per_image": both.logits_per_image,
        "loss": both.loss,
    }
    save(OUTPUT / name, model, inputs, outputs)


def one_tower(name: str, model: Any) -> None:
    """Saves a ViT; the loss is the sum of the sines of what pools."""
    randomised(model, seed=3)
    tower = getattr(model, "vit", model)
    inputs = {"pixels": pictures(3, 32, 32), "wide": pictures(2, 24, 48)}
    seen = tower(channels_first(inputs["pixels"]), output_hidden_states=True)
    wide = tower(channels_first(inputs["wide"]), interpolate_pos_encoding=True)
    outputs = {
        **numbered("vision", seen.hidden_states),
        "tokens": seen.last_hidden_state,
        "class": seen.last_hidden_state[:, 0],
        "mean": seen.last_hidden_state[:, 1:].mean(1),
        "wide_tokens": wide.last_hidden_state,
    }
    if seen.pooler_output is not None:
        outputs["dense"] = seen.pooler_output
    outputs["loss"] = outputs.get("dense", outputs["class"]).sin().sum()
    save(OUTPUT / name, model, inputs, outputs)


def save(folder: Path, model: Any, inputs: Arrays, outputs: Arrays) -> None:
    """Writes the checkpoint, the answers, and the gradient of outputs["loss"] as weights of a second one."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    answers = {f"inputs.{name}": array for name, array in inputs.items()}
    answers |= {f"outputs.{name}": tensor.detach().numpy() for name, tensor in outputs.items()}
    answers = {name: np.asarray(array, order="C") for name, array in answers.items()}
    safetensors.numpy.save_file(answers, folder / "answers.safetensors")
    outputs["loss"].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder / "gradients")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(answers)} answers, {size / 1000:.0f} KB -> {folder}")


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Noise, (B, H, W, 3)."""
    return np.random.default_rng(1).normal(size=(count, height, width, 3)).astype(np.float32)


def padded(lengths: list[int], *, highest: int, end: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids below `highest`, `end` at the end of each row, `padding` behind; the mask of real tokens."""
    generator = np.random.default_rng(4)
    ends_B = np.array(lengths)
    ids_BxT = generator.integers(3, highest, (len(lengths), max(lengths)))
    mask_BxT = np.arange(max(lengths)) < ends_B[:, None]
    ids_BxT[np.arange(len(lengths)), ends_B - 1] = end
    return np.where(mask_BxT, ids_BxT, padding), mask_BxT


def channels_first(pixels_BxHxWxC: np.ndarray) -> torch.Tensor:
    """Pictures as torch wants them."""
    return torch.from_numpy(pixels_BxHxWxC.transpose(0, 3, 1, 2).copy())


def numbered(tower: str, states: tuple[torch.Tensor, ...]) -> Arrays:
    """Hidden states by name."""
    return {f"{tower}.{i}": state for i, state in enumerate(states)}


def clip_tokenizer() -> Any:
    """A CLIPTokenizer of all bytes and a handful of merges."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges: Any = [("r", "e"), ("re", "d</w>"), ("d", "o"), ("do", "g</w>"), ("t", "h"), ("th", "e</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=12)


def main() -> None:
    for make in (clip_quick_gelu, clip_gelu, siglip, vit, vit_classifier):
        make()


if __name__ == "__main__":
    main()

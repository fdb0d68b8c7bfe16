"""Makes tests/golden/llava_*: tiny LLaVAs as transformers saves them, and what torch says they answer.

    pip install -e . torch==2.13.0 transformers==5.23.0 jinja2
    python scripts/make_vlm_goldens.py

Each folder is a checkpoint with its processor (config.json, model.safetensors, tokenizer, chat template,
processor_config.json) and answers.safetensors: "inputs.picture.<i>" (uint8), what LlavaProcessor makes of
them and of PROMPTS ("inputs.pixels", "inputs.ids", "inputs.mask"), and "outputs.": the tower's features, the
projected ones, the vectors that the decoder reads, logits, the loss (mean cross-entropy of each real token
after a real one) and the first tokens of greedy generation. gradients/model.safetensors holds the loss's
gradient under the names of the weights. Takes twenty seconds; expect two folders of 340 and 375 KB.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors
from torch_reference import randomised

OUTPUT = Path(__file__).parents[1] / "tests" / "golden"

PROMPTS = ("USER: <image>\nWhat is it? ASSISTANT:", "<image> a dog")
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
NEW_TOKENS = 6
PICTURE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAVA_CHAT = (
    "{% for message in messages %}{{ message.role.upper() }}: "
    "{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}[{{ message.role }}]\n"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}</s>\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def llava_llama_clip() -> None:
    """LLaVA 1.5's form: the layer before the last, no class token, untied output weights."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**PICTURE),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=4,
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer(begin=True),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT,
    )
    make("llava_llama_clip", config, processor)


def llava_qwen2_siglip() -> None:
    """All patches of SigLIP's last layer, a projector of its own kind without bias, tied output weights."""
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**PICTURE),
        text_config=transformers.Qwen2Config(**{**TEXT, "tie_word_embeddings": True, "rope_theta": 1e6}),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu_pytorch_tanh",
        multimodal_projector_bias=False,
    )
    processor = transformers.LlavaProcessor(
        transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer(begin=False),
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=QWEN_CHAT,
    )
    make("llava_qwen2_siglip", config, processor)


def tokenizer(*, begin: bool) -> Any:
    """Bytes and four special tokens; with `begin` every text starts with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if begin:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def make(name: str, config: Any, processor: Any) -> None:
    """Writes one variant's checkpoint, processor, answers and gradients."""
    folder = OUTPUT / name
    shutil.rmtree(folder, ignore_errors=True)
    config._attn_implementation = "eager"
    model = randomised(transformers.LlavaForConditionalGeneration(config), seed=5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    processor.save_pretrained(folder)

    generator = np.random.default_rng(6)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((20, 30), (16, 16))]
    read = processor(images=pictures, text=list(PROMPTS), padding=True, return_tensors="np")
    ids_BxL, mask_BxL = read["input_ids"], read["attention_mask"].astype(bool)
    inputs = {
        **{f"picture.{i}": picture for i, picture in enumerate(pictures)},
        "pixels": read["pixel_values"].transpose(0, 2, 3, 1).astype(np.float32),
        "ids": ids_BxL.astype(np.int32),
        "mask": mask_BxL,
    }
    outputs = answers(model, read, mask_BxL)
    arrays = {f"inputs.{key}": array for key, array in inputs.items()}
    arrays |= {f"outputs.{key}": tensor.detach().numpy() for key, tensor in outputs.items()}
    arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    safetensors.numpy.save_file(arrays, folder / "answers.safetensors")

    outputs["loss"].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder / "gradients")
    (folder / "gradients" / "generation_config.json").unlink()
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(arrays)} answers, {size / 1000:.0f} KB -> {folder}")


def answers(model: Any, read: Any, mask_BxL: np.ndarray) -> dict[str, torch.Tensor]:
    """All that torch says, the loss with its graph."""
    pixels = torch.from_numpy(np.asarray(read["pixel_values"], np.float32))
    ids, mask = torch.from_numpy(read["input_ids"]), torch.from_numpy(read["attention_mask"])
    merged = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: merged.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    positions = torch.clamp(torch.cumsum(mask, dim=1) - 1, min=0)
    logits = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, position_ids=positions).logits
    hook.remove()
    counted = torch.from_numpy(mask_BxL[:, 1:] & mask_BxL[:, :-1])
    greedy = model.generate(
        input_ids=ids,
        pixel_values=pixels,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
    )
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    features = states[model.config.vision_feature_layer]
    if model.config.vision_feature_select_strategy == "default":
        features = features[:, 1:]
    return {
        "features": features,
        "projected": torch.stack(model.get_image_features(pixels).pooler_output),
        "merged": merged[0],
        "logits": logits,
        "loss": torch.nn.functional.cross_entropy(logits[:, :-1][counted], ids[:, 1:][counted]),
        "greedy": greedy[:, ids.shape[1] :],
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    for variant in (llava_llama_clip, llava_qwen2_siglip):
        variant()


if __name__ == "__main__":
    main()

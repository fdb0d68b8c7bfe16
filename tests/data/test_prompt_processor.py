"""Chats about pictures: ids and pixels of transformers' LlavaProcessor; what users write is no picture."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.prompt_processor import PromptProcessor
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.config import read_config
from mmrlhf_jax.hub.llava import config_from_hf

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ["llava_llama_clip", "llava_qwen2_siglip"]
PROMPTS = ["USER: <image>\nWhat is it? ASSISTANT:", "<image> a dog"]  # of scripts/make_vlm_goldens.py
NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def config_of(name: str) -> PolicyConfig:
    return config_from_hf(read_config(GOLDEN / name))


def processor_of(name: str, folder: Path | None = None) -> PromptProcessor:
    return PromptProcessor.from_folder(folder or GOLDEN / name, config_of(name))


@pytest.fixture(scope="module")
def processor() -> PromptProcessor:
    return processor_of("llava_llama_clip")


@pytest.mark.parametrize("name", VARIANTS)
def test_pixels_and_ids_of_the_golden_processor(name):
    golden = safetensors.numpy.load_file(GOLDEN / name / "answers.safetensors")
    pixels, prompts = processor_of(name)([golden["inputs.picture.0"], golden["inputs.picture.1"]], PROMPTS)
    np.testing.assert_array_equal(prompts.ids_BxL, golden["inputs.ids"])
    np.testing.assert_array_equal(prompts.mask_BxL, golden["inputs.mask"])
    assert prompts.ids_BxL.dtype == np.int32 and prompts.mask_BxL.dtype == bool
    np.testing.assert_allclose(pixels, golden["inputs.pixels"], atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_places_as_transformers_counts(name):
    """Also with the class token kept, which LlavaProcessor is told by its own settings."""
    import transformers

    ours = processor_of(name)
    counts = {"patches": ("full", 0), "all": ("full", int(config_of(name).vision.class_token))}
    for tokens, (strategy, additional) in counts.items():
        config = dataclasses.replace(config_of(name), feature_tokens=tokens)
        theirs = transformers.LlavaProcessor(
            ours.pictures.processor,
            ours.tokenizer,
            patch_size=config.vision.patch_size,
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=additional,
        )
        wanted = theirs(images=[NOISE], text=PROMPTS[:1], return_tensors="np")["input_ids"]
        again = PromptProcessor.from_folder(GOLDEN / name, config)
        np.testing.assert_array_equal(again([NOISE], PROMPTS[:1]).prompts.ids_BxL, wanted)


@pytest.mark.parametrize("name", VARIANTS)
def test_chats_follow_the_template_of_the_checkpoint(name):
    processor = processor_of(name)
    wanted = {
        "llava_llama_clip": "SYSTEM: Be brief. USER: <image>\nWhat? ASSISTANT:",
        "llava_qwen2_siglip": "[system]\nBe brief.</s>\n[user]\n<image>What?</s>\n[assistant]\n",
    }[name]
    chat = processor.chat([NOISE], ["What?"], system="Be brief.").prompts.ids_BxL
    np.testing.assert_array_equal(chat, processor([NOISE], [wanted]).prompts.ids_BxL)


def test_shorter_prompts_are_padded_on_the_left(processor):
    _, (ids, mask) = processor([NOISE, NOISE], PROMPTS)
    assert mask[:, -1].all() and mask[0].all() and not mask[1, 0]
    assert (ids[~mask] == processor.tokenizer.pad_token_id).all()
    alone = processor([NOISE], PROMPTS[1:]).prompts.ids_BxL
    np.testing.assert_array_equal(ids[1][mask[1]], alone[0])
    assert (ids == processor.image_token_id).sum(axis=1).tolist() == [4, 4]


def test_what_is_never_written(processor):
    """Padding, begin and the place of a picture; 4 ids of 264 are no token. The end may also pad."""
    assert np.flatnonzero(processor.forbidden_V).tolist() == [0, 1, 3, 260, 261, 262, 263]
    assert (processor.pad_id, processor.end_id) == (0, 2)
    again = processor_of("llava_llama_clip")
    again.tokenizer.pad_token = again.tokenizer.eos_token
    assert not again.forbidden_V[again.end_id]


def test_answers_are_read_without_special_tokens(processor):
    ids = processor.tokenizer("<image>a dog</s><pad>")["input_ids"]
    assert processor.decode(np.array([ids])) == ["a dog"]


@pytest.mark.parametrize("text", ["a dog", "<image> or <image>?", ""])
def test_each_picture_has_one_place(processor, text):
    with pytest.raises(UserError, match=r"prompt 1 has \d image tokens and its picture 4"):
        processor([NOISE, NOISE], ["<image>", text])


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>"])
def test_special_tokens_in_a_question_are_refused(processor, token):
    with pytest.raises(UserError, match=f"question 0 holds the special token {token}"):
        processor.chat([NOISE], [f"What is {token} here?"])


def test_pictures_and_prompts_must_pair(processor):
    with pytest.raises(UserError, match="2 pictures and 1 prompts"):
        processor([NOISE, NOISE], PROMPTS[:1])
    with pytest.raises(UserError, match="no pictures"):
        processor([], [])
    with pytest.raises(UserError, match="web page"):
        processor([b"<html>"], PROMPTS[:1])


def test_policies_without_places_have_no_such_prompts():
    with pytest.raises(UserError, match="image_token_id is None"):
        PromptProcessor.from_folder(GOLDEN / "llava_llama_clip", PolicyConfig())


def test_where_transformers_4_kept_the_template(tmp_path):
    shutil.copytree(GOLDEN / "llava_llama_clip", tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        processor_of("llava_llama_clip", tmp_path).chat([NOISE], ["What?"])
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "<image> asks"}))
    chat = processor_of("llava_llama_clip", tmp_path).chat([NOISE], ["What?"])
    wanted = processor_of("llava_llama_clip")([NOISE], ["<image> asks"])
    np.testing.assert_array_equal(chat.prompts.ids_BxL, wanted.prompts.ids_BxL)
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(UserError, match=r"chat_template\.json is not JSON"):
        processor_of("llava_llama_clip", tmp_path)

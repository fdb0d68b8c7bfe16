"""GGUF: files that the gguf package makes of golden checkpoints, rows laid for llama.cpp's rotation."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mmrlhf_jax.architecture import RopeScaling
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.gguf import GGUFFile
from mmrlhf_jax.hub.names import parameter_names
from mmrlhf_jax.language import load_decoder
from mmrlhf_jax.modules import params_of
from tests.gguf_files import write_gguf

gguf = pytest.importorskip("gguf")

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_logits(variant: str, decoder) -> tuple[np.ndarray, np.ndarray]:
    golden = safetensors.numpy.load_file(GOLDEN / variant / "answers.safetensors")
    ids, mask = golden["ids"], golden["mask"]
    logits = jax.jit(lambda decoder: decoder.logits(decoder(decoder.embed(ids), mask)))(decoder)
    return logits[mask], golden["logits"][mask]


@pytest.mark.parametrize(("variant", "family"), [("llama_tied", "llama"), ("qwen2", "qwen2")])
def test_logits_are_those_of_the_checkpoint(tmp_path: Path, variant, family):
    write_gguf(tmp_path / "model.gguf", variant, family)
    decoder = load_decoder(tmp_path / "model.gguf")
    ours, theirs = golden_logits(variant, decoder)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    original = load_decoder(GOLDEN / variant)
    same = {"head_dim": None}
    assert vars(decoder.config) | same == vars(original.config) | same
    assert decoder.config.head_width == original.config.head_width
    names = parameter_names(params_of(original))
    for name, array in parameter_names(params_of(decoder)).items():
        np.testing.assert_array_equal(array, names[name], err_msg=name)


@pytest.mark.parametrize(("factor", "known"), [(8.0, True), (32.0, True), (0.0, False)])
def test_llama3_rope_is_recognised_by_its_divisors(tmp_path: Path, factor, known):
    """llama.cpp writes what each frequency is divided by, for Llama 3.1 (8) and 3.2 (32), not the setting."""
    wave_F = 2 * np.pi * 5e5 ** (np.arange(4) / 4)
    smooth_F = np.clip((8192 / wave_F - 1) / 3, 0, 1)
    divisor_F = 1 / ((1 - smooth_F) / factor + smooth_F) if known else np.array([1, 1, 2, 32])

    def add(writer, arrays) -> None:
        writer.add_rope_freq_base(5e5)
        arrays["rope_freqs.weight"] = divisor_F.astype(np.float32)

    file = tmp_path / "model.gguf"
    write_gguf(file, "llama_untied_llama3", "llama", add)
    if known:
        decoder = load_decoder(file)
        assert decoder.config.rope_scaling == RopeScaling("llama3", factor) and not decoder.config.tied
        np.testing.assert_array_equal(
            decoder.head.kernel[...], load_decoder(GOLDEN / "llama_untied_llama3").head.kernel[...]
        )
    else:
        with pytest.raises(UserError, match=r"model\.gguf: rope_freqs"):
            load_decoder(file)


def test_quantised_weights_and_dtypes(tmp_path: Path):
    """Blocks of 32 numbers share a scale; what is no whole number of blocks wide stays float16."""
    kind = gguf.GGMLQuantizationType.Q8_0

    def quantise(writer, arrays) -> None:
        for name in [name for name, array in arrays.items() if array.ndim == 2]:
            array = arrays.pop(name)
            if array.shape[1] % 32:
                writer.add_tensor(name, array.astype(np.float16))
            else:
                writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
                quantised.append(name)

    quantised: list[str] = []
    write_gguf(tmp_path / "model.gguf", "qwen2_yarn", "qwen2", quantise)
    assert quantised == ["blk.0.attn_output.weight", "blk.1.attn_output.weight"]
    decoder, original = load_decoder(tmp_path / "model.gguf"), load_decoder(GOLDEN / "qwen2_yarn")
    wanted = parameter_names(params_of(original))
    for name, array in parameter_names(params_of(decoder)).items():
        assert array.dtype == jnp.float32
        np.testing.assert_allclose(array, wanted[name], atol=0.02 * np.abs(wanted[name]).max(), err_msg=name)
    half = load_decoder(tmp_path / "model.gguf", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params_of(half))} == {jnp.dtype(jnp.bfloat16)}


def test_files_that_do_not_load_are_told_in_one_line(tmp_path: Path):
    def refused(file: Path, *words: str) -> None:
        with pytest.raises(UserError) as error:
            load_decoder(file)
        assert len(str(error.value).splitlines()) == 1
        for word in (file.name, *words):
            assert word in str(error.value)

    file = tmp_path / "model.gguf"
    write_gguf(file, "llama_tied", "llama")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], whole[:4], b"", b"PK\x03\x04" + bytes(99)):
        file.write_bytes(damaged)
        refused(file, "damaged")
    write_gguf(file, "llama_tied", "gpt2")
    refused(file, "gpt2", "llama and qwen2")
    write_gguf(file, "llama_tied", "llama", lambda writer, arrays: arrays.pop("blk.1.ffn_up.weight"))
    refused(file, "lacks", "blk.1.ffn_up.weight")

    def spoil(writer, arrays) -> None:
        arrays["blk.0.attn_q.weight"][2, 3] = np.nan

    write_gguf(file, "llama_tied", "llama", spoil)
    refused(file, "NaN", "blk.0.attn_q.weight")
    write_gguf(file, "llama_tied", "llama", lambda writer, arrays: writer.add_uint16("split.count", 3))
    refused(file, "llama-gguf-split")
    write_gguf(file, "llama_tied", "llama")
    with pytest.raises(UserError, match=r"model\.gguf.*byte-level BPE"):
        GGUFFile(file).tokenizer()


WORDS = [
    "<s>",
    "</s>",
    *"abcdefghijklmnopqrstuvwxyz0123456789",
    "Ġ",
    "Ċ",
    "'",
    "th",
    "the",
    "Ġthe",
    "12",
    "123",
]
MERGES = ["t h", "th e", "Ġ the", "1 2", "12 3"]


@pytest.mark.parametrize(
    ("cut", "tokens"),
    [
        ("gpt-2", ["the", "Ġthe", "Ġ", "123", "4"]),
        ("smollm", ["the", "Ġthe", "Ġ", "1", "2", "3", "4"]),
        ("llama-bpe", ["<s>", "the", "Ġthe", "Ġ", "123", "4"]),
        ("qwen2", ["the", "Ġthe", "Ġ", "1", "2", "3", "4"]),
    ],
)
def test_tokenizers_cut_words_as_their_makers_did(tmp_path: Path, cut, tokens):
    def add(writer, arrays) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(cut)
        writer.add_token_list(WORDS)
        writer.add_token_types([3, 3, *[1] * (len(WORDS) - 2)])
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_chat_template("{{ messages[0]['content'] }}</s>")

    write_gguf(tmp_path / "model.gguf", "llama_tied", "llama", add)
    tokenizer = GGUFFile(tmp_path / "model.gguf").tokenizer()
    ids = tokenizer("the the 1234")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the the 1234"
    assert tokenizer.eos_token == "</s>" and tokenizer.convert_tokens_to_ids("</s>") == 1
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "abc</s>"


def test_a_tokenizer_that_cuts_in_an_unknown_way_is_refused(tmp_path: Path):
    def add(writer, arrays) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("new-way")
        writer.add_token_list(WORDS)
        writer.add_token_merges(MERGES)

    write_gguf(tmp_path / "model.gguf", "llama_tied", "llama", add)
    with pytest.raises(UserError, match="new-way"):
        GGUFFile(tmp_path / "model.gguf").tokenizer()


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"mmrlhf-jax\[gguf\]"):
        GGUFFile(tmp_path / "model.gguf")

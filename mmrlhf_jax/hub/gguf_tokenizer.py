"""The byte-level BPE tokenizer inside a GGUF file, rebuilt with the tokenizers library."""

from collections.abc import Callable
from typing import Any

from mmrlhf_jax.errors import UserError

# How text is cut into words before merging; Llama 3 takes up to three digits together, Qwen2 one.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED = 3, 4  # in tokenizer.ggml.token_type


def bpe_tokenizer(value: Callable[..., Any]) -> Any:
    """A transformers.PreTrainedTokenizerFast from the metadata that `value(key, default)` gives.

    Raises:
      UserError: there is no tokenizer, or none of byte-level BPE with a known way to cut words.
    """
    import tokenizers
    import transformers
    from tokenizers import decoders, models, processors

    kind, cut = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise UserError(
            f"its tokenizer is of kind {kind!r}, not byte-level BPE (gpt2): take the tokenizer of the "
            "model's own repository, transformers.AutoTokenizer.from_pretrained(name)"
        )
    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=cut == "llama-bpe"))
    if cut == "qwen2":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = _cutter(cut)
    tokenizer.decoder = decoders.ByteLevel()
    types = value("tokenizer.ggml.token_type", [])
    tokenizer.add_special_tokens([t for t, type_ in zip(tokens, types, strict=False) if type_ == _CONTROL])
    tokenizer.add_tokens([t for t, type_ in zip(tokens, types, strict=False) if type_ == _USER_DEFINED])
    ids = {
        f"{ours}_token": value(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    special = {name: tokens[id_] for name, id_ in ids.items() if id_ is not None}
    if value("tokenizer.ggml.add_bos_token", cut == "llama-bpe") and "bos_token" in special:
        begin = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin}:1 $B:1",
            special_tokens=[(begin, vocab[begin])],
        )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = value("tokenizer.chat_template")
    return fast


def _cutter(cut: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    match cut:
        case "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        case "llama-bpe" | "qwen2":
            words = Regex(_WORDS % ("{1,3}" if cut == "llama-bpe" else ""))
            return pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(words, "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
    raise UserError(
        f"its tokenizer cuts words in the way {cut!r}, which is not rebuilt here: take the tokenizer of the "
        "model's own repository, transformers.AutoTokenizer.from_pretrained(name)"
    )

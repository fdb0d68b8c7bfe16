"""CaptionTokenizer: round trips, special tokens, cutting, and the files that transformers reads."""

import json

import numpy as np
import pytest

from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.errors import UserError

TEXTS = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "a  b",
    "\n",
    "\t tab",
    "line\nline\r\nline",
    "\u00a0no-break\u3000wide",
    "Ĝis! Ġ is the byte for a space",
    "São Tomé & Príncipe",
    "Sa\u0303o in two code points",
    "Côte d\u2019Ivoire",
    "Japanese “service charge” button",
    "ÅÄÖ ß ẞ ﬁ",
    "русский текст",
    "हिन्दी में",
    "ภาษาไทย",
    "日本語の文章。",
    "한국어",
    "العربية",
    "עִבְרִית",
    "👩🏿\u200d⚖️ and 🇸🇪",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "x² + y² = r²; ½ Ⅻ ①",
    "a-b--c---d '' \u2019\u2019 o'clock\u2019s",
    "tone:medium-dark,light",
    "_under_score_ snake_case",
    "<pad>",
    "<bos>a<eos>",
    "<eos> <eos>",
    "\ufeffbom \ufeff",
    "\x00\x01\x7f",
    "\ufffd \uffff \U0010ffff",
    "1234567890 3.14 1,000",
    "MiXeD CaSe WORDS",
    "https://example.org/a?b=c&d=%20#e",
    '{"json": [1, 2], "k": null}',
    "a" * 300,
]


@pytest.fixture(scope="module")
def names():
    return load_emoji().names


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer.train(load_emoji("train").names)


def round_trip(tokenizer, texts):
    return tokenizer.decode_batch(tokenizer.encode_batch(texts, int(tokenizer.count_tokens(texts).max())))


def test_special_tokens_come_first(tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 2048


def test_every_name_survives(tokenizer, names):
    assert round_trip(tokenizer, names) == names


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(tokenizer, text):
    assert round_trip(tokenizer, [text]) == [text]


def test_names_are_short(tokenizer, names):
    # 16 tokens with <eos> hold every name: the policy's default length relies on it.
    counts = tokenizer.count_tokens(names)
    assert counts.max() <= 16
    assert counts.mean() < 7


def test_a_word_is_one_token_wherever_it_stands(tokenizer):
    ids = tokenizer.encode_batch(["man", "man farmer: medium-dark skin tone", "woman, man"], 10)
    man = ids[0, 0]
    assert ids[0].tolist() == [man, 2] + [0] * 8
    assert ids[1, 0] == man
    assert tokenizer.count_tokens(["man farmer: medium-dark skin tone"]) == [7]  # : and <eos> are tokens too
    assert man in ids[2]


def test_special_tokens_in_a_text_are_bytes(tokenizer):
    ids = tokenizer.encode_batch(["a <eos> b <pad><bos>"], 40)[0]
    assert np.flatnonzero(ids == 2).size == 1
    assert 1 not in ids
    assert tokenizer.decode_batch(ids[None]) == ["a <eos> b <pad><bos>"]


def test_layout_is_right_padded_int32(tokenizer):
    ids = tokenizer.encode_batch(["cat", "black cat"], 6)
    assert ids.dtype == np.int32
    assert ids.shape == (2, 6)
    length = tokenizer.count_tokens(["cat", "black cat"])
    for row, n in zip(ids, length, strict=True):
        assert row[n - 1] == 2
        assert (row[n:] == 0).all()
        assert (row[: n - 1] > 2).all()


def test_cut_texts_keep_eos(tokenizer):
    ids = tokenizer.encode_batch(["woman farmer: medium-dark skin tone"], 3)[0]
    assert ids[-1] == 2
    assert tokenizer.decode_batch(ids[None]) == ["woman farmer"]
    assert tokenizer.encode_batch(["woman"], 1).tolist() == [[2]]
    with pytest.raises(UserError, match="max_length is 0"):
        tokenizer.encode_batch(["woman"], 0)


def test_decoding_stops_at_eos_and_skips_pad_and_bos(tokenizer):
    cat, dog = tokenizer.encode_batch(["cat", "dog"], 2)[:, 0]
    assert tokenizer.decode_batch(np.array([[1, cat, 0, dog, 2, cat], [0, 0, 1, 2, 2, 2]])) == ["cat dog", ""]


def test_broken_utf8_is_replaced(tokenizer):
    ids = tokenizer.encode_batch(["\U0001f600"], 8)[0]
    first_byte = ids[1] if tokenizer.decode_batch(ids[None, :1])[0] == "" else ids[0]
    assert "\ufffd" in tokenizer.decode_batch(np.array([[first_byte, 2]]))[0]
    assert round_trip(tokenizer, ["a\ud800b"]) == ["a\ufffdb"]


def test_ids_outside_of_the_vocabulary(tokenizer):
    with pytest.raises(UserError, match=r"to 2048; this vocabulary has 2048"):
        tokenizer.decode_batch(np.array([[2048]]))


def test_training_is_deterministic(names, tokenizer):
    again = CaptionTokenizer.train(load_emoji("train").names)
    assert again.tokenizer.to_str() == tokenizer.tokenizer.to_str()


def test_training_refuses_what_cannot_work():
    with pytest.raises(UserError, match="need 259"):
        CaptionTokenizer.train(["cat"], vocab_size=258)
    with pytest.raises(UserError, match="no texts"):
        CaptionTokenizer.train([])
    assert round_trip(CaptionTokenizer.train(["cat"], vocab_size=259), ["chat 猫"]) == ["chat 猫"]


def test_save_and_load(tokenizer, names, tmp_path):
    tokenizer.save(tmp_path / "model")
    loaded = CaptionTokenizer.load(tmp_path / "model")
    texts = [*names[::50], *TEXTS]
    assert np.array_equal(loaded.encode_batch(texts, 16), tokenizer.encode_batch(texts, 16))


def test_load_explains_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        CaptionTokenizer.load(tmp_path)
    for content, complaint in [
        ("{", "damaged"),
        ("[]", "not a BPE"),
        ('{"model": {"type": "WordPiece"}}', "not a BPE"),
    ]:
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=complaint):
            CaptionTokenizer.load(tmp_path)


def test_load_refuses_other_special_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = []
    vocab = content["model"]["vocab"]
    vocab["<pad>"], vocab["<eos>"] = vocab["<eos>"], vocab["<pad>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="<pad> must have id 0"):
        CaptionTokenizer.load(tmp_path)


def test_transformers_reads_it(tokenizer, names, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    texts = [*names[::40], "a <eos> b", "  two spaces"]
    ours = tokenizer.encode_batch(texts, 40)
    for text, row in zip(texts, ours, strict=True):
        ids = theirs(text)["input_ids"]
        assert ids == row[: len(ids)].tolist()
        assert row[len(ids)] == 2
        assert theirs.decode(row, skip_special_tokens=True) == text

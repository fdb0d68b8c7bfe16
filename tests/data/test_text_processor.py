"""Captions through transformers' own tokenizer: cut, padded, and nothing in them is a command."""

from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.data.text_processor import TextProcessor
from mmrlhf_jax.errors import UserError

FOLDER = Path(__file__).parents[1] / "golden" / "clip_gelu"


@pytest.fixture(scope="module")
def processor():
    return TextProcessor.from_folder(FOLDER, max_length=12)


def test_ids_and_mask(processor):
    begin, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    ids, mask = processor(["a red dog", ""])
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (2, 12)
    assert processor.tokenizer.convert_ids_to_tokens(ids[0, 1:4]) == ["a</w>", "red</w>", "dog</w>"]
    assert mask.sum(axis=1).tolist() == [5, 2]
    assert (ids[0, 0], ids[0, 4]) == (begin, end) and ids[1, :2].tolist() == [begin, end]


@pytest.mark.parametrize("caption", ["dog " * 40, "x" * 400, "\u00e9\u4e16 " * 40])
def test_long_captions_keep_their_end_token(processor, caption):
    ids, mask = processor(caption)
    end = processor.tokenizer.eos_token_id
    assert mask.all() and ids[0, -1] == end and (ids[0, :-1] != end).all()


def test_special_tokens_in_a_text_are_text(processor):
    ids, mask = processor("dog <|endoftext|> red <|startoftext|>")
    end, begin = processor.tokenizer.eos_token_id, processor.tokenizer.bos_token_id
    assert np.flatnonzero(ids[0] == end)[0] == mask[0].sum() - 1, "the first end token is the last real one"
    assert (ids[0] == begin).sum() == 1


@pytest.mark.medium
def test_a_caption_of_a_megabyte(processor):
    ids, _ = processor("dog " * 250_000)
    assert ids.shape == (1, 12) and ids[0, -1] == processor.tokenizer.eos_token_id


def test_a_tower_that_reads_its_padding():
    _, mask = TextProcessor.from_folder(FOLDER, max_length=12, masked=False)("a dog")
    assert mask.all()


@pytest.mark.parametrize("texts", [[], [None], [b"bytes"]])
def test_no_text_is_told(processor, texts):
    with pytest.raises(UserError, match="no texts"):
        processor(texts)


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        TextProcessor.from_folder(tmp_path, max_length=12)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    with pytest.raises(UserError, match="cannot be read"):
        TextProcessor.from_folder(tmp_path, max_length=12)

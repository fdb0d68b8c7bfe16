"""Listed words in token ids, against a plain search in the decoded text."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrlhf_jax.data.tokens import END_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.rubric import INSULTS
from mmrlhf_jax.reward.wording import count_listed, word_table

WORDS = ("idiot", "id", "ugly", "moron", "l33t")
TOKENIZER = CaptionTokenizer.train(
    ["an ugly duck", "a moron and an idiotic idea", "ugly idiots, morons: id cards"] * 3, vocab_size=330
)
BYTES = TOKENIZER.token_bytes()
TABLE = word_table(WORDS, BYTES, vocab_size=340)  # ten ids more than the tokenizer has
LENGTH = 24
count = jax.jit(count_listed)


def search(text: str) -> int:
    """Listed words in a text of letters, spaces and ASCII signs."""
    return sum(word in WORDS for word in re.findall(r"[a-z0-9]+", text.lower()))


def counted(ids: list[list[int]]) -> np.ndarray:
    ids_BxT = np.full((len(ids), LENGTH), PAD_ID, np.int32)
    mask_BxT = np.zeros((len(ids), LENGTH), bool)
    for row, mask, tokens in zip(ids_BxT, mask_BxT, ids, strict=True):
        row[: len(tokens)], mask[: len(tokens)] = tokens, True
    return np.asarray(count(TABLE, jnp.asarray(ids_BxT), jnp.asarray(mask_BxT)))


def spell(text: str, cuts: list[int]) -> list[int]:
    """A text as tokens, cut where `cuts` says as far as the vocabulary has such tokens, else into bytes."""
    id_of = {spelled: i for i, spelled in enumerate(BYTES) if spelled}
    data, ids, start = text.encode(), [], 0
    for width in [*cuts, *[1] * len(data)]:
        piece = data[start : start + width]
        if piece in id_of:
            ids.append(id_of[piece])
            start += width
    return ids


def test_a_token_is_the_bytes_that_it_decodes_to():
    assert BYTES[PAD_ID] == BYTES[END_ID] == b""
    assert sorted(spelled for spelled in BYTES if len(spelled) == 1) == [bytes([i]) for i in range(256)]
    text = " Größe: “an ugly idiot” \N{DUCK}"
    ids = TOKENIZER.encode_batch([text], 64)[0]
    assert b"".join(BYTES[i] for i in ids) == b" " + text.encode()


@given(
    st.lists(
        st.sampled_from([*WORDS, "Ugly", "idiots", "uglyx", "duck", "-", "'", ",", "!", "3"]), max_size=5
    ),
    st.sampled_from(["", " "]),
    st.lists(st.integers(1, 6), max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_it_finds_what_a_search_in_the_text_finds_however_it_is_spelled(words, between, cuts):
    text = between.join(words)[:LENGTH]
    ids = spell(text, cuts)
    assert b"".join(BYTES[i] for i in ids).decode() == text
    assert counted([ids])[0] == search(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an idiot", 1),
        ("IDIOT, idiot; Idiot", 3),
        ("idiotic idiots", 0),
        ("ugly-looking idiot's", 2),
        ("“idiot”", 1),
        ("idiot\N{DUCK}ugly", 2),
        ("uglyé éugly", 0),  # a letter is no boundary, whatever its alphabet
        ("", 0),
    ],
)
def test_words_end_where_people_see_their_end(text, found):
    ids = TOKENIZER.encode_batch([text], LENGTH)[0].tolist()
    ids = ids[: ids.index(END_ID) + 1]
    without_end = ids[:-1]  # cut before its end token
    unknown = [335, *without_end, 335]  # ids that stand for nothing part words
    assert counted([ids, without_end, unknown]).tolist() == [found] * 3


def test_behind_the_end_nothing_counts():
    ids = jnp.asarray(TOKENIZER.encode_batch(["an idiot"], LENGTH))
    mask = ids != PAD_ID
    ugly = TOKENIZER.encode_batch(["ugly"], 1 + LENGTH)[0, 0]
    assert count(TABLE, jnp.where(mask, ids, ugly), mask)[0] == 1


def test_the_rubrics_insults_can_be_listed():
    table = word_table(INSULTS, BYTES, TOKENIZER.vocab_size)
    text = " ".join(sorted(INSULTS))
    ids = jnp.asarray([spell(text, [])])
    assert count_listed(table, ids, jnp.ones(ids.shape, bool))[0] == len(INSULTS)


@pytest.mark.parametrize("word", ["half-wit", "", "two words", "größe"])
def test_a_word_that_would_never_be_found_is_refused(word):
    with pytest.raises(UserError, match="cannot be on a word list"):
        word_table([word], BYTES, 330)

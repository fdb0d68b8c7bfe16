"""Neighbours share words, and are never the name itself."""

import pytest

from mmrlhf_jax.data.neighbours import nearest_names
from mmrlhf_jax.errors import UserError

NAMES = [
    "man farmer: light skin tone",
    "man farmer: dark skin tone",
    "woman farmer: light skin tone",
    "red apple",
]


def test_names_that_differ_in_one_word_come_first():
    near = nearest_names([*NAMES, "green apple"], 1)
    assert near[:, 0].tolist() == [1, 0, 0, 4, 3]


def test_order_is_by_the_jaccard_index():
    # "a b" shares 1 of 2 words with "a", 1 of 3 with "b c", none with "d".
    assert nearest_names(["a b", "d", "b c", "a"], 3)[0].tolist() == [3, 2, 1]


def test_punctuation_and_case_are_no_words():
    assert nearest_names(["Kiss: man", "x kiss man", "y", "kiss, man z w"], 1)[0, 0] == 1


def test_equal_names_are_not_neighbours():
    near = nearest_names(["apple", "apple", "pear"], 1)
    assert near[:2, 0].tolist() == [2, 2]


def test_none_wanted():
    assert nearest_names(NAMES, 0).shape == (4, 0)


def test_too_few_names():
    with pytest.raises(UserError, match="4 neighbours"):
        nearest_names(NAMES, 4)

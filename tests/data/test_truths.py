"""Which captions survive a mirror or other colours, and which words stand in for others."""

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.synonyms import find_synonyms, reword
from mmrlhf_jax.data.truths import allowed, may_flip, may_recolour

SIDED = [
    "left arrow", "person walking: facing right", "left-facing fist", "flag: Japan", "OK button", "keycap: 3",
    "three o\u2019clock", "first quarter moon", "A button (blood type)", "SOS", "gesturing NO",
    "euro banknote", "counterclockwise arrows button", "globe showing Americas",
    "rightwards hand: dark skin tone",
]  # fmt: skip
EVEN = ["dog face", "bright red heart", "A man and I", "thumbs up", "copper kettle", "school", "light bulb"]
COLOURED = [
    "red heart",
    "man: medium-dark skin tone",
    "White Flower",
    "light skin",
    "woman: blond hair",
    "gray",
]
PLAIN = ["dog face", "left arrow", "redhead", "man farmer", "school", "tired face"]


@pytest.mark.parametrize("text", SIDED)
def test_what_has_sides_is_not_mirrored(text):
    assert not may_flip(text)


@pytest.mark.parametrize("text", EVEN)
def test_what_has_none_may_be(text):
    assert may_flip(text)


@pytest.mark.parametrize("text", COLOURED)
def test_what_names_a_colour_keeps_it(text):
    assert not may_recolour(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_names_none_may_be_recoloured(text):
    assert may_recolour(text)


def test_every_text_of_a_row_must_allow_it():
    flip, recolour = allowed(["dog", "dog", "red dog"], ["cat", "left cat", "cat"])
    assert flip.tolist() == [True, False, True] and recolour.tolist() == [True, True, False]


def test_of_the_bundled_pictures_a_fair_share_may_be_varied():
    captions = load_emoji("train")
    flip, recolour = allowed(captions.names)
    assert 0.5 < flip.mean() < 0.85 and 0.3 < recolour.mean() < 0.7
    flags = np.array([caption.group == "flags" for caption in captions.captions])
    assert flags.sum() > 200 and not flip[flags & (np.char.find(captions.names, "flag: ") == 0)].any()


def test_synonyms_are_keywords_of_the_same_pictures():
    rider, people = ("cyclist", "sport"), ("man", "woman", "person")
    captions = [
        *(Caption(f"{who} biking: {tone}", rider) for who in people for tone in ("light", "dark")),
        *(Caption(f"{who} rowing", ("sport", who)) for who in people),
        Caption("flag: Biking", ("cyclist",), group="flags"),
    ]  # fmt: skip
    table = find_synonyms(captions)
    assert table == {"biking": ("cyclist",)}, "sport is of rowing too; tones and flags do not count"
    assert find_synonyms(captions, likeness=0.5)["biking"] == ("cyclist", "sport")


def test_rewording_replaces_whole_words_at_the_given_rate():
    generator = np.random.default_rng(0)
    table = {"biking": ("cycling", "riding")}
    assert reword("man Biking: uphill, mountain-biking", table, generator, rate=1.0).split() in (
        [["man", word, "uphill,", "mountain-biking"] for word in ("cycling:", "riding:")]
    )
    texts = [reword("biking", table, generator, rate=0.5) for _ in range(400)]
    share = {word: texts.count(word) / 400 for word in ("biking", "cycling", "riding")}
    assert sum(share.values()) == 1 and abs(share["biking"] - 0.5) < 0.1 and abs(share["riding"] - 0.25) < 0.1
    assert reword("man biking", table, generator, rate=0.0) == "man biking"


def test_the_bundled_keywords_have_synonyms():
    table = find_synonyms(load_emoji("train").captions)
    assert len(table) > 80 and "aeroplane" in table["airplane"] and "smile" in table["smiling"]
    everyday = {"man", "woman", "person", "skin", "tone", "red", "left", "right"}
    assert not everyday & set(table), "what tells pictures apart is not replaced"

"""The shipped emoji file keeps its promises: counts, splits, pictures, licences."""

import collections
import importlib.resources
import re

import numpy as np
import pytest

from mmrlhf_jax.data.emoji import SPLITS, load_emoji
from mmrlhf_jax.errors import UserError


@pytest.fixture(scope="module")
def splits():
    return {split: load_emoji(split) for split in SPLITS}


def base(name: str) -> str:
    return name.split(": ")[0]


def parts(name: str) -> list[str]:
    return name.partition(": ")[2].split(", ") if ": " in name else []


def words(name: str) -> set[str]:
    return set(re.findall(r"[^\s:,]+", name.lower()))


def test_counts(splits):
    # 3,789 names over 3,771 pictures: font 2.042 draws that many of emojibase 17's sequences as one glyph.
    assert {split: len(captions) for split, captions in splits.items()} == {
        "train": 2550,
        "feedback": 591,
        "combinations": 400,
        "concepts": 248,
    }
    everything = load_emoji()
    assert everything.images_NxHxWxC.shape == (3789, 64, 64, 3)
    assert everything.images_NxHxWxC.dtype == np.uint8
    assert len(set(everything.names)) == 3789
    assert len({image.tobytes() for image in everything.images_NxHxWxC}) == 3771
    assert sorted(everything.names) == sorted(name for split in SPLITS for name in splits[split].names)


@pytest.mark.parametrize("split", ["combinations", "feedback"])
def test_combinations_are_new_and_their_parts_are_not(splits, split):
    train = splits["train"].names
    held_out = splits[split].names
    train_bases, train_parts = {base(n) for n in train}, {p for n in train for p in parts(n)}
    train_words = set().union(*map(words, train))
    for name in held_out:
        assert base(name) in train_bases, name
        assert set(parts(name)) <= train_parts, name
        assert words(name) <= train_words, name
    assert not set(held_out) & set(train)


def test_combinations_are_new_in_either_order_of_their_parts(splits):
    def cells(names):
        return {(base(n), *sorted(parts(n))) for n in names}

    train, feedback, held_out = (cells(splits[s].names) for s in ("train", "feedback", "combinations"))
    assert not held_out & (train | feedback)
    assert not feedback & train


def test_concepts_are_unseen(splits):
    train_words = set().union(*(words(n) for split in ("train", "feedback") for n in splits[split].names))
    other_bases = {base(n) for split in ("train", "feedback", "combinations") for n in splits[split].names}
    for name in splits["concepts"].names:
        assert base(name) not in other_bases, name
        assert words(name) - train_words, name
    groups = collections.Counter(caption.group for caption in splits["concepts"].captions)
    assert set(groups) == {c.group for c in splits["train"].captions} - {"flags"}


def test_equal_pictures_are_in_one_split(splits):
    homes = collections.defaultdict(set)
    for split, captions in splits.items():
        for image in captions.images_NxHxWxC:
            homes[image.tobytes()].add(split)
    assert {len(home) for home in homes.values()} == {1}


def test_pictures_show_what_they_are_called(splits):
    train = splits["train"]
    images = dict(zip(train.names, train.images_NxHxWxC, strict=True))
    # The strongest of red, green and blue in the middle: swapped channels or shifted rows would change it.
    for name, channel in {"red circle": 0, "green circle": 1, "blue circle": 2, "blue heart": 2}.items():
        middle = images[name][28:36, 28:36].reshape(-1, 3).astype(float).mean(0)
        assert middle.argmax() == channel, (name, middle)
        assert middle.max() - middle.min() > 80, (name, middle)
    # Transparent surroundings are white, not black.
    assert images["red circle"][0, 0].tolist() == [255, 255, 255]


def test_captions_carry_keywords_and_groups(splits):
    train = splits["train"]
    caption = next(c for c in train.captions if c.name == "man farmer: light skin tone")
    assert (caption.group, caption.subgroup) == ("people-body", "person-role")
    assert "gardener" in caption.keywords
    assert all(c.group and c.subgroup for c in train.captions)


def test_unknown_split():
    with pytest.raises(UserError, match=r"'test'.*train, feedback, combinations, concepts"):
        load_emoji("test")


@pytest.mark.parametrize(
    ("file", "phrase"),
    [
        ("LICENSE-OFL.txt", "SIL OPEN FONT LICENSE Version 1.1"),
        ("LICENSE-emojibase.txt", "Copyright (c) 2017-2019 Miles Johnson"),
        ("LICENSE-unicode.txt", "UNICODE LICENSE V3"),
    ],
)
def test_licences_lie_beside_the_file(file, phrase):
    folder = importlib.resources.files("mmrlhf_jax.data").joinpath("emoji")
    assert phrase in folder.joinpath(file).read_text(encoding="utf-8")

"""Files of judgements: the kind follows from the columns; splits share no picture."""

import numpy as np
import pytest

from mmrlhf_jax.data.clicks import ClickLog, write_clicks
from mmrlhf_jax.data.judgements import pictures_of, read_judgements, split_by_picture
from mmrlhf_jax.data.preferences import PreferenceSet, write_preferences
from mmrlhf_jax.data.ratings import RatingSet, write_ratings
from mmrlhf_jax.data.unpaired import LabelledSet, write_labels
from mmrlhf_jax.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
INDEX = np.array([2, 0, 1], np.int32)
TEXTS = ["a dog", "a cat", "a red hat"]
SETS = {
    "preferences": (
        write_preferences,
        PreferenceSet(
            PICTURES, INDEX, [""] * 3, TEXTS, ["x", "y", "z"], tie_P=np.array([True, False, False])
        ),
    ),
    "ratings": (
        write_ratings,
        RatingSet(
            PICTURES, INDEX, [""] * 3, TEXTS, {"tone": np.array([1, 5, np.nan], np.float32)}, {"tone": (1, 5)}
        ),
    ),
    "labels": (
        write_labels,
        LabelledSet(PICTURES, INDEX, [""] * 3, TEXTS, np.array([True, False, True])),
    ),
    "clicks": (
        write_clicks,
        ClickLog(
            PICTURES,
            INDEX,
            [""] * 3,
            [TEXTS[:2], TEXTS[1:2], TEXTS[:0:-1]],
            np.array([[1, 0], [0, -1], [0, 1]], np.int32),
            np.array([[True, False], [False, False], [True, True]]),
        ),
    ),
}


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize("kind", SETS)
def test_the_kind_follows_from_the_columns(tmp_path, kind, ending):
    write, judged = SETS[kind]
    write(tmp_path / f"file{ending}", judged)
    read = read_judgements(tmp_path / f"file{ending}", 8)
    assert type(read) is type(judged)
    shown = [read.images_NxHxWxC[i] for i in pictures_of(read)[:, 0]]
    np.testing.assert_array_equal(np.stack(shown), PICTURES[INDEX])


def test_files_that_judge_nothing_are_told(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('broken\n{"prompt": "", "text": "a dog"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"prompt, text say no judgement.*chosen, rejected"):
        read_judgements(file, 8)
    file.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="no line is a JSON object"):
        read_judgements(file, 8)
    with pytest.raises(UserError, match="no such file"):
        read_judgements(tmp_path / "b.parquet", 8)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a parquet file"):
        read_judgements(tmp_path / "c.parquet", 8)


def pairs(chosen, rejected=None, count=40) -> PreferenceSet:
    texts = ["a"] * len(chosen)
    images = np.zeros((count, 2, 2, 3), np.uint8)
    other = None if rejected is None else np.array(rejected, np.int32)
    index = np.array(chosen, np.int32)
    return PreferenceSet(images, index, texts, texts, ["b"] * len(texts), rejected_image_index_P=other)


def test_no_picture_is_on_both_sides():
    judged = pairs(np.arange(200) % 40)
    train, held_out = split_by_picture(judged, 0.1)
    assert sorted([*train, *held_out]) == list(range(200))
    index = judged.image_index_P
    assert len(set(index[held_out])) == 4 and not set(index[held_out]) & set(index[train])


def test_pictures_that_meet_in_a_comparison_stay_together():
    """Also by way of others: 0-1, 1-2, 2-3 are one group of four, whatever their order."""
    chosen, rejected = [2, 1, 0], [3, 2, 1]
    chosen, rejected = chosen + list(range(4, 40, 2)), rejected + list(range(5, 40, 2))
    judged = pairs(chosen, rejected)
    for share in (0.1, 0.5):
        train, held_out = split_by_picture(judged, share)
        sides = [set(pictures_of(judged)[rows].ravel().tolist()) for rows in (train, held_out)]
        assert not sides[0] & sides[1] and len(train) + len(held_out) == len(judged)
        assert {0, 1, 2, 3} <= sides[0] or {0, 1, 2, 3} <= sides[1]
        assert 0 < len(held_out) < len(judged)


def test_one_group_cannot_be_split():
    train, held_out = split_by_picture(pairs([0, 1, 2], [1, 2, 0], count=3), 0.1)
    assert not len(train) and len(held_out) == 3

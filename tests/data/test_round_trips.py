"""Judgements of every kind are read as they were written, whatever is in them."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrlhf_jax.data.clicks import ClickLog, read_clicks, write_clicks
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences, write_preferences
from mmrlhf_jax.data.ratings import RatingSet, read_ratings, write_ratings
from mmrlhf_jax.data.unpaired import LabelledSet, read_labels, write_labels
from tests.picture_files import picture

IMAGES = np.stack([picture("red", 2), picture("blue", 2), picture("grey", 2)])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ROUND_TRIPS = settings(max_examples=15, deadline=None)


def write_and_read(write, read, judged, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path, judged)
        return read(path, 2)


def same_pictures(a, a_index, b, b_index):
    return np.array_equal(a.images_NxHxWxC[a_index], b.images_NxHxWxC[b_index])


def indices(draw, count):
    return np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), np.int32)


def texts(draw, count):
    return draw(st.lists(TEXTS, min_size=count, max_size=count))


@st.composite
def preference_sets(draw):
    count = draw(st.integers(1, 4))
    first, second = indices(draw, count), indices(draw, count)
    second = np.where(first == second, (first + 1) % 3, second).astype(np.int32)
    own_pictures, ties = draw(st.booleans()), draw(st.booleans())
    chosen = texts(draw, count)
    return PreferenceSet(
        IMAGES,
        first,
        texts(draw, count),
        chosen,
        texts(draw, count) if own_pictures else [f"not {text}" for text in chosen],
        extras={"n": draw(st.lists(st.none() | st.integers(-9, 9), min_size=count, max_size=count))},
        rejected_image_index_P=second if own_pictures else None,
        tie_P=np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count))) if ties else None,
    )


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@ROUND_TRIPS
@given(judged=preference_sets())
def test_preferences(suffix, judged):
    back = write_and_read(write_preferences, read_preferences, judged, suffix)
    assert same_pictures(judged, judged.image_index_P, back, back.image_index_P)
    assert (judged.prompts, judged.chosen, judged.rejected, judged.extras) == (
        back.prompts,
        back.chosen,
        back.rejected,
        back.extras,
    )
    for side in ("rejected_image_index_P", "tie_P"):
        assert (getattr(judged, side) is None) == (getattr(back, side) is None)
    if judged.rejected_image_index_P is not None:
        assert same_pictures(judged, judged.rejected_image_index_P, back, back.rejected_image_index_P)
    if judged.tie_P is not None:
        assert np.array_equal(judged.tie_P, back.tie_P)


@st.composite
def rating_sets(draw):
    count = draw(st.integers(1, 4))
    scores = st.just(math.nan) | st.floats(-1, 4, width=32)
    aspects = {
        name: np.array(draw(st.lists(scores, min_size=count, max_size=count)), np.float32)
        for name in ("Help", "Visual Faithfulness")
    }
    levels = dict.fromkeys(aspects, (-1.0, 4.0))
    prompts, answers = texts(draw, count), texts(draw, count)
    return RatingSet(IMAGES, indices(draw, count), prompts, answers, aspects, levels, {"who": prompts})


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@ROUND_TRIPS
@given(judged=rating_sets())
def test_ratings(suffix, judged):
    back = write_and_read(write_ratings, read_ratings, judged, suffix)
    assert same_pictures(judged, judged.image_index_R, back, back.image_index_R)
    assert (judged.prompts, judged.answers, judged.levels, judged.extras) == (
        back.prompts,
        back.answers,
        back.levels,
        back.extras,
    )
    assert judged.ratings.keys() == back.ratings.keys()
    for name, rating_R in judged.ratings.items():
        assert back.ratings[name].dtype == np.float32
        assert np.array_equal(rating_R, back.ratings[name], equal_nan=True)


@st.composite
def labelled_sets(draw):
    count = draw(st.integers(1, 4))
    labels = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return LabelledSet(IMAGES, indices(draw, count), texts(draw, count), texts(draw, count), labels)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@ROUND_TRIPS
@given(judged=labelled_sets())
def test_labels(suffix, judged):
    back = write_and_read(write_labels, read_labels, judged, suffix)
    assert same_pictures(judged, judged.image_index_R, back, back.image_index_R)
    assert (judged.prompts, judged.answers) == (back.prompts, back.answers)
    assert back.label_R.dtype == np.bool_
    assert np.array_equal(judged.label_R, back.label_R)


@st.composite
def click_logs(draw):
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    count, longest = len(lengths), max(lengths)
    position_LxK = np.full((count, longest), -1, np.int32)
    clicked_LxK = np.zeros((count, longest), bool)
    dwell_LxK = np.full((count, longest), np.nan, np.float32)
    for row, length in enumerate(lengths):
        position_LxK[row, :length] = draw(st.permutations(range(length)))
        clicked_LxK[row, :length] = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        dwell_LxK[row, :length] = draw(
            st.lists(st.just(math.nan) | st.floats(0, 99, width=32), min_size=length, max_size=length)
        )
    return ClickLog(
        IMAGES,
        indices(draw, count),
        texts(draw, count),
        [texts(draw, length) for length in lengths],
        position_LxK,
        clicked_LxK,
        dwell_LxK if draw(st.booleans()) else None,
    )


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@ROUND_TRIPS
@given(judged=click_logs())
def test_clicks(suffix, judged):
    back = write_and_read(write_clicks, read_clicks, judged, suffix)
    assert same_pictures(judged, judged.image_index_L, back, back.image_index_L)
    assert (judged.prompts, judged.answers) == (back.prompts, back.answers)
    assert np.array_equal(judged.position_LxK, back.position_LxK)
    assert np.array_equal(judged.clicked_LxK, back.clicked_LxK)
    assert (judged.dwell_LxK is None) == (back.dwell_LxK is None)
    if judged.dwell_LxK is not None:
        assert np.array_equal(judged.dwell_LxK, back.dwell_LxK, equal_nan=True)

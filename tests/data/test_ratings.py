"""Rating files: scales, what was not rated, and every bad record."""

import numpy as np
import pytest

from mmrlhf_jax.data.ratings import RatingSet, read_ratings
from mmrlhf_jax.errors import UserError
from tests.picture_files import in_json, picture, write_lines

GOOD = {
    "prompt": [{"role": "user", "content": "Name it."}],
    "completion": "red",
    "images": [in_json("red")],
    "ratings": {"help": 4, "truth": None},
    "levels": {"help": [1, 5], "truth": [0, 1]},
}


def test_columns(tmp_path):
    second = GOOD | {"ratings": {"truth": 0.5}, "rater": "ann"}
    judged = read_ratings(write_lines(tmp_path / "a.jsonl", GOOD, second), 8)
    assert (judged.prompts, judged.answers) == (["Name it."] * 2, ["red"] * 2)
    assert judged.levels == {"help": (1.0, 5.0), "truth": (0.0, 1.0)}
    assert np.array_equal(judged.ratings["help"], np.array([4, np.nan], np.float32), equal_nan=True)
    assert np.array_equal(judged.ratings["truth"], np.array([np.nan, 0.5], np.float32), equal_nan=True)
    assert judged.extras == {"rater": [None, "ann"]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ratings": {"help": 6}}, "column ratings, help: 6 is no number from 1 to 5"),
        ({"ratings": {"help": "4"}}, "help: '4' is no number"),
        ({"ratings": {"help": True}}, "help: True is no number"),
        ({"ratings": {"help": float("nan")}}, "help: nan is no number"),
        ({"ratings": {"speed": 4}}, "column ratings: an object with keys"),
        ({"ratings": 4}, "column ratings: an object with keys"),
        ({"levels": {"help": [1, 7], "truth": [0, 1]}}, "as in the records before"),
        ({"levels": {"help": [5, 1]}}, r"help has \[5, 1\]"),
        ({"levels": {"help": [1]}}, "help has"),
        ({"levels": {}}, "column levels: {} is no object"),
        ({"completion": None}, "column completion: None is no text"),
        ({"images": []}, "column images: a list of one picture is needed, not 0"),
    ],
)
def test_bad_records(change, complaint, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD, GOOD | change)
    with pytest.raises(UserError, match=f"line 2.*{complaint}"):
        read_ratings(path, 8)
    judged = read_ratings(path, 8, on_bad="skip")
    assert len(judged) == len(judged.skipped) == 1


def test_a_missing_column_is_told(tmp_path):
    row = {name: value for name, value in GOOD.items() if name != "levels"}
    with pytest.raises(UserError, match="there is no column 'levels'"):
        read_ratings(write_lines(tmp_path / "a.jsonl", row), 8)


def test_take_leaves_levels_and_pictures_whole():
    rating_R = np.array([1, 2, 3], np.float32)
    judged = RatingSet(
        picture("red")[None],
        np.zeros(3, np.int32),
        ["p"] * 3,
        ["a", "b", "c"],
        {"x": rating_R},
        {"x": (1, 5)},
    )
    taken = judged.take([2, 0])
    assert (taken.answers, taken.levels) == (["c", "a"], {"x": (1, 5)})
    assert taken.ratings["x"].tolist() == [3, 1]
    assert len(taken.images_NxHxWxC) == 1


def test_ratings_and_levels_must_agree():
    with pytest.raises(ValueError, match="levels of"):
        RatingSet(picture("red")[None], np.zeros(1, np.int32), [""], [""], {"x": np.ones(1)}, {})
    with pytest.raises(ValueError, match="1 answers but 2 values of x"):
        RatingSet(picture("red")[None], np.zeros(1, np.int32), [""], [""], {"x": np.ones(2)}, {"x": (0, 1)})

"""Click logs: lists of unequal length, places, seconds, and every bad record."""

import numpy as np
import pytest

from mmrlhf_jax.data.clicks import ClickLog, read_clicks
from mmrlhf_jax.errors import UserError
from tests.picture_files import in_json, picture, write_lines

GOOD = {
    "prompt": "Name it.",
    "images": [in_json("red")],
    "answers": ["red", "rose", "blue"],
    "clicked": [False, True, False],
}


def test_columns(tmp_path):
    short = GOOD | {"answers": ["blue"], "clicked": [False], "position": [4], "dwell": [2.5], "day": "mon"}
    log = read_clicks(write_lines(tmp_path / "a.jsonl", GOOD, short), 8)
    assert log.answers == [["red", "rose", "blue"], ["blue"]]
    assert log.position_LxK.tolist() == [[0, 1, 2], [4, -1, -1]]
    assert log.clicked_LxK.tolist() == [[False, True, False], [False, False, False]]
    nan = np.nan
    assert np.array_equal(log.dwell_LxK, [[nan, nan, nan], [2.5, nan, nan]], equal_nan=True)
    assert log.extras == {"day": [None, "mon"]}
    taken = log.take([1])
    assert (taken.answers, taken.position_LxK.shape) == ([["blue"]], (1, 3))


def test_without_seconds_there_are_none(tmp_path):
    assert read_clicks(write_lines(tmp_path / "a.jsonl", GOOD), 8).dwell_LxK is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answers": []}, r"column answers: \[\] is no list of one text or more"),
        ({"answers": "red"}, "column answers: 'red' is no list"),
        ({"answers": ["a", "b", 3]}, "column answers: 3 is no text"),
        ({"clicked": [True]}, "column clicked: .* is no list of 3 values"),
        ({"clicked": [0, 1, 0]}, "column clicked: .* is not all true or false"),
        ({"position": [0, 1]}, "column position: .* is no list of 3 values"),
        ({"position": [0, 1, 1]}, "column position: .* is not one place"),
        ({"position": [-1, 0, 1]}, "column position: .* is not one place"),
        ({"position": [0.0, 1.0, 2.0]}, "column position: .* is not one place"),
        ({"dwell": [1, 2, -3]}, "column dwell: -3 is no number of seconds"),
        ({"dwell": [1, 2, "3"]}, "column dwell: '3' is no number of seconds"),
    ],
)
def test_bad_records(change, complaint, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD, GOOD | change)
    with pytest.raises(UserError, match=f"line 2, {complaint}"):
        read_clicks(path, 8)
    assert len(read_clicks(path, 8, on_bad="skip").skipped) == 1


def test_padding_must_be_where_the_lists_end():
    position, clicked = np.array([[0, -1]], np.int32), np.zeros((1, 2), bool)
    whole = (picture("red")[None], np.zeros(1, np.int32), ["p"])
    ClickLog(*whole, [["a"]], position, clicked)
    with pytest.raises(ValueError, match="beyond the end"):
        ClickLog(*whole, [["a", "b"]], position, clicked)
    with pytest.raises(ValueError, match="beyond the end"):
        ClickLog(*whole, [["a"]], position, ~clicked)

"""Files of thumbs in TRL's columns for unpaired preferences."""

import numpy as np
import pytest

from mmrlhf_jax.data.unpaired import LabelledSet, read_labels
from mmrlhf_jax.errors import UserError
from tests.picture_files import in_json, picture, write_lines

GOOD = {"prompt": "Name it.", "completion": "red", "label": True, "images": [in_json("red")]}


def test_columns(tmp_path):
    said = [{"role": "assistant", "content": [{"type": "text", "text": "blue"}]}]
    path = write_lines(tmp_path / "a.jsonl", GOOD, GOOD | {"completion": said, "label": False, "who": 3})
    judged = read_labels(path, 8)
    assert (judged.answers, judged.label_R.tolist()) == (["red", "blue"], [True, False])
    assert judged.extras == {"who": [None, 3]}
    taken = judged.take([1])
    assert (taken.answers, taken.label_R.tolist(), len(taken.images_NxHxWxC)) == (["blue"], [False], 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label": 1}, "column label: 1 is neither true nor false"),
        ({"label": None}, "column label: None is neither"),
        ({"completion": [{"role": "user", "content": "x"}]}, "column completion: only the assistant's"),
        ({"images": [None]}, "picture column images: no picture"),
    ],
)
def test_bad_records(change, complaint, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD, GOOD | change)
    with pytest.raises(UserError, match=f"line 2, .*{complaint}"):
        read_labels(path, 8)
    assert len(read_labels(path, 8, on_bad="skip").skipped) == 1


def test_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="1 answers but 2 values of label_R"):
        LabelledSet(picture("red")[None], np.zeros(1, np.int32), [""], [""], np.ones(2, bool))
    with pytest.raises(ValueError, match="may not be called label"):
        LabelledSet(picture("red")[None], np.zeros(1, np.int32), [""], [""], np.ones(1, bool), {"label": [1]})

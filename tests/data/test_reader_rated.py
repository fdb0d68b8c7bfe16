"""Public sets of ratings, each on a small file in its own columns and with its own traps."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.readers import read_set
from mmrlhf_jax.errors import UserError
from tests.picture_files import colours, encoded, put, write_lines

NAN = float("nan")


def rated(response, helpful, faithful, ethical):
    return {
        "annotations": {
            "Helpfulness": {"Rating": helpful, "Rationale": "r"},
            "Ethical Considerations": {"Rating": ethical, "Rationale": "r"},
            "Visual Faithfulness": {"Rating": faithful, "Rationale": "r"},
        },
        "model": f"model of {response}",
        "response": response,
    }


COMPLETIONS = [
    rated("good", "5", "4", "N/A"),
    rated("unrated", "N/A", "N/A", "N/A"),
    rated("bad", "1", "2", "5"),
]


def assert_vlfeedback(judged):
    assert judged.answers == ["good", "bad"]
    assert judged.prompts == ["What?"] * 2
    assert set(judged.levels.values()) == {(1.0, 5.0)}
    for aspect, ratings in (
        ("Helpfulness", [5, 1]),
        ("Visual Faithfulness", [4, 2]),
        ("Ethical Considerations", [NAN, 5]),
    ):
        assert np.array_equal(judged.ratings[aspect], np.array(ratings, np.float32), equal_nan=True)
    assert judged.extras == {"id": ["a", "a"], "model": ["model of good", "model of bad"]}
    assert colours(judged.images_NxHxWxC, judged.image_index_R) == ["red", "red"]


def test_vlfeedback_has_ratings_as_text_and_some_are_none(tmp_path):
    put(tmp_path, "red")
    row = {"id": "a", "prompt": "What?", "models": ["m"], "completions": COMPLETIONS, "img_path": "red.webp"}
    assert_vlfeedback(read_set("vlfeedback", write_lines(tmp_path / "a.jsonl", row), 8))


def test_vlfeedback_in_parquet_is_a_struct_of_lists(tmp_path):
    put(tmp_path, "red")
    columns = {name: [said[name] for said in COMPLETIONS] for name in COMPLETIONS[0]}
    row = {"id": "a", "prompt": "What?", "models": ["m"], "completions": columns, "img_path": "red.webp"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert_vlfeedback(read_set("vlfeedback", tmp_path / "a.parquet", 8))


def test_vlfeedback_bad_records(tmp_path):
    put(tmp_path, "red")
    row = {"prompt": "What?", "img_path": "red.webp"}
    rows = [
        row | {"completions": COMPLETIONS},
        row | {"completions": [rated("x", "6", "1", "1")]},
        row | {"completions": [rated("x", "very", "1", "1")]},
        row | {"completions": COMPLETIONS[1:2]},
        row | {"completions": "none"},
    ]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    judged = read_set("vlfeedback", path, 8, on_bad="skip")
    for message, complaint in zip(
        judged.skipped,
        (
            "line 2, column completions, number 1, Helpfulness: 6.0 is no number from 1 to 5",
            "line 3, column completions, number 1, Helpfulness: 'very' is no number",
            "line 4: no answer was rated",
            "line 5, column completions: a list of answers is needed, not 'none'",
        ),
        strict=True,
    ):
        assert complaint in message


@pytest.mark.parametrize("name", ["polaris", "nebula"])
def test_polaris_has_a_list_of_references(name, tmp_path):
    rows = [
        {
            "refs": ["a", "b"],
            "cand": "red",
            "img": {"bytes": encoded("red"), "path": None},
            "human_score": 0.75,
        },
        {"refs": ["c"], "cand": "cat", "img": {"bytes": encoded("blue"), "path": None}, "human_score": 1.5},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    judged = read_set(name, tmp_path / "train.parquet", 8, on_bad="skip")
    assert (judged.answers, judged.prompts, judged.levels) == (["red"], [""], {"score": (0.0, 1.0)})
    assert judged.ratings["score"].tolist() == [0.75]
    assert judged.extras == {"references": [["a", "b"]]}
    assert "row 2, column human_score: 1.5 is no number from 0 to 1" in judged.skipped[0]


def test_polaris_as_a_table(tmp_path):
    put(tmp_path / "images", "red")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["refs", "cand", "img", "human_score"])
        table.writerow(["['a', \"b's\"]", "red", "images/red.webp", "0.25"])
        table.writerow(['["a", null]', "red", "images/red.webp", "0.25"])
        table.writerow(["['a'", "red", "images/red.webp", "0.25"])
        table.writerow(["__import__('os').getcwd()", "red", "images/red.webp", "0.25"])
    judged = read_set("polaris", tmp_path / "a.csv", 8, on_bad="skip")
    assert judged.extras == {"references": [["a", "b's"]]}
    assert judged.ratings["score"].tolist() == [0.25]
    assert len(judged.skipped) == 3


@pytest.fixture
def flickr8k(tmp_path):
    put(tmp_path / "Flicker8k_Dataset", "red", "blue")
    (tmp_path / "Flickr8k.token.txt").write_text("red.webp#0\tA red square .\nblue.webp#3\tA blue one .\n")
    lines = [
        "red.webp\tred.webp#0\t4\t4\t3",
        "red.webp\tblue.webp#3\t1\t2\t1",
        "blue.webp\tgone.webp#1\t1\t1\t1",
        "blue.webp\tblue.webp#3\t1\t5\t1",
        "blue.webp\tblue.webp#3\t1",
        "none.webp\tblue.webp#3\t1\t1\t1",
    ]
    (tmp_path / "ExpertAnnotations.txt").write_text("\n".join(lines))
    (tmp_path / "readme.txt").write_text("Flickr8k")
    return tmp_path


def test_flickr8k_expert_has_three_scores(flickr8k):
    for path in (flickr8k, flickr8k / "ExpertAnnotations.txt"):
        judged = read_set(
            "flickr8k-expert", path, 8, on_bad="skip", image_root=flickr8k / "Flicker8k_Dataset"
        )
        assert judged.answers == ["A red square ."] * 3 + ["A blue one ."] * 3
        assert judged.ratings["score"].tolist() == [4, 4, 3, 1, 2, 1]
        assert judged.levels == {"score": (1.0, 4.0)}
        assert judged.extras["expert"] == [1, 2, 3, 1, 2, 3]
        assert colours(judged.images_NxHxWxC, judged.image_index_R) == ["red"] * 6
    for message, complaint in zip(
        judged.skipped,
        (
            "line 3: Flickr8k.token.txt has no caption 'gone.webp#1'",
            "line 4: 5.0 is no number from 1 to 4",
            "line 5: there is no column '3'",
            "line 6, picture column 0: there is no picture 'none.webp'",
        ),
        strict=True,
    ):
        assert complaint in message


def test_flickr8k_without_captions(flickr8k):
    (flickr8k / "Flickr8k.token.txt").unlink()
    with pytest.raises(UserError, match=r"Flickr8k\.token\.txt: there is no such file"):
        read_set("flickr8k-expert", flickr8k, 8)

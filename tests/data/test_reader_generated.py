"""Public sets of compared pictures, each on a small file in its own columns and with its own traps."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.readers import read_set
from mmrlhf_jax.errors import UserError
from tests.picture_files import colours, encoded, put


def sides(judged):
    """The colours of the chosen and of the rejected pictures."""
    images = judged.images_NxHxWxC
    return colours(images, judged.image_index_P), colours(images, judged.rejected_image_index_P)


def pick(left, right, label, **change):
    return {
        "are_different": True,
        "best_image_uid": "u",
        "caption": "a square",
        "created_at": datetime.datetime(2023, 2, 1, 12, 30, 1, 250),
        "has_label": True,
        "image_0_uid": "u",
        "image_0_url": "https://example.org/0.png",
        "image_1_uid": "v",
        "image_1_url": "https://example.org/1.png",
        "jpg_0": encoded(left),
        "jpg_1": encoded(right),
        "label_0": label,
        "label_1": 1 - label,
        "user_id": 7,
    } | change


@pytest.fixture
def pick_a_pic(tmp_path):
    rows = [
        pick("red", "blue", 1.0),
        pick("red", "blue", 0.0),
        pick("green", "blue", 0.5),
        pick("red", "blue", 1.0, has_label=False),
        pick("red", "red", 1.0),
    ]
    names = ["created_at"]
    data = pa.Table.from_pylist(rows)
    data = data.set_column(
        data.schema.get_field_index(names[0]), names[0], data[names[0]].cast(pa.timestamp("ns"))
    )
    pq.write_table(data, tmp_path / "train-0.parquet")
    return tmp_path / "train-0.parquet"


def test_pick_a_pic(pick_a_pic):
    judged = read_set("pick-a-pic", pick_a_pic, 8)  # what nobody judged is no bad record
    chosen, rejected = sides(judged)
    assert (chosen[:2], rejected[:2]) == (["red", "blue"], ["blue", "red"])
    assert {chosen[2], rejected[2]} == {"green", "blue"}
    assert judged.tie_P.tolist() == [False, False, True]
    assert (judged.prompts, judged.chosen, judged.rejected) == (["a square"] * 3, [""] * 3, [""] * 3)
    assert judged.extras["chosen_first"][:2] == [True, False]
    assert judged.extras["user_id"] == [7] * 3
    assert "row 4: nobody judged this pair" in judged.skipped[0]
    assert "row 5: both sides are the same picture" in judged.skipped[1]


def test_pick_a_pic_with_odd_labels(tmp_path):
    rows = [pick("red", "blue", 1.0), pick("red", "blue", 0.7), pick("red", "blue", 1.0, jpg_1=b"")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    judged = read_set("pick-a-pic", tmp_path / "a.parquet", 8, on_bad="skip")
    assert judged.tie_P is None
    assert "row 2, columns label_0 and label_1" in judged.skipped[0]
    # A missing picture would be fetched if addresses were allowed.
    assert "row 3, picture column image_1_url: 'https://example.org/1.png' is a URL" in judged.skipped[1]


def test_hpdv2_training_files(tmp_path):
    put(tmp_path / "train", "red", "blue", "green")
    row = {"prompt": "a square", "user_hash": "h"}
    paths = ["red.webp", "blue.webp"]
    rows = [
        row | {"file_path": paths, "human_preference": [1, 0]},
        row | {"image_path": paths, "human_preference": [0, 1], "rank": []},
        row | {"file_path": [*paths, "green.webp"], "human_preference": [0, 0, 1]},
        row | {"file_path": paths, "human_preference": [0, 0]},
        row | {"file_path": paths, "human_preference": [1]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    judged = read_set("hpdv2", tmp_path / "train.json", 8, on_bad="skip", image_root=tmp_path / "train")
    assert sides(judged) == (["red", "blue", "green", "green"], ["blue", "red", "red", "blue"])
    assert judged.extras == {"user_hash": ["h"] * 4, "chosen_first": [True, False, False, False]}
    assert "record 4: no picture was preferred" in judged.skipped[0]
    assert "record 5, column human_preference: a list of 2 is needed" in judged.skipped[1]


def test_hpdv2_test_files_rank_the_best_with_one(tmp_path):
    put(tmp_path, "red", "blue", "green")
    paths = ["red.webp", "blue.webp", "green.webp"]
    rows = [{"prompt": "p", "image_path": paths, "rank": [3, 1, 2], "raw_annotations": []}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    judged = read_set("hpdv2", tmp_path, 8)
    assert sorted(zip(*sides(judged), strict=True)) == [("blue", "green"), ("blue", "red"), ("green", "red")]


def test_hpdv3_whose_winner_is_always_first_gets_drawn_places(tmp_path):
    put(tmp_path / "images", "red", "blue")
    rows = [
        {
            "prompt": f"a square, number {i}",
            "choice_dist": [12, 7],
            "confidence": 0.99,
            "path1": "images/red.webp",
            "path2": "images/blue.webp",
            "model1": "flux",
            "model2": "kolors",
        }
        for i in range(200)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    judged = read_set("hpdv3", tmp_path / "train.json", 8)
    assert sides(judged) == (["red"] * 200, ["blue"] * 200)
    assert 70 < sum(judged.extras["chosen_first"]) < 130
    assert judged.extras["confidence"] == [0.99] * 200
    moved = tmp_path / "elsewhere"
    put(moved / "images", "red", "blue")
    (moved / "train.json").write_text(json.dumps(rows[::-1]))
    again = read_set("hpdv3", moved / "train.json", 8)
    assert again.extras["chosen_first"][::-1] == judged.extras["chosen_first"]


def ranked(name, prompt_id, rank):
    return {
        "image_path": f"images/train/train_1/{name}.webp",
        "prompt_id": prompt_id,
        "prompt": f"prompt {prompt_id}",
        "classification": "People",
        "image_amount_in_total": 3,
        "rank": rank,
        "overall_rating": 7 - rank,
        "image_text_alignment_rating": 5,
        "fidelity_rating": 6,
    }


def test_imagerewarddb_ranks_within_a_prompt(tmp_path):
    folder = tmp_path / "images" / "train" / "train_1"
    put(folder, "red", "blue", "green", "grey")
    rows = [
        ranked("red", "a", 2),
        ranked("grey", "b", 1),
        ranked("blue", "a", 1),
        ranked("green", "a", 2),
        ranked("green", "b", 4) | {"rank": "last"},
    ]
    (folder / "train_1.json").write_text(json.dumps(rows))
    judged = read_set("imagerewarddb", tmp_path, 8, on_bad="skip")  # paths are relative to the whole set
    tie_P = judged.tie_P.tolist()
    found = {frozenset(pair): tie for *pair, tie in zip(*sides(judged), tie_P, strict=True)}
    assert found == {
        frozenset(["blue", "red"]): False,
        frozenset(["blue", "green"]): False,
        frozenset(["red", "green"]): True,
    }
    assert [c for c, tie in zip(sides(judged)[0], tie_P, strict=True) if not tie] == ["blue", "blue"]
    ratings = zip(judged.extras["overall_rating"], tie_P, strict=True)
    assert [r for r, tie in ratings if not tie] == [[6, 5], [6, 5]]
    assert judged.prompts == ["prompt a"] * 3
    assert "record 5, column rank: 'last' is no number" in judged.skipped[0]


def test_imagerewarddb_without_two_pictures_of_a_prompt(tmp_path):
    put(tmp_path / "images" / "train" / "train_1", "red")
    (tmp_path / "a.json").write_text(json.dumps([ranked("red", "a", 1)]))
    with pytest.raises(UserError, match="no prompt has two pictures"):
        read_set("imagerewarddb", tmp_path / "a.json", 8)

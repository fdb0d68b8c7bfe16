"""Public sets of pairs of answers, each on a small file in its own columns and with its own traps."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.readers import read_set
from mmrlhf_jax.errors import UserError
from tests.picture_files import colours, encoded, put, write_lines

RED = {"bytes": encoded("red"), "path": "red.jpg"}


def table(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rlhf_v(**change):
    said = {"question": "What is it?", "chosen": "A red square.", "rejected": "A cat."}
    return {
        "ds_name": "RLHF-V",
        "image": RED,
        "text": json.dumps(said),
        "origin_dataset": "LCS",
        "origin_split": json.dumps({"model": "x"}),
        "idx": 0,
        "image_path": "x/red.jpg",
    } | change


def test_rlhf_v_has_json_in_a_string(tmp_path):
    rows = [rlhf_v(), rlhf_v(text="no JSON", idx=1), rlhf_v(text='{"question": "?"}', idx=2)]
    path = table(tmp_path / "RLHF-V-Dataset.parquet", rows)
    judged = read_set("rlhf-v", path, 8, on_bad="skip")
    assert (judged.prompts, judged.chosen, judged.rejected) == (
        ["What is it?"],
        ["A red square."],
        ["A cat."],
    )
    assert colours(judged.images_NxHxWxC, judged.image_index_P) == ["red"]
    assert sorted(judged.extras) == ["ds_name", "idx", "origin_dataset", "origin_split"]
    assert [message.partition(", ")[2] for message in judged.skipped] == [
        "row 2, column text: not JSON (Expecting value: line 1 column 1 (char 0))",
        "row 3, column text: {'question': '?'} has no question, chosen and rejected",
    ]
    with pytest.raises(UserError, match="row 2, column text: not JSON"):
        read_set("rlhf-v", path, 8)


def test_rlaif_v_with_pictures_by_path(tmp_path):
    put(tmp_path / "pictures" / "x", "red", "blue")
    row = {"question": "What?", "chosen": "Red.", "rejected": "Blue.", "idx": "7", "image": None}
    rows = [
        row | {"image_path": "x/red.webp"},
        row | {"image_path": "x/none.webp"},
        row | {"image_path": "../../etc/passwd"},
        row | {"image_path": "x/blue.webp", "rejected": "Red."},
        row | {"image_path": "x/blue.webp"},
    ]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    judged = read_set("rlaif-v", path, 8, on_bad="skip", image_root=tmp_path / "pictures")
    assert colours(judged.images_NxHxWxC, judged.image_index_P) == ["red", "blue"]
    assert judged.extras == {"idx": ["7", "7"]}
    assert "line 2, picture column image_path: there is no picture" in judged.skipped[0]
    assert "line 3, picture column image_path: '../../etc/passwd' lies outside" in judged.skipped[1]
    assert "line 4: both answers are equal" in judged.skipped[2]


def test_trl_conversations(tmp_path):
    def say(role, text):
        return [{"role": role, "content": [{"type": "text", "text": text}]}]

    row = {
        "images": [RED],
        "prompt": say("user", "What?"),
        "chosen": say("assistant", "Red."),
        "rejected": say("assistant", "Blue."),
    }
    judged = read_set("trl", table(tmp_path / "train-00000-of-00001.parquet", [row]), 8)
    assert (judged.prompts, judged.chosen, judged.rejected) == (["What?"], ["Red."], ["Blue."])


def test_vl_rewardbench_ranks_are_places(tmp_path):
    row = {"id": "a", "query": "What?", "response": ["one", "two"], "image": RED, "human_ranking": [0, 1]}
    rows = [row, row | {"human_ranking": [1, 0]}, row | {"human_ranking": [0, 0]}, row | {"response": ["x"]}]
    judged = read_set("vl-rewardbench", table(tmp_path / "test.parquet", rows), 8, on_bad="skip")
    assert (judged.chosen, judged.rejected) == (["one", "two"], ["two", "one"])
    assert judged.extras["chosen_first"] == [True, False]
    assert judged.rejected_image_index_P is None
    assert "row 3, column human_ranking: [0, 0] is neither" in judged.skipped[0]
    assert "row 4, column response: a list of 2 is needed, not ['x']" in judged.skipped[1]

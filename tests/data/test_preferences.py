"""Preference files: what is read is what was written, and every bad record says what is wrong and where."""

import base64
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.images import encode_webp
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences, write_preferences
from mmrlhf_jax.errors import UserError

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
BLUE = np.full((8, 8, 3), (0, 0, 255), np.uint8)
RED_BYTES, BLUE_BYTES = encode_webp(RED), encode_webp(BLUE)
RED_IMAGE = {"bytes": base64.b64encode(RED_BYTES).decode()}
GOOD = {"prompt": "Name it.", "chosen": "red", "rejected": "blue", "images": [RED_IMAGE]}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def some_pairs():
    return PreferenceSet(
        images_NxHxWxC=np.stack([RED, BLUE]),
        image_index_P=np.array([1, 0, 1], np.int32),
        prompts=["Name it.", "", "Que voit-on\u00a0? 🙂"],
        chosen=["blue", "red", "bleu"],
        rejected=["red", "", "rouge"],
        extras={"rater": ["ann", None, "bo"], "margin": [0.5, 1.0, -2.0], "votes": [[1, 2], [], [3]]},
    )


def assert_equal_sets(a, b):
    assert np.array_equal(a.images_NxHxWxC[a.image_index_P], b.images_NxHxWxC[b.image_index_P])
    assert (a.prompts, a.chosen, a.rejected, a.extras) == (b.prompts, b.chosen, b.rejected, b.extras)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_round_trip(suffix, tmp_path):
    path = tmp_path / "new" / f"pairs.{suffix}"
    write_preferences(path, some_pairs())
    back = read_preferences(path, 8)
    assert_equal_sets(back, some_pairs())
    assert back.images_NxHxWxC.shape == (2, 8, 8, 3)  # each picture once
    assert back.image_index_P.dtype == np.int32
    assert back.skipped == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_parquet_has_trl_columns_and_row_groups(tmp_path):
    pairs = some_pairs().take([0, 1, 2] * 400)
    write_preferences(tmp_path / "pairs.parquet", pairs)
    file = pq.ParquetFile(tmp_path / "pairs.parquet")
    assert file.schema_arrow.names == ["images", "prompt", "chosen", "rejected", "rater", "margin", "votes"]
    assert file.schema_arrow.field("images").type.value_type.names == ["bytes", "path"]
    assert file.num_row_groups == 3  # of 512 rows, so that a reader need not hold all of it
    assert_equal_sets(read_preferences(tmp_path / "pairs.parquet", 8), pairs)


def test_conversations(tmp_path):
    record = {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        ],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A red square."}]}],
        "rejected": [{"role": "assistant", "content": "A cat."}],
        "images": [RED_IMAGE],
    }
    pairs = read_preferences(write_lines(tmp_path / "a.jsonl", record), 8)
    assert (pairs.prompts, pairs.chosen, pairs.rejected) == (
        ["Be brief.\nWhat is it?"],
        ["A red square."],
        ["A cat."],
    )


def test_conversations_in_parquet_have_null_texts_beside_images(tmp_path):
    # The layout of trl-lib/rlaif-v: content is a list of structs in which an image part has text null.
    part = pa.struct([("index", pa.int64()), ("text", pa.string()), ("type", pa.string())])
    message = pa.list_(pa.struct([("content", pa.list_(part)), ("role", pa.string())]))

    def say(role, *parts):
        return [{"role": role, "content": [{"index": None, "text": t, "type": k} for k, t in parts]}]

    columns = {
        "images": pa.array([[{"bytes": RED_BYTES, "path": "x.jpg"}]]),
        "prompt": pa.array([say("user", ("image", None), ("text", "What?"))], message),
        "chosen": pa.array([say("assistant", ("text", "Red."))], message),
        "rejected": pa.array([say("assistant", ("text", "Blue."))], message),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    pairs = read_preferences(tmp_path / "a.parquet", 8)
    assert (pairs.prompts, pairs.chosen, pairs.rejected) == (["What?"], ["Red."], ["Blue."])
    assert np.array_equal(pairs.images_NxHxWxC[0], RED)


def test_single_image_column_and_paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "r.webp").write_bytes(RED_BYTES)
    (tmp_path / "pictures" / "again.webp").write_bytes(RED_BYTES)
    texts = {"prompt": "", "chosen": "a", "rejected": "b"}
    pairs = read_preferences(
        write_lines(
            tmp_path / "a.jsonl",
            texts | {"image": "pictures/r.webp"},
            texts | {"image": {"path": "./pictures/again.webp"}},
            texts | {"image": {"bytes": base64.b64encode(BLUE_BYTES).decode()}},
        ),
        4,
    )
    assert pairs.image_index_P.tolist() == [0, 0, 1]
    assert pairs.images_NxHxWxC.shape == (2, 4, 4, 3)
    assert np.array_equal(pairs.images_NxHxWxC[1], BLUE[:4, :4])


def test_a_parquet_file_may_hold_plain_bytes_or_paths(tmp_path):
    (tmp_path / "b.webp").write_bytes(BLUE_BYTES)
    texts = {"prompt": [""], "chosen": ["a"], "rejected": ["b"]}
    for image in (BLUE_BYTES, "b.webp", {"bytes": None, "path": "b.webp"}):
        pq.write_table(pa.table(texts | {"image": [image]}), tmp_path / "a.parquet")
        assert np.array_equal(read_preferences(tmp_path / "a.parquet", 8).images_NxHxWxC[0], BLUE)


def test_extras_differ_between_lines(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD | {"x": 1}, GOOD | {"y": {"z": [2]}})
    assert read_preferences(path, 8).extras == {"x": [1, None], "y": [None, {"z": [2]}]}


def test_blank_lines_and_a_byte_order_mark_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\n  \n" + json.dumps(GOOD).encode())
    assert len(read_preferences(path, 8)) == 2


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


BAD_RECORDS = [
    (without("prompt"), r"no column 'prompt' \(it has chosen, rejected, images\)"),
    (without("rejected"), "no column 'rejected'"),
    (without("images"), "no column 'images'"),
    (GOOD | {"image": RED_IMAGE}, "'images' and 'image' are both there"),
    (GOOD | {"chosen": "blue"}, r"chosen and rejected are equal \('blue'\)"),
    (GOOD | {"chosen": 3}, "column chosen: 3 is no text"),
    (GOOD | {"chosen": None}, "column chosen: None is no text"),
    (GOOD | {"prompt": []}, r"column prompt: \[\] is no text"),
    (GOOD | {"prompt": ["hello"]}, "column prompt: .* is no text"),
    (GOOD | {"chosen": [{"role": "user", "content": "x"}]}, "column chosen: only the assistant's messages"),
    (GOOD | {"prompt": [{"role": "user"}]}, "column prompt: .*holds None"),
    (GOOD | {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "column prompt: .*video"),
    (GOOD | {"chosen": "\ud800"}, "column chosen: half a surrogate pair"),
    (GOOD | {"images": []}, "column images: a list of one picture .*is needed, not 0"),
    (GOOD | {"images": [RED_IMAGE] * 3}, "column images: a list of one picture .*is needed, not 3"),
    (GOOD | {"chosen": "", "rejected": "", "images": [RED_IMAGE] * 2}, "same picture and the same text"),
    (GOOD | {"tie": "no"}, "column tie: 'no' is neither true nor false"),
    (
        GOOD | {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]},
        "column prompt: it asks about several pictures",
    ),
    (GOOD | {"images": "a.png"}, "column images: a list of one picture .*is needed, not 'a.png'"),
    (GOOD | {"images": [None]}, "column images: no picture"),
    (GOOD | {"images": [{"bytes": "%%%"}]}, "column images: the picture's bytes are not base64"),
    (GOOD | {"images": [{"bytes": "aGVsbG8="}]}, "column images: not a readable picture"),
    (GOOD | {"images": [{"bytes": ""}]}, "column images: the picture is empty"),
    (GOOD | {"images": ["none.png"]}, "column images: there is no picture 'none.png'"),
    (GOOD | {"images": ["folder"]}, "column images: there is no picture 'folder'"),
    (GOOD | {"images": ["https://example.org/a.png"]}, "column images: .*is a URL"),
    (GOOD | {"images": ["data:image/png;base64,AA"]}, "column images: .*is a URL"),
    (GOOD | {"images": ["../outside.webp"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["folder/../../outside.webp"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["..\\outside.webp"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["/etc/passwd"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["C:\\a.png"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["a\0.png"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["link.webp"]}, "column images: .*lies outside"),
    (GOOD | {"images": ["linked_folder/outside.webp"]}, "column images: .*lies outside"),
    ([GOOD], "is not a JSON object"),
    (7, "is not a JSON object"),
]


@pytest.fixture
def folder(tmp_path):
    """A folder beside a picture that must not be read from it."""
    folder = tmp_path / "data"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.webp").write_bytes(RED_BYTES)
    (folder / "link.webp").symlink_to(tmp_path / "outside.webp")
    (folder / "linked_folder").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize(("record", "complaint"), BAD_RECORDS)
def test_bad_records(record, complaint, folder):
    path = write_lines(folder / "a.jsonl", GOOD, record, GOOD | {"chosen": "scarlet"})
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2.*{complaint}"):
        read_preferences(path, 8)
    pairs = read_preferences(path, 8, on_bad="skip")
    assert pairs.chosen == ["red", "scarlet"]
    assert len(pairs.skipped) == 1
    assert "line 2" in pairs.skipped[0]


def test_links_inside_of_the_folder_are_fine(folder):
    (folder / "folder" / "r.webp").write_bytes(RED_BYTES)
    (folder / "inner.webp").symlink_to(folder / "folder" / "r.webp")
    assert len(read_preferences(write_lines(folder / "a.jsonl", GOOD | {"images": ["inner.webp"]}), 8)) == 1


def test_a_cut_last_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:50])
    with pytest.raises(UserError, match="line 2: the file is cut off in its last line"):
        read_preferences(path, 8)
    assert len(read_preferences(path, 8, on_bad="skip").skipped) == 1


@pytest.mark.parametrize("line", [b"{nonsense}\n", b"\xff\xfe{}\n", b"[" * 100_000 + b"\n"])
def test_lines_that_are_no_json(line, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + json.dumps(GOOD).encode() + b"\n")
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_preferences(path, 8)


def test_rows_of_parquet_are_numbered_through(tmp_path):
    rows = [GOOD | {"images": [{"bytes": RED_BYTES, "path": None}]} for _ in range(1200)]
    rows[1100] = rows[1100] | {"chosen": None}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 1101, column chosen: None is no text"):
        read_preferences(tmp_path / "a.parquet", 8)
    assert len(read_preferences(tmp_path / "a.parquet", 8, on_bad="skip")) == 1199


def test_parquet_without_a_column_is_told_even_when_skipping(tmp_path):
    pq.write_table(pa.table({"question": ["?"], "chosen": ["a"], "rejected": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'prompt' \(it has question, chosen, rejected\); rename"):
        read_preferences(tmp_path / "a.parquet", 8, on_bad="skip")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_files_that_cannot_be_used(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(UserError, match="there is no such file"):
        read_preferences(path, 8)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no preference pair|damaged"):
        read_preferences(path, 8)
    with pytest.raises(UserError, match=r"ends in \.parquet or \.jsonl"):
        read_preferences(tmp_path / "a.csv", 8)
    with pytest.raises(UserError, match=r"ends in \.parquet or \.jsonl"):
        write_preferences(tmp_path / "a.csv", some_pairs())
    with pytest.raises(UserError, match='"error" or "skip"'):
        read_preferences(path, 8, on_bad="ignore")


def test_a_cut_parquet_file(tmp_path):
    write_preferences(tmp_path / "whole.parquet", some_pairs())
    data = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.parquet: damaged"):
        read_preferences(tmp_path / "a.parquet", 8)


def test_all_bad(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD | {"chosen": "blue"}, GOOD | {"chosen": "blue"})
    with pytest.raises(
        UserError, match=r"no preference pair.*all 2 records are bad, the first one: .*line 1"
    ):
        read_preferences(path, 8, on_bad="skip")


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("parquet", [1, "a", None]),
        ("parquet", [2**70, 1, 2]),
        ("jsonl", [b"x", b"", b""]),
        ("jsonl", [float("nan")] * 3),
    ],
)
def test_extras_that_a_file_cannot_hold(suffix, values, tmp_path):
    pairs = PreferenceSet(**{**vars(some_pairs()), "extras": {"odd": values}})
    with pytest.raises(UserError, match="cannot be written"):
        write_preferences(tmp_path / f"a.{suffix}", pairs)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_pictures_and_ties(tmp_path):
    blue = {"bytes": base64.b64encode(BLUE_BYTES).decode()}
    asked = {"prompt": "Draw something red.", "chosen": "", "rejected": ""}
    pairs = read_preferences(
        write_lines(
            tmp_path / "a.jsonl",
            asked | {"images": [RED_IMAGE, blue]},
            asked | {"images": [blue, RED_IMAGE], "tie": True},
            GOOD | {"tie": None},
        ),
        8,
    )
    assert pairs.image_index_P.tolist() == [0, 1, 0]
    assert pairs.rejected_image_index_P.tolist() == [1, 0, 0]
    assert pairs.tie_P.tolist() == [False, True, False]
    assert pairs.extras == {}
    taken = pairs.take([1])
    assert (taken.rejected_image_index_P.tolist(), taken.tie_P.tolist()) == ([0], [True])


def test_without_such_columns_there_are_neither(tmp_path):
    pairs = read_preferences(write_lines(tmp_path / "a.jsonl", GOOD), 8)
    assert pairs.rejected_image_index_P is None
    assert pairs.tie_P is None


def test_take():
    taken = some_pairs().take(np.array([2, 0]))
    assert (taken.chosen, taken.extras["rater"]) == (["bleu", "blue"], ["bo", "ann"])
    assert taken.image_index_P.tolist() == [1, 1]
    assert len(taken.images_NxHxWxC) == 2


def test_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="3 pairs but 1 values of chosen"):
        PreferenceSet(**{**vars(some_pairs()), "chosen": ["one"]})
    with pytest.raises(ValueError, match="may not be called image"):
        PreferenceSet(**{**vars(some_pairs()), "extras": {"image": [1, 2, 3]}})

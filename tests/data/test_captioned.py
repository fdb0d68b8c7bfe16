"""Sets of pictures and captions of one's own: layouts, several captions a picture, parts, and damage."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.captioned import part_of, read_pictures
from mmrlhf_jax.errors import UserError
from tests.picture_files import COLOURS, colour_of, encoded, in_json, put, write_lines

ROWS = [("red.webp", "a red square"), ("blue.webp", "a blue one"), ("red.webp", "red all over")]


def folder_of(tmp_path: Path, rows=ROWS, names=("image", "caption")) -> Path:
    put(tmp_path / "images", "red", "blue")
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return tmp_path


def found(own) -> dict[str, list[str]]:
    """Colour of each picture and its captions."""
    return {
        colour_of(image): list(caption.texts)
        for image, caption in zip(own.images_NxHxWxC, own.captions, strict=True)
    }


WANTED = {"red": ["a red square", "red all over"], "blue": ["a blue one"]}


def test_a_folder_with_images_and_a_table(tmp_path: Path):
    own = read_pictures(folder_of(tmp_path), 8)
    assert found(own) == WANTED and own.skipped == []
    assert own.images_NxHxWxC.shape == (2, 8, 8, 3)
    assert own.digests == tuple(hashlib.sha256(encoded(name)).digest() for name in ("red", "blue"))


def test_paths_may_name_the_folder_and_columns_have_other_names(tmp_path: Path):
    rows = [(f"images/{name}", text) for name, text in ROWS]
    assert found(read_pictures(folder_of(tmp_path, rows, ("file_name", "text")), 8)) == WANTED
    assert found(read_pictures(tmp_path / "captions.csv", 8)) == WANTED


def test_json_lines_beside_their_pictures(tmp_path: Path):
    put(tmp_path, "red")
    path = write_lines(
        tmp_path / "set.jsonl",
        {"image": "red.webp", "captions": ["a red square", "red all over"], "keywords": ["crimson"]},
        {"image": in_json("blue"), "caption": "a  blue\none"},
    )
    own = read_pictures(path, 8)
    assert found(own) == WANTED
    assert [caption.keywords for caption in own.captions] == [("crimson",), ()]


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_with_bytes_or_structs(tmp_path: Path, struct: bool):
    colours = [Path(name).stem for name, _ in ROWS]
    images = [{"bytes": encoded(c), "path": None} if struct else encoded(c) for c in colours]
    table = pa.table({"image": images, "name": [text for _, text in ROWS]})
    pq.write_table(table, tmp_path / "set.parquet")
    assert found(read_pictures(tmp_path / "set.parquet", 8)) == WANTED
    assert found(read_pictures(tmp_path, 8)) == WANTED  # the folder of it


def test_pictures_are_fitted_into_the_size(tmp_path: Path):
    own = read_pictures(folder_of(tmp_path), 12)
    assert own.images_NxHxWxC.shape == (2, 12, 12, 3)
    np.testing.assert_array_equal(own.images_NxHxWxC[1, 6, 6], COLOURS["blue"])


BAD = [
    (("none.webp", "a red square"), "row 2.*there is no picture 'none.webp'"),
    (("../secret.webp", "a red square"), "row 2.*outside of"),
    (("broken.webp", "a red square"), "row 2.*not a readable picture"),
    (("blue.webp", " "), "row 2, column caption: the caption is empty"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_row_is_named_and_skipped_where_that_is_wanted(tmp_path: Path, bad, message: str):
    folder = folder_of(tmp_path, [ROWS[0], bad, *ROWS[1:]])
    (tmp_path / "images" / "broken.webp").write_bytes(b"no picture")
    with pytest.raises(UserError, match=message):
        read_pictures(folder, 8)
    own = read_pictures(folder, 8, on_bad="skip")
    assert found(own) == WANTED
    assert len(own.skipped) == 1 and "captions.csv, row 2" in own.skipped[0]


def test_what_is_no_set_of_pictures_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such folder"):
        read_pictures(tmp_path / "nowhere", 8)
    with pytest.raises(UserError, match="there is no file"):
        read_pictures(tmp_path, 8)
    put(tmp_path / "images", "red")
    with pytest.raises(UserError, match=r"no captions\.csv beside images/"):
        read_pictures(tmp_path, 8)
    with pytest.raises(UserError, match="no column 'caption'"):
        read_pictures(folder_of(tmp_path, names=("image", "label")), 8)


def test_the_checksum_changes_with_captions_and_pictures(tmp_path: Path):
    checksums = {
        read_pictures(folder_of(tmp_path / str(i), rows), 8).checksum()
        for i, rows in enumerate([ROWS, ROWS[:2], ROWS[1:], ROWS[::-1]])
    }
    assert len(checksums) == 4
    assert read_pictures(folder_of(tmp_path / "again"), 8).checksum() in checksums


def test_parts_follow_from_the_picture_alone_in_the_shares_that_are_wanted():
    digests = [hashlib.sha256(str(i).encode()).digest() for i in range(4000)]
    parts = [part_of(digest, feedback=0.3, held_out=0.1) for digest in digests]
    assert 1100 < parts.count("feedback") < 1300 and 340 < parts.count("held_out") < 460
    # with more feedback pictures what was held out stays so
    more = [part_of(digest, feedback=0.6, held_out=0.1) for digest in digests]
    assert [part == "held_out" for part in parts] == [part == "held_out" for part in more]
    assert all(b == "feedback" for a, b in zip(parts, more, strict=True) if a == "feedback")
    assert part_of(bytes(32), feedback=0.0, held_out=0.0) == "train"
    assert part_of(b"\xff" * 32, feedback=0.5, held_out=0.4) == "train"

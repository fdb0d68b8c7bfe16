"""The one entry to all public sets."""

from typing import get_args

import pytest

from mmrlhf_jax.data import readers
from mmrlhf_jax.data.readers import SETS, read_set
from mmrlhf_jax.data.set_names import SetName
from mmrlhf_jax.errors import UserError
from tests.picture_files import colours, encoded, put, write_lines

ROW = {"question": "What?", "chosen": "Red.", "rejected": "Blue."}


def test_the_command_line_knows_all_sets():
    assert get_args(SetName) == tuple(SETS)


def test_several_shards_share_their_pictures(tmp_path):
    put(tmp_path, "red", "blue")
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "train-0.jsonl", ROW | {"image": "red.webp"}, ROW | {"image": "blue.webp"})
    write_lines(folder / "train-1.jsonl", ROW | {"image": "red.webp"})
    write_lines(folder / "test-0.jsonl", ROW | {"image": "red.webp"})
    judged = read_set("rlaif-v", folder, 8, image_root=tmp_path)
    assert colours(judged.images_NxHxWxC, judged.image_index_P) == ["red", "blue", "red"]
    assert len(judged.images_NxHxWxC) == 2
    assert len(read_set("rlaif-v", folder, 8, image_root=tmp_path, split="test")) == 1


def test_the_root_of_a_folder_is_the_folder(tmp_path):
    put(tmp_path / "pictures", "red")
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "train.jsonl", ROW | {"image": "pictures/red.webp"})
    assert len(read_set("rlaif-v", tmp_path, 8)) == 1
    with pytest.raises(UserError, match=r"there is no picture 'pictures/red.webp'"):
        read_set("rlaif-v", tmp_path / "data" / "train.jsonl", 8)


def test_links_out_of_the_root_are_refused(tmp_path):
    put(tmp_path / "private", "red")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.webp").symlink_to(tmp_path / "private" / "red.webp")
    path = write_lines(tmp_path / "a.jsonl", ROW | {"image": "link.webp"})
    with pytest.raises(UserError, match="lies outside of"):
        read_set("rlaif-v", path, 8, image_root=root)


def test_addresses_are_fetched_only_when_asked_for(tmp_path, monkeypatch):
    asked = []

    class FakeFetcher:
        def __call__(self, url):
            asked.append(url)
            if "private" in url:
                raise UserError(f"{url!r} leads to ['10.0.0.1'], which is not public: not fetched")
            return encoded("green")

    monkeypatch.setattr(readers, "Fetcher", FakeFetcher)
    url, private = "https://example.org/a.png", "http://private.example/a.png"
    path = write_lines(tmp_path / "a.jsonl", ROW | {"image": url}, ROW | {"image": private})
    with pytest.raises(UserError, match=r"line 1, picture column image: .* is a URL"):
        read_set("rlaif-v", path, 8)
    assert asked == []
    judged = read_set("rlaif-v", path, 8, on_bad="skip", allow_urls=True)
    assert colours(judged.images_NxHxWxC, judged.image_index_P) == ["green"]
    assert asked == [url, private]
    assert "line 2, picture column image: 'http://private.example/a.png' leads to" in judged.skipped[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "rlhf"}, "there is no set 'rlhf': give one of rlhf-v, "),
        ({"path": "none.parquet"}, r"none\.parquet: there is no such file"),
        ({"path": "none.xlsx"}, r"none\.xlsx: such a file ends in"),
        ({"image_root": "none"}, "none: there is no such folder of pictures"),
        ({"on_bad": "ignore"}, "on_bad is 'ignore'"),
        ({}, "there is no column 'question'"),
    ],
)
def test_what_cannot_be_read(arguments, complaint, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "?"})
    with pytest.raises(UserError, match=complaint):
        read_set(**{"name": "rlaif-v", "path": path, "image_size": 8} | arguments)

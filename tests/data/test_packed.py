"""A packed set has the pictures and captions of its files, and is made anew when they change."""

from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.data import packed
from mmrlhf_jax.data.captioned import read_pictures
from mmrlhf_jax.data.packed import open_packed
from mmrlhf_jax.errors import UserError
from tests.shapes import write_shapes


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "shapes", 12, size=16)
    return tmp_path / "shapes"


def test_it_holds_what_the_files_hold(shapes: Path, tmp_path: Path):
    whole, pack = read_pictures(shapes, 16), open_packed(tmp_path / "packed", shapes, 16)
    assert pack.captions == whole.captions and pack.digests == whole.digests
    assert pack.checksum() == whole.checksum()
    np.testing.assert_array_equal(pack.take(range(12)).images_NxHxWxC, whole.images_NxHxWxC)
    np.testing.assert_array_equal(pack.take([7, 3]).images_NxHxWxC, whole.images_NxHxWxC[[7, 3]])
    assert pack.take([7]).captions == whole.captions[7:8]
    assert pack.image(3).shape == (16, 16, 3)
    assert open_packed(tmp_path / "packed", shapes, 8).image(3).shape == (8, 8, 3)  # decoded when asked for


def test_it_is_made_once_and_again_when_a_file_changes(shapes: Path, tmp_path: Path, monkeypatch):
    made = []
    pack = packed._pack

    def counted(folder, *others):
        made.append(folder)
        pack(folder, *others)

    monkeypatch.setattr(packed, "_pack", counted)
    folder = tmp_path / "packed"
    before = open_packed(folder, shapes, 16).checksum()
    assert open_packed(folder, shapes, 16).checksum() == before and len(made) == 1
    with (shapes / "captions.csv").open("a") as file:
        file.write("00003.png,one more\n")
    again = open_packed(folder, shapes, 16)
    assert len(made) == 2 and again.captions[3].texts[2] == "one more" and again.checksum() != before
    (folder / "manifest.json").write_text("{")
    assert open_packed(folder, shapes, 16).checksum() == again.checksum() and len(made) == 3
    assert not list(tmp_path.glob(".*.tmp"))


def test_bad_records_are_told_of_and_leave_no_half_made_folder(shapes: Path, tmp_path: Path):
    (shapes / "images" / "00005.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="row 11"):
        open_packed(tmp_path / "packed", shapes, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shapes"]
    pack = open_packed(tmp_path / "packed", shapes, 16, on_bad="skip")
    assert len(pack.captions) == 11 and len(pack.skipped) == 2  # both captions of the picture
    assert open_packed(tmp_path / "packed", shapes, 16, on_bad="skip").skipped == pack.skipped

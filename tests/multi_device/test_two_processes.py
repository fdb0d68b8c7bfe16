"""Two processes with two devices each: one decides and writes, both compute, read and stop alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.multi_device.one_of_two import WEIGHT

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def said(root: Path, user_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the processes found; in front what they printed."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "scripts/launch_local.py", "2x2", "tests/multi_device/one_of_two.py", str(folder)],
        cwd=root,
        env=user_environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    each = [json.loads((folder / f"{index}.json").read_text(encoding="utf-8")) for index in range(2)]
    return [done.stdout, *each, folder]


def test_they_are_one_and_the_first_one_prints(said):
    printed, first, second, _ = said
    assert first["count"] == second["count"] == 2 and first["devices"] == second["devices"] == [4, 2]
    assert printed.count("said once") == 1


def test_the_first_one_decides_for_both(said):
    _, first, second, _ = said
    assert first["of_first"] == second["of_first"] == {"index": 0, "text": "ü" * 100}
    assert first["failure"] == "UserError: the disk is full"
    assert second["failure"] == "ToldError: the disk is full"


def test_a_mesh_has_the_devices_of_both(said):
    for one in said[1:3]:
        assert "2 processes would all do the same" in one["no_mesh"]
        assert "2 of the 4 devices of 2 processes" in one["part_of_it"]


def test_a_checkpoint_is_saved_and_restored_by_both(said):
    _, first, second, folder = said
    for one in (first["checkpoints"], second["checkpoints"]):
        assert one["restored"] == one["batches"] == 1  # the second step is damaged
        np.testing.assert_array_equal(one["kernel"], WEIGHT)
        assert "fsdp" in one["cut"]
        assert one["own_shards"] == 2
        assert "already holds step 1" in one["repeated"] and one["second"] == 5.0
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["1", "1.manifest", "2", "2.manifest", "damaged_2_0", "damaged_2_0.manifest"]


def test_each_reads_its_own_rows_of_a_batch(said):
    _, first, second, _ = said
    assert first["rows"]["own_rows"] == [0, 1, 2, 3] and second["rows"]["own_rows"] == [4, 5, 6, 7]
    assert first["rows"]["batches"] == second["rows"]["batches"]
    assert sorted(np.concatenate(first["rows"]["batches"])) == list(range(16))
    assert sorted(first["rows"]["read"] + second["rows"]["read"]) == list(range(16))
    assert first["rows"]["same"] and second["rows"]["same"]


def test_both_stop_after_the_same_step(said):
    _, first, second, _ = said
    assert first["stopping"] == second["stopping"] == [False, False, True, True]


def test_a_stage_is_done_for_both_when_the_first_one_has_written(said):
    for one in said[1:3]:
        assert one["done"] == [False, True] and one["result"] == 0
        assert "made with another config" in one["another"]
    assert not (said[3] / "stage" / "lock.json").exists()

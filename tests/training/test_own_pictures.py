"""The whole pipeline on a folder of pictures of one's own, a broken one among them, streamed from disk."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.data.captioned import read_pictures
from mmrlhf_jax.data.preferences import read_preferences
from tests.shapes import write_shapes

pytest.importorskip("grain", reason="the extra data is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(root: Path, user_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the pipeline on 130 shapes that lie beside it."""
    folder = tmp_path_factory.mktemp("own")
    write_shapes(folder / "shapes", 130)
    (folder / "shapes" / "images" / "00007.png").write_bytes(b"broken")
    command = [
        sys.executable, "experiments/pipeline.py", "--preset", "smoke", "--run", str(folder / "run"),
        "--pictures", str(folder / "shapes"), "--image-size", "32", "--on-bad", "skip",
        "--split.feedback", "0.3", "--stages.pretrain.stream", "--stages.sft.stream", "--stages.ppo.stream",
        "--stages.reward.transfer", "frozen", "--stages.reward.features", str(folder / "features"),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=root, env=user_environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "129 pictures" in done.stdout and "2 records left out" in done.stdout
    assert "captions.csv, row 15, picture column image" in done.stdout
    return folder


def test_the_summary_says_what_was_measured(run: Path):
    summary = json.loads((run / "run" / "summary.json").read_text())
    assert summary["headline"] == "held_out" and list(summary["splits"]) == ["held_out"]
    assert "against the reference captions" in summary["gold_rubric"]
    assert 0 < summary["gold"]["sft"] < 1 and summary["reward_model"]["measured_against"] == "rubric"
    report = (run / "run" / "report.html").read_text()
    assert "Gold rubric, held-out pictures, sampled" in report and "against the reference captions" in report


def test_no_part_has_a_picture_of_another(run: Path):
    own = read_pictures(run / "shapes", 32, on_bad="skip")
    rows = {part: own.rows(part, feedback=0.3, held_out=0.15) for part in ("train", "feedback", "held_out")}
    assert sum(map(len, rows.values())) == 129
    judged = read_preferences(run / "run" / "seed_0" / "collect" / "preferences.parquet", 32)
    held_out = read_preferences(run / "run" / "seed_0" / "collect" / "held_out.parquet", 32)
    for pictures, part in ((judged, "feedback"), (held_out, "held_out")):
        allowed = {image.tobytes() for image in own.take(rows[part]).images_NxHxWxC}
        assert {image.tobytes() for image in pictures.images_NxHxWxC} <= allowed


def test_what_was_seen_is_on_disk(run: Path):
    assert json.loads((run / "features" / "manifest.json").read_text())["made_of"]["model"]
    assert np.load(run / "features" / "embed_BxE-00000.npy", mmap_mode="r").shape[1] == 4  # views
    assert (run / "run" / "pictures" / "pictures.bin").exists()
    assert list((run / "run" / "seed_0" / "ppo" / "features").glob("policy_NxPxD-*.npy"))

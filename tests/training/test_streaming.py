"""Steps on pictures from disk are those on pictures in memory, and go on exactly where a run was stopped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.stream import BatchStream
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training import contrastive
from mmrlhf_jax.training.config import PPOConfig, PretrainConfig
from mmrlhf_jax.training.networks import look, no_views
from mmrlhf_jax.training.picture_source import PictureSource, picture_source
from mmrlhf_jax.training.pictures import order_key
from mmrlhf_jax.training.streamed_views import look_on_disk, view_stream
from tests.shapes import write_shapes
from tests.tiny_networks import NETWORKS, make_frozen

pytest.importorskip("grain", reason="the extra data is not installed")
pytestmark = pytest.mark.medium

TOWER = TransformerConfig(width=16, layers=1, heads=2, mlp_width=16)
CLIP = CLIPConfig(VisionConfig(32, 16, TOWER), TextConfig(280, 12, TOWER), 8)
DECODER = DecoderConfig(vocab_size=280, width=16, layers=1, heads=2, kv_heads=2, mlp_width=16)
STEPS = 5


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming") / "shapes"
    write_shapes(folder, 60)
    return folder


def pretraining(run: Path, shapes: Path, **fields: Any) -> PretrainConfig:
    return PretrainConfig(
        run=run, pictures=shapes, clip=CLIP, language_model=DECODER, steps=STEPS, batch=12, neighbours=3,
        log_every=1, save_every=2, **fields,
    )  # fmt: skip


def losses(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics, without their times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def stop_at(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Batches up to that one come, then the process dies."""
    at = BatchStream.at

    def dying(self, asked: int):
        if asked >= position:
            raise KeyboardInterrupt
        return at(self, asked)

    monkeypatch.setattr(BatchStream, "at", dying)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> dict[str, Path]:
    """Pretraining in memory, from disk, and from disk with an interruption."""
    found = {}
    for name in ("memory", "disk", "stopped"):
        run = found[name] = tmp_path_factory.mktemp(name)
        config = pretraining(run, shapes, stream=name != "memory")
        if name == "stopped":
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, 3)
                with pytest.raises(KeyboardInterrupt):
                    contrastive.run(config)
        contrastive.run(dataclasses.replace(config, resume=True))
    return found


def test_from_disk_the_steps_are_those_in_memory(runs: dict[str, Path]):
    memory, disk = (losses(runs[name] / "seed_0" / "pretrain") for name in ("memory", "disk"))
    assert len(memory) == STEPS
    for one, other in zip(memory, disk, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


def test_stopped_and_resumed_it_is_the_same_run_bit_for_bit(runs: dict[str, Path]):
    alone, troubled = (runs[name] / "seed_0" / "pretrain" for name in ("disk", "stopped"))
    assert losses(alone) == losses(troubled)
    models = [sorted((folder / "model").rglob("*.safetensors")) for folder in (alone, troubled)]
    weights = [[path.read_bytes() for path in paths] for paths in models]
    assert weights[0] and weights[0] == weights[1]


def test_later_stages_find_the_packed_pictures(runs: dict[str, Path]):
    assert (runs["disk"] / "pictures" / "manifest.json").exists()
    assert not (runs["memory"] / "pictures").exists()
    sources = [picture_source(PPOConfig(run=runs[name])) for name in ("memory", "disk")]
    feedback = [source.load("feedback") for source in sources]
    np.testing.assert_array_equal(feedback[0].images_NxHxWxC, feedback[1].images_NxHxWxC)
    assert feedback[0].captions == feedback[1].captions == sources[1].captions("feedback")


def test_a_run_on_changed_pictures_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shapes(tmp_path / "shapes", 40)
    config = pretraining(tmp_path / "run", tmp_path / "shapes", stream=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            contrastive.run(config)
    table = tmp_path / "shapes" / "captions.csv"
    table.write_text(table.read_text().replace("00001.png,a ", "00001.png,one "))
    with pytest.raises(UserError, match="started with other data"):
        contrastive.run(dataclasses.replace(config, resume=True))


def test_a_dry_run_packs_nothing(tmp_path: Path, shapes: Path, capsys):
    contrastive.run(pretraining(tmp_path / "run", shapes, stream=True, dry_run=True))
    assert not (tmp_path / "run").exists()
    assert "uint8[" in capsys.readouterr().out


def test_the_bundled_pictures_are_not_streamed(tmp_path: Path):
    config = dataclasses.replace(pretraining(tmp_path, Path("none"), stream=True), pictures=None)
    with pytest.raises(UserError, match="add --pictures PATH"):
        contrastive.run(config)


def test_views_on_disk_are_those_in_memory_and_are_drawn_alike(tmp_path: Path, shapes: Path):
    source = PictureSource(shapes, 64, store=tmp_path / "packed")
    frozen = make_frozen()._replace(views=no_views())
    wanted = look(NETWORKS, frozen, source.load("feedback").images_NxHxWxC)
    views = look_on_disk(NETWORKS, frozen, source, tmp_path / "features")
    jax.tree.map(lambda rows, leaf: np.testing.assert_array_equal(rows[:], leaf), views, wanted)

    config = PPOConfig(steps=3, batch=8, group=2, stream=True)
    stream = view_stream(views, source, config, order_key(jax.random.key(3))).batches
    for position in range(3):
        rows_B = batch_indices(
            order_key(jax.random.key(3)), jnp.asarray(position), batch=4, size=len(wanted.clip_NxD)
        )
        drawn = jax.tree.map(lambda leaf, rows_B=rows_B: leaf[rows_B], wanted)
        jax.tree.map(np.testing.assert_array_equal, stream.at(position), drawn)
    stream.close()


def test_several_policies_are_not_streamed():
    with pytest.raises(UserError, match="leave --sweep out, --seeds and"):
        PPOConfig(stream=True, seeds=2)

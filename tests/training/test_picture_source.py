"""Where stages take their pictures from: the run's own after pretraining, in parts that share nothing."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.training.config import AugmentConfig, CollectConfig, PretrainConfig, SFTConfig, SplitConfig
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import draw, fits, plain, to_device, view
from mmrlhf_jax.training.presets import PRESETS
from tests.shapes import write_shapes

PLAIN = AugmentConfig(shift=0.0)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "shapes"
    write_shapes(folder, 60)
    return folder


def pretrained(run: Path, **fields) -> None:
    """Leaves what `pretrain` leaves of its config."""
    config = PretrainConfig(run=run, **fields)
    StageFolder.open(config.folder("pretrain"), config, resume=False).close()


def test_without_a_word_of_others_the_bundled_pictures_are_taken(tmp_path: Path):
    source = picture_source(SFTConfig(run=tmp_path, max_pictures=7))
    assert source.held_out == ("combinations", "concepts")
    whole = load_emoji("train")
    rows = np.linspace(0, len(whole) - 1, 7).astype(int)
    assert source.load("train").names == whole.take(rows).names
    assert len(source.all_captions()) == 7
    assert picture_source(PretrainConfig(image_size=32, max_pictures=3)).load("train").images_NxHxWxC.shape[
        1:
    ] == (32, 32, 3)


def test_later_stages_take_pictures_size_and_parts_from_pretraining(tmp_path: Path, shapes: Path):
    split = SplitConfig(feedback=0.4, held_out=0.2)
    pretrained(tmp_path, pictures=shapes, image_size=16, split=split)
    source = picture_source(CollectConfig(run=tmp_path))
    parts = {part: source.load(part) for part in ("train", "feedback", *source.held_out)}
    assert list(parts) == ["train", "feedback", "held_out"]
    assert sum(map(len, parts.values())) == 60 and min(map(len, parts.values())) >= 5
    assert all(part.images_NxHxWxC.shape[1:] == (16, 16, 3) for part in parts.values())
    assert len(parts["feedback"]) > len(parts["held_out"])
    assert all(len(caption.texts) == 2 for caption in source.all_captions())
    again = picture_source(PretrainConfig(pictures=shapes, image_size=16, split=split)).load("held_out")
    np.testing.assert_array_equal(again.images_NxHxWxC, parts["held_out"].images_NxHxWxC)


def test_a_run_from_before_there_were_such_pictures_keeps_the_bundled_ones(tmp_path: Path):
    folder = tmp_path / "seed_0" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("clip: {vision: {image_size: 64}}\nsteps: 3\n")
    assert picture_source(SFTConfig(run=tmp_path)).path is None


def test_an_empty_part_says_which_share_to_raise(shapes: Path):
    config = PretrainConfig(pictures=shapes, split=SplitConfig(held_out=0.0))
    with pytest.raises(UserError, match=r"part held_out.*--split\.held-out"):
        picture_source(config).load("held_out")
    with pytest.raises(UserError, match="leave pictures to train on"):
        SplitConfig(feedback=0.6, held_out=0.4)


def test_the_size_of_the_pictures_is_that_of_the_tower():
    assert PretrainConfig(image_size=32).sized().vision.image_size == 32
    assert PretrainConfig().sized() == PretrainConfig().clip
    with pytest.raises(UserError, match="patch_size"):
        PretrainConfig(image_size=8)
    stages = PRESETS["smoke"].on_pictures(Path("mine"), 32, SplitConfig(feedback=0.3), "skip")
    assert stages.pretrain.image_size == 32 and stages.pretrain.split.feedback == 0.3
    assert {(stage.pictures, stage.on_bad) for _, stage in stages.items()} == {(Path("mine"), "skip")}


CAPTIONS = [Caption("a b", others=("b c", "a c")), Caption("b c"), Caption("c", others=("c b",))]
SET = CaptionSet(np.zeros((3, 16, 16, 3), np.uint8), tuple(CAPTIONS))
TOKENIZER = CaptionTokenizer.train([text for caption in CAPTIONS for text in caption.texts], 300)


def test_each_of_a_pictures_captions_comes_as_often_as_another():
    pictures = to_device(SET, TOKENIZER, 6)
    see = jax.jit(lambda step: view(pictures, jax.random.key(1), step, PLAIN))
    seen = [see(jnp.asarray(step)) for step in range(300)]
    texts = np.array([TOKENIZER.decode_batch(np.asarray(batch.ids_BxT)) for batch in seen])
    for column, caption in enumerate(CAPTIONS):
        counts = [int(np.sum(texts[:, column] == text)) for text in caption.texts]
        assert sum(counts) == 300
        assert min(counts) > 0.75 * 300 / len(counts)
    assert (np.asarray(seen[0].mask_BxT) == (np.asarray(seen[0].ids_BxT) != PAD_ID)).all()


def test_a_caption_fits_all_pictures_that_have_it():
    pictures = to_device(SET, TOKENIZER, 6)
    assert TOKENIZER.decode_batch(np.asarray(plain(pictures).ids_BxT)) == ["a b", "b c", "c"]
    # "b c" is the name of the second picture and another caption of the first
    wanted = [[True, True, False], [False, True, False], [False, False, True]]
    assert np.asarray(fits(pictures, plain(pictures).name_B)).tolist() == wanted


def test_a_step_walks_through_the_set():
    pictures = to_device(SET, TOKENIZER, 6)
    rows = [draw(pictures, jax.random.key(0), jnp.asarray(step), batch=1)[0] for step in range(6)]
    flat = np.ravel(rows)
    assert sorted(flat[:3]) == sorted(flat[3:]) == [0, 1, 2]
    drawn = draw(pictures, jax.random.key(0), jnp.asarray(2), batch=1)[1]
    np.testing.assert_array_equal(drawn.ids_NxAxT[0], pictures.ids_NxAxT[flat[2]])


def test_fields_of_a_config_are_what_the_flags_say():
    config = dataclasses.replace(SFTConfig(), pictures=Path("mine"), on_bad="skip")
    assert (config.pictures, config.on_bad) == (Path("mine"), "skip")
    with pytest.raises(UserError, match="on_bad"):
        SFTConfig(on_bad="never")  # type: ignore[arg-type]

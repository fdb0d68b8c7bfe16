"""Files of simulated judgements: what `collect` leaves can be read and learned from."""

import numpy as np
import pytest

from mmrlhf_jax.data.captions import Caption, CaptionSet
from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.judgements import read_judgements
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.unpaired import LabelledSet
from mmrlhf_jax.feedback.raters import Judgement, simulated_panel
from mmrlhf_jax.feedback.rubric import Aspects, Rubric
from mmrlhf_jax.feedback.simulation import examination_curve
from mmrlhf_jax.training.collect import Pairs, as_preferences
from mmrlhf_jax.training.config.loss import ClickLossConfig, LossConfig
from mmrlhf_jax.training.objectives import objective_of
from mmrlhf_jax.training.pictures import subjects_of
from mmrlhf_jax.training.verdicts import distinct, write_verdicts

NAMES = [
    "red apple",
    "green apple",
    "hot dog",
    "cat face",
    "dog face",
    "water pistol",
    "red hat",
    "green hat",
]
ABOUT = [Caption(name, (), "objects", "thing") for name in NAMES * 5]
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
CAPTIONS = CaptionSet(PICTURES, ABOUT)
RUBRIC = Rubric.from_captions(ABOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("verdicts")
    index = np.repeat(np.arange(40), 8)
    collected = distinct(np.tile(index, 2), NAMES * 40 + NAMES * 40)
    assert len(collected.texts) == 320  # each once
    counts = write_verdicts(
        path, ("ratings", "labels", "clicks"), CAPTIONS, collected, RUBRIC, simulated_panel(3), seed=0
    )
    assert set(counts) == {"ratings", "labels", "clicks"}
    return path


def test_ratings_are_of_every_aspect(folder):
    ratings = read_judgements(folder / "ratings.parquet", 4)
    assert isinstance(ratings, RatingSet) and len(ratings) == 320
    assert tuple(ratings.ratings) == Aspects._fields and set(ratings.levels.values()) == {(1.0, 5.0)}
    own = [ABOUT[i].name == text for i, text in zip(_original(ratings), ratings.answers, strict=True)]
    accurate = ratings.ratings["accurate"]
    assert accurate[own].mean() > 4.5 > 2.5 > accurate[np.logical_not(own)].mean()


def test_thumbs_go_up_for_the_own_name(folder):
    labelled = read_judgements(folder / "labels.parquet", 4)
    assert isinstance(labelled, LabelledSet) and set(labelled.extras["rater"]) <= {
        f"simulated-{i}" for i in range(3)
    }
    own = np.array([ABOUT[i].name == t for i, t in zip(_original(labelled), labelled.answers, strict=True)])
    assert labelled.label_R[own].mean() > 0.95 > 0.5 > labelled.label_R[~own].mean()


def test_both_ways_find_the_planted_examination_in_the_log(folder):
    log = read_judgements(folder / "clicks.parquet", 4)
    assert isinstance(log, ClickLog) and len(log) == 40 * 12

    def error(curve):
        return np.abs(curve - examination_curve(5)).mean()

    uncorrected = log.clicked_LxK.mean(axis=0) / log.clicked_LxK[:, 0].mean()
    found = objective_of(log, LossConfig()).examination
    assert error(found) < 0.15 and error(found) < 0.7 * error(uncorrected)
    config = LossConfig(clicks=ClickLossConfig(examination="random_order"))
    assert len(objective_of(log, config).examination) == 5
    assert 0.1 < np.mean(log.extras["random_order"]) < 0.3


def test_what_is_not_asked_for_is_not_written(tmp_path):
    collected = distinct(np.zeros(2, int), ["red apple", "hot dog"])
    assert write_verdicts(tmp_path, (), CAPTIONS, collected, RUBRIC, simulated_panel(1), seed=0) == {}
    write_verdicts(tmp_path, ("labels",), CAPTIONS, collected, RUBRIC, simulated_panel(1), seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]


def test_ties_are_kept_on_demand():
    pairs = Pairs(np.array([3, 1]), ["a", "b"], ["c", "d"])
    judgements = [Judgement(0, "x", "a", "b"), Judgement(1, "x", "b", "tie"), Judgement(1, "y", "a", "a")]
    kept = as_preferences(subjects_of(CAPTIONS), pairs, judgements, keep_ties=True)
    assert kept.tie_P.tolist() == [False, True, False] and kept.image_index_P.tolist() == [3, 1, 1]
    assert (kept.chosen, kept.rejected) == (["c", "b", "b"], ["a", "d", "d"])
    decided = as_preferences(subjects_of(CAPTIONS), pairs, judgements, keep_ties=False)
    assert decided.tie_P is None and decided.chosen == ["c", "b"]


def _original(judged) -> list[int]:
    """The number of each record's picture among PICTURES."""
    number = {picture.tobytes(): i for i, picture in enumerate(PICTURES)}
    return [number[judged.images_NxHxWxC[i].tobytes()] for i in judged.image_index_R]

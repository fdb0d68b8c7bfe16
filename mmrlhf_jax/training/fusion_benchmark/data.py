"""The examples of every task, on the device, each leaf with the seeds in front."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.fusion_pictures import PlainFeatures, swap_names
from mmrlhf_jax.data.fusion_tasks import Answer, FusionExamples, draw_examples, find_task
from mmrlhf_jax.data.neighbours import nearest_names
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.tokens import PAD_ID
from mmrlhf_jax.encoders.clip import unit_length
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.feedback.raters import judge_pairs, simulated_panel
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.training.collect import Pairs, as_preferences
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.contrastive import load_clip
from mmrlhf_jax.training.fusion_benchmark.config import SYNTHETIC_TASKS, FusionBenchmarkConfig
from mmrlhf_jax.training.picture_source import PictureSource
from mmrlhf_jax.training.pictures import subjects_of

PLAIN_SIZE = 48  # plain features of each modality
PAIRS_PER_PICTURE = 5  # of the small preference set that is made where no run is given
HARD_NEGATIVES = 3  # wrong names of each picture
NEIGHBOURS = 8  # its captions are names that read most like the picture's own
OWN_NAME = 0.4  # how often the first caption of a pair is the picture's own name


class TaskData(NamedTuple):
    """One task.

    Attributes:
      train, test: leaves (K, N, ...), a set for each seed.
      complete: the test with every modality there, where that is another set; else None.
    """

    train: FusionExamples
    test: FusionExamples
    complete: FusionExamples | None = None


class Features(Protocol):
    """What turns pictures and texts into frozen features, float32 (N, D)."""

    def pictures(self, images_NxHxWxC: np.ndarray) -> np.ndarray: ...

    def texts(self, texts: Sequence[str]) -> np.ndarray: ...


def load_task(name: str, config: FusionBenchmarkConfig) -> TaskData:
    """The examples of the task called `name`.

    On the synthetic tasks every seed has data of its own, the same for all methods. The pictures are the same
    for all seeds, which then differ in their start and their batches.
    """
    trial = config.trial
    if name in SYNTHETIC_TASKS:
        task = find_task(name)

        def draw(count: int, test: bool, complete: bool = False) -> FusionExamples:
            each = [
                draw_examples(task, seed, count, test=test, complete=complete) for seed in range(trial.seeds)
            ]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

        return TaskData(
            draw(trial.train_rows, False)._replace(honest_N=None),  # no method is told
            draw(trial.test_rows, True),
            draw(trial.test_rows, True, True) if task.absent else None,
        )
    parts = _emoji(config) if name == "emoji" else _preferences(config)
    features = _features(config, _pictures(config, "train"))
    train, test = (
        _comparisons(part, features, rows, trial.seeds)
        for part, rows in zip(parts, (trial.train_rows, trial.test_rows), strict=True)
    )
    return TaskData(train, test)


def known_answer(name: str) -> Answer | None:
    """What can be known of a task beforehand; None for judgements of raters."""
    if name in SYNTHETIC_TASKS:
        return find_task(name).answer
    # A name that is not the picture's own is wrong, and each stands as often in the right as in the wrong.
    return Answer(bayes=1.0, image=0.5, text=0.5, both=1.0) if name == "emoji" else None


def _emoji(config: FusionBenchmarkConfig) -> list[PreferenceSet]:
    """Each picture's own name against hard negatives of the same subgroup: train, held-out combinations."""
    sets = []
    for split in ("train", "combinations"):
        captions = _pictures(config, split)
        rows = np.concatenate([swap_names(captions.captions, seed) for seed in range(HARD_NEGATIVES)])
        index_P = np.tile(np.arange(len(captions), dtype=np.int32), HARD_NEGATIVES)
        names = captions.names
        wrong = [names[row] for row in rows]
        prompts = [""] * len(rows)
        sets.append(
            PreferenceSet(captions.images_NxHxWxC, index_P, prompts, names * HARD_NEGATIVES, wrong, {})
        )
    return sets


def _preferences(config: FusionBenchmarkConfig) -> list[PreferenceSet]:
    """Comparisons of two captions by simulated raters: on feedback pictures, on held-out combinations."""
    if config.pictures_run is None:
        return _simulate(config)
    folder = _stage(config.pictures_run).folder("collect")
    size = load_clip(_stage(config.pictures_run)).architecture.vision.image_size
    return [read_preferences(folder / f"{name}.parquet", size) for name in ("preferences", "held_out")]


def _comparisons(preferences: PreferenceSet, features: Features, rows: int, seeds: int) -> FusionExamples:
    """At most `rows` of the comparisons, the same for all seeds, in frozen features.

    They are turned round at random: with the chosen answer always first, a constant would be right.
    """
    generator = np.random.default_rng(0)
    preferences = preferences.take(generator.permutation(len(preferences.chosen))[:rows])
    label_N = generator.integers(2, size=len(preferences.chosen))
    chosen, rejected = features.texts(preferences.chosen), features.texts(preferences.rejected)
    first_Nx1 = label_N[:, None] == 1
    examples = FusionExamples(
        jnp.asarray(features.pictures(preferences.images_NxHxWxC)[preferences.image_index_P]),
        jnp.asarray(np.where(first_Nx1, chosen, rejected)),
        jnp.asarray(label_N, jnp.float32),
        jnp.ones((len(label_N), 2), bool),
        jnp.asarray(np.where(first_Nx1, rejected, chosen)),
    )
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (seeds, *leaf.shape)), examples)


def _simulate(config: FusionBenchmarkConfig) -> list[PreferenceSet]:
    """A small set of comparisons of names, as a panel of simulated raters judges them."""
    rubric = Rubric.from_captions(_source(config).all_captions())
    sets = []
    for seed, split in enumerate(("feedback", "combinations")):
        captions = _pictures(config, split)
        generator = np.random.default_rng(seed)
        names = captions.names
        near_NxK = nearest_names(names, min(NEIGHBOURS, len(set(names)) - 1))
        index_P = np.repeat(np.arange(len(captions)), PAIRS_PER_PICTURE)
        a_P, b_P = (near_NxK[index_P, generator.integers(near_NxK.shape[1], size=len(index_P))] for _ in "ab")
        a_P = np.where(generator.random(len(index_P)) < OWN_NAME, index_P, a_P)
        kept = [p for p in range(len(index_P)) if names[a_P[p]] != names[b_P[p]]]
        pairs = Pairs(index_P[kept], [names[a_P[p]] for p in kept], [names[b_P[p]] for p in kept])
        shown = [captions.captions[i] for i in pairs.image_index_P]
        judgements = judge_pairs(rubric, simulated_panel(), pairs.a, pairs.b, shown, seed=seed, overlap=0.0)
        sets.append(as_preferences(subjects_of(captions), pairs, judgements, keep_ties=False))
    return sets


@dataclasses.dataclass(frozen=True)
class ClipFeatures:
    """The embeddings of a run's CLIP, scaled so that a component has a mean square of 1."""

    config: StageConfig

    def pictures(self, images_NxHxWxC: np.ndarray) -> np.ndarray:
        clip = load_clip(self.config)
        embed = jax.jit(lambda params, image: unit_length(clip.definition.bind(params).encode_image(image)))
        images = jnp.asarray(images_NxHxWxC)
        return _spread(
            in_chunks(lambda rows: embed(clip.params, to_pixels(images[rows])), len(images_NxHxWxC), 256)
        )

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        clip = load_clip(self.config)
        embed = jax.jit(
            lambda params, ids: unit_length(clip.definition.bind(params).encode_text(ids, ids != PAD_ID))
        )
        ids = jnp.asarray(clip.tokenizer.encode_batch(list(texts), clip.architecture.text.max_length))
        return _spread(in_chunks(lambda rows: embed(clip.params, ids[rows]), len(texts), 256))


def _features(config: FusionBenchmarkConfig, captions: CaptionSet) -> Features:
    """A run's CLIP, or components of these pictures and names, which belong to the training set."""
    if config.pictures_run is not None:
        return ClipFeatures(_stage(config.pictures_run))
    return PlainFeatures.fit(captions, PLAIN_SIZE)


def _spread(embed_NxD: np.ndarray) -> np.ndarray:
    return embed_NxD * embed_NxD.shape[1] ** 0.5


def _stage(run: Path) -> StageConfig:
    return StageConfig(run=run)


def _pictures(config: FusionBenchmarkConfig, part: str) -> CaptionSet:
    return _source(config).load(part)


def _source(config: FusionBenchmarkConfig) -> PictureSource:
    return PictureSource(None, at_most=config.trial.max_pictures)

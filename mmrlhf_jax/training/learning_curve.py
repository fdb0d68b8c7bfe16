"""How a reward model grows with its data: shares of the judgements x transfer x augmentation, over runs.

All shares and runs of one transfer and augmentation are one vmapped program: a smaller share is repeated
until it has as many rows as the whole, so that all have one shape.
"""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.config import Transfer
from mmrlhf_jax.evaluate.report import Plot, Report, Series, write_report
from mmrlhf_jax.files import as_plain, write_text
from mmrlhf_jax.modules import Params
from mmrlhf_jax.reward.transfer import merge, split_towers
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.platform import device_name, git_revision, versions
from mmrlhf_jax.runtime.progress import Progress
from mmrlhf_jax.training.config import JudgementAugmentConfig, LearningCurveConfig, RewardStageConfig
from mmrlhf_jax.training.judgements import Judgements, rewards
from mmrlhf_jax.training.lessons import Lessons, make_lessons, take, with_views
from mmrlhf_jax.training.pictures import check_batch
from mmrlhf_jax.training.reward import init_state, split_learned, update_step
from mmrlhf_jax.training.setting import Setting, load_setting
from mmrlhf_jax.types import TrainState


class Curve(NamedTuple):
    """The scores of one transfer with or without augmentation.

    Attributes:
      score_FxN: the objective's headline on held-out judgements, by share and run.
    """

    transfer: Transfer
    augmented: bool
    score_FxN: np.ndarray


def rows_of_share(key: jax.Array, size: int, share: float) -> jax.Array:
    """A random share of `size` rows, at least one, repeated to `size` rows; (size,) int32.

    The shares of one key contain one another.
    """
    count = max(1, round(share * size))
    return jax.random.permutation(key, size)[jnp.arange(size) % count].astype(jnp.int32)


def train_all(
    setting: Setting, config: RewardStageConfig, lessons: Lessons, keys_K: jax.Array, rows_KxR: jax.Array
) -> tuple[Params, Params]:
    """K reward models, each on its own rows, trained in one program.

    Args:
      keys_K: of start and order.
      rows_KxR: rows of `lessons`.

    Returns:
      What was trained, on a leading axis of size K; and what was not.
    """
    backbone, model, objective = setting.backbone, setting.model, setting.objectives["train"]

    def split(key: jax.Array) -> tuple[Params, Params]:
        key = jax.random.fold_in(key, 1)
        return split_towers(backbone.name, backbone.params, config.transfer, key, rank=config.lora_rank)

    @jax.vmap
    def start(key: jax.Array) -> TrainState:
        return init_state(model, objective, split(key)[0], config, key)

    @jax.jit
    def step(states: TrainState, frozen: Params, lessons: Lessons) -> TrainState:
        def one(state: TrainState, key: jax.Array, rows_R: jax.Array) -> TrainState:
            own = take(lessons, rows_R)
            return update_step(model, objective, config, state, frozen, own, jax.random.fold_in(key, 2))[0]

        return jax.vmap(one)(states, keys_K, rows_KxR)

    states, frozen = start(keys_K), setting.frozen | split(keys_K[0])[1]
    with Progress(config.steps, f"learning_curve {config.transfer}") as progress:
        for number in range(1, config.steps + 1):
            states = step(states, frozen, lessons)
            jax.block_until_ready(states.step)
            progress.update(number)
    return states.params, frozen


def measure_curve(
    config: LearningCurveConfig,
    setting: Setting,
    held_out: Judgements,
    transfer: Transfer,
    augment: JudgementAugmentConfig,
) -> np.ndarray:
    """The held-out scores (F, N) of all shares and runs."""
    stage = dataclasses.replace(config.reward, transfer=transfer, augment=augment)
    backbone, train = setting.backbone, setting.judgements["train"]
    key = jax.random.fold_in(jax.random.key(config.seed), 5)
    lessons = make_lessons(train, backbone.tokenizer, augment, key)
    if transfer == "frozen":
        parts = {**setting.frozen, backbone.name: backbone.params}
        params = setting.model.init(key, without=tuple(parts)) | parts
        lessons = with_views(lessons, setting.model, params, augment, key)
    keys = [(jax.random.fold_in(key, run), share) for share in config.shares for run in range(config.runs)]
    rows = [rows_of_share(own, len(train.ids_RxSxT), share) for own, share in keys]
    trained, frozen = train_all(setting, stage, lessons, jnp.stack([k for k, _ in keys]), jnp.stack(rows))
    scores = []
    for k in range(len(keys)):
        own = jax.tree.map(lambda leaf, k=k: leaf[k], trained)
        networks = merge(split_learned({**frozen, **own})[1], scale=stage.lora_scale)
        scores.append(
            setting.objectives["train"].score(rewards(setting.model, networks, held_out), held_out.said)
        )
    return np.reshape(scores, (len(config.shares), config.runs))


def run(config: LearningCurveConfig) -> dict[str, Any]:
    """Writes learning_curve.{json,md,html} into RUN/seed_S/learning_curve.

    Returns:
      What the JSON file holds.
    """
    single = dataclasses.replace(config.reward.ensemble, members=1)
    reward = dataclasses.replace(config.reward, run=config.run, seed=config.seed, ensemble=single)
    config = dataclasses.replace(config, reward=reward)
    setting = load_setting(reward)
    check_batch(reward.batch, len(setting.judgements["train"].ids_RxSxT), "training judgements")
    alike = setting.objectives.get("rubric") == setting.objectives["train"]
    measured_on = "rubric" if alike else "held_out"
    held_out = _first(setting.judgements[measured_on], config.max_held_out)
    ways = {False: JudgementAugmentConfig(shift=0.0), True: config.augment}
    if config.dry_run:
        models = len(config.shares) * config.runs
        what = f"{models} models of {reward.steps} steps each"
        print(f"learning_curve: {len(config.transfers)} transfers with and without augmentation, {what}")
        return {}
    with StageFolder.open(config.folder("learning_curve"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        curves = []
        for transfer in config.transfers:
            for augmented, augment in ways.items():
                file = folder.path / "curves" / f"{transfer}_{'on' if augmented else 'off'}.json"
                if not file.exists():  # what an interrupted start has done already is kept
                    score_FxN = measure_curve(config, setting, held_out, transfer, augment)
                    write_text(file, json.dumps(score_FxN.tolist()) + "\n")
                scores = json.loads(file.read_text(encoding="utf-8"))
                curves.append(Curve(transfer, augmented, np.array(scores)))
        result = {
            "measured_on": measured_on,
            "measure": _headline(setting),
            "judgements": len(setting.judgements["train"].ids_RxSxT),
            "shares": list(config.shares),
            "curves": [curve._asdict() for curve in curves],
            "device": device_name(),
            "versions": versions() | {"git_revision": git_revision()},
        }
        text = markdown(config, setting, curves)
        write_text(folder.path / "learning_curve.json", json.dumps(as_plain(result), indent=2) + "\n")
        write_text(folder.path / "learning_curve.md", text)
        write_report(folder.path / "learning_curve.html", page(config, setting, curves))
        print(text)
        folder.finish(result)
        return folder.result()


def markdown(config: LearningCurveConfig, setting: Setting, curves: list[Curve]) -> str:
    """The table: mean over the runs and, in brackets, the lowest and the highest."""
    heads = [f"{share:.0%}" for share in config.shares]
    lines = [
        f"Reward model: {setting.objectives['train'].headline} on held-out judgements by share of the "
        f"{len(setting.judgements['train'].ids_RxSxT)} to learn from; {config.runs} runs each.",
        "",
        f"| transfer | augmentation | {' | '.join(heads)} |",
        f"|---|---|{'---:|' * len(heads)}",
    ]
    for curve in curves:
        cells = [f"{row.mean():.3f} ({row.min():.3f} to {row.max():.3f})" for row in curve.score_FxN]
        lines.append(f"| {curve.transfer} | {'on' if curve.augmented else 'off'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(config: LearningCurveConfig, setting: Setting, curves: list[Curve]) -> Report:
    """The curves on one page: one plot for each transfer, by the logarithm of the share."""
    x = [float(np.log10(100 * share)) for share in config.shares]
    plots = [
        Plot(
            f"{transfer}: {setting.objectives['train'].headline}",
            "log10 of the share in percent",
            _headline(setting),
            [
                Series(
                    "augmented" if curve.augmented else "as they are",
                    x,
                    curve.score_FxN.mean(axis=1),
                    curve.score_FxN.min(axis=1),
                    curve.score_FxN.max(axis=1),
                )
                for curve in curves
                if curve.transfer == transfer
            ],
        )
        for transfer in config.transfers
    ]
    return Report(
        "Learning curves of the reward model",
        f"{config.runs} runs each; the band is from the lowest to the highest",
        [("Device", device_name()), *((name, str(value)) for name, value in versions().items())],
        curves=plots,
        notes=["Preferences come from simulated raters unless a file of your own was given."],
    )


def _headline(setting: Setting) -> str:
    return setting.objectives["train"].headline


def _first(judgements: Judgements, count: int) -> Judgements:
    """At most `count` rows, evenly spread."""
    size = len(judgements.ids_RxSxT)
    rows = np.linspace(0, size - 1, min(size, count)).astype(np.int64)
    return judgements._replace(
        image_index_RxI=judgements.image_index_RxI[rows],
        ids_RxSxT=judgements.ids_RxSxT[rows],
        said=jax.tree.map(lambda leaf: leaf[rows], judgements.said),
    )

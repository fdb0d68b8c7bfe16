"""Training a reward model on judgements."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.judgements import JudgementSet, split_by_picture
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.survey import survey
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.model import FROZEN_PARTS, RewardModel
from mmrlhf_jax.runtime.folder import StageFolder, read_result
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.contrastive import load_clip, load_language_model
from mmrlhf_jax.training.judged import SURVEY_SIZE, print_surveys, read_own
from mmrlhf_jax.training.judgements import Judgements, judge, rewards, view_pictures
from mmrlhf_jax.training.loop import describe, fit
from mmrlhf_jax.training.loss_config import LossConfig
from mmrlhf_jax.training.objectives import Objective, objective_of
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import check_batch
from mmrlhf_jax.types import Metrics, TrainState

LEARNED = "objective"  # the part of the parameters that is not the reward model's
LEARNED_RATE = 30.0  # its learning rate, as a multiple of the others': few numbers, with a way to go
ANCHORING = 512  # judgements whose mean reward tells where thresholds start
HELD_OUT_SHARE = 0.1  # of the pictures of a file that comes without a held-out one


def define_reward_model(config: RewardConfig) -> Definition[RewardModel]:
    """The reward model of the given architecture, without parameters."""
    return define(lambda rngs: RewardModel(config, rngs=rngs))


def init_state(
    model: Definition[RewardModel],
    objective: Objective[Any],
    clip: Params,
    config: RewardStageConfig,
    key: jax.Array,
) -> TrainState:
    """The pretrained CLIP, a fresh fusion and head, what the objective learns, and the optimizer.

    The frozen parts are left out.
    """
    params = model.init(key, without=(*FROZEN_PARTS, "clip")) | {"clip": clip}
    learned = objective.init()
    if learned:
        params[LEARNED] = learned
    return TrainState(jnp.zeros((), jnp.int32), params, reward_optimizer(config, params).init(params))


def anchor(
    model: Definition[RewardModel],
    objective: Objective[Any],
    state: TrainState,
    frozen: Params,
    judgements: Judgements,
) -> TrainState:
    """A fresh state whose thresholds, where the objective learns any, lie where the model's rewards are."""
    learned, networks = split_learned(state.params)
    if not learned:
        return state
    few = judgements._replace(
        image_index_RxI=judgements.image_index_RxI[:ANCHORING], ids_RxSxT=judgements.ids_RxSxT[:ANCHORING]
    )
    mean = float(np.mean(rewards(model, {**frozen, **networks}, few)))
    return state._replace(params={**networks, LEARNED: objective.init(mean)})


def split_learned(params: Params) -> tuple[Params, Params]:
    """(what the objective learns, the reward model's parameters)."""
    return params.get(LEARNED, {}), {name: part for name, part in params.items() if name != LEARNED}


def reward_optimizer(config: RewardStageConfig, params: Params) -> optax.GradientTransformation:
    """The optimizer of all parts; CLIP's, which are trained already, move more slowly."""
    rates = {"clip": config.clip_rate, LEARNED: LEARNED_RATE}
    return make_optimizer(config.optimizer, slower={part: rates[part] for part in rates if part in params})


def update_step(
    model: Definition[RewardModel],
    objective: Objective[Any],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    judgements: Judgements,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the objective's loss of a batch of judgements.

    Args:
      frozen: parameters of the model's FROZEN_PARTS.
    """
    key_order, key_view = jax.random.split(key)
    size = judgements.ids_RxSxT.shape[0]
    rows_B = batch_indices(key_order, state.step, batch=config.batch, size=size)
    key_view = jax.random.fold_in(key_view, state.step)
    pixels_BxIxHxWxC = view_pictures(judgements, rows_B, key_view, config.augment)
    said = jax.tree.map(lambda leaf: leaf[rows_B], judgements.said)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        learned, networks = split_learned(params)
        reward_BxS = judge(model.bind({**frozen, **networks}), pixels_BxIxHxWxC, judgements.ids_RxSxT[rows_B])
        each_B = objective.losses(learned, reward_BxS, said)
        logged = {"loss": each_B, **objective.metrics(learned, reward_BxS, said)}
        rows = jnp.asarray(float(config.batch))
        return jnp.mean(each_B), {name: (jnp.sum(value_B), rows) for name, value_B in logged.items()}

    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state, moved = apply_gradients(
        reward_optimizer(config, state.params),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    return TrainState(state.step + 1, params, opt_state), metrics | moved


def measure(
    model: Definition[RewardModel], objective: Objective[Any], params: Params, judgements: Judgements
) -> dict[str, Any]:
    """The objective's held-out measures, and its headline without the true picture.

    Args:
      params: of the model, its FROZEN_PARTS included, and what the objective learned.
    """
    learned, networks = split_learned(params)
    picture_R = np.asarray(judgements.image_index_RxI[:, 0])
    shuffled_RxS = rewards(model, networks, judgements, shuffle_pictures=True)
    return {
        **objective.measure(learned, rewards(model, networks, judgements), judgements.said, picture_R),
        f"{objective.headline}_picture_shuffled": objective.score(shuffled_RxS, judgements.said),
    }


def load_preferences(config: RewardStageConfig, image_size: int) -> dict[str, JudgementSet]:
    """The judgements to train on ("train") and to measure on ("held_out").

    Those of `collect` come with the noiseless rubric's comparisons ("rubric"). A file of the user's own is
    split by picture, so that no picture is on both sides; a reward model that learns from other things than
    comparisons is measured on those that `collect` held out too ("raters", "rubric"), where they are there.
    """
    folder = config.folder("collect")
    if config.preferences is None:
        files = {"train": "preferences", "held_out": "held_out", "rubric": "held_out_rubric"}
        return {
            part: read_preferences(folder / f"{name}.parquet", image_size) for part, name in files.items()
        }
    judged = read_own(config.preferences, config, image_size)
    train, held_out = split_by_picture(judged, HELD_OUT_SHARE)
    if not len(train) or not len(held_out):
        raise UserError(
            f"{config.preferences} has {len(judged.images_NxHxWxC)} picture(s): it needs at least two that "
            "no comparison links, to hold some out"
        )
    parts: dict[str, JudgementSet] = {"train": judged.take(train), "held_out": judged.take(held_out)}
    if not isinstance(judged, PreferenceSet):
        pairs = {"raters": folder / "held_out.parquet", "rubric": folder / "held_out_rubric.parquet"}
        parts |= {part: read_preferences(file, image_size) for part, file in pairs.items() if file.exists()}
    return parts


def run(config: RewardStageConfig) -> dict[str, Any]:
    """Trains the reward model; leaves it under model/ with the tokenizer.

    Returns:
      The stage's result: held-out accuracy against the raters and, where known, against the noiseless rubric,
      and the survey of the preferences.
    """
    if config.survey:
        own = config.preferences
        whole = {} if own is None else {str(own): read_own(own, config, SURVEY_SIZE)}
        print_surveys(whole or load_preferences(config, SURVEY_SIZE))
        return {}
    clip, _, clip_params, tokenizer = load_clip(config)
    language_model, captioner = load_language_model(config), Captioner.load(config.folder("sft") / "model")
    frozen = {"captioner": captioner.params, "language_model": language_model.params}
    judged = load_preferences(config, clip.vision.image_size)
    objective = objective_of(judged["train"], config.loss)
    objectives = {
        part: objective if isinstance(rows, type(judged["train"])) else objective_of(rows, LossConfig())
        for part, rows in judged.items()
    }
    judgements = {
        part: objectives[part].to_device(rows, tokenizer, clip.text.max_length, learn=part == "train")
        for part, rows in judged.items()
    }
    check_batch(config.batch, len(judgements["train"].ids_RxSxT), "training judgements")
    architecture = RewardConfig(
        clip, config.fusion, config.fusion_width, captioner.architecture, language_model.architecture
    )
    model = define_reward_model(architecture)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2))
    update = jax.jit(functools.partial(update_step, model, objective, config))
    if config.dry_run:
        state = jax.eval_shape(lambda clip: init_state(model, objective, clip, config, key_init), clip_params)
        arguments = {"state": state, "frozen": frozen, "judgements": judgements["train"], "key": key}
        describe("reward", state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder("reward"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        state = init_state(model, objective, clip_params, config, key_init)
        state = fit(
            lambda state: update(state, frozen, judgements["train"], key),
            anchor(model, objective, state, frozen, judgements["train"]),
            config,
            folder,
            steps=config.steps,
            shown=objective.shown,
        )
        params = {**frozen, **state.params}
        save_model(folder.model, architecture, split_learned(params)[1])
        tokenizer.save(folder.model)
        result: dict[str, Any] = {
            part: measure(model, objectives[part], params, rows)
            for part, rows in judgements.items()
            if part != "train"
        }
        if config.preferences is None:
            result["raters_agreement"] = read_result(config.folder("collect"))["preferences"]["agreement"]
        result["survey"] = {part: survey(rows) for part, rows in judged.items()}
        folder.finish(result)
        return folder.result()


def load_reward_model(folder: Path) -> tuple[Definition[RewardModel], Params]:
    """The reward model that `run` left in `folder`."""
    model = define_reward_model(load_architecture(folder, RewardConfig))
    return model, load_params(folder, model.abstract())

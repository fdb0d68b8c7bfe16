"""Training a reward model on judgements."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.model import FROZEN_PARTS, RewardModel
from mmrlhf_jax.runtime.folder import StageFolder, read_result
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.contrastive import load_clip, load_language_model
from mmrlhf_jax.training.judgements import Judgements, from_preferences, judge, rewards, view_pictures
from mmrlhf_jax.training.loop import describe, fit
from mmrlhf_jax.training.objectives import Comparisons, Objective
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import check_batch
from mmrlhf_jax.types import Metrics, TrainState

LEARNED = "objective"  # the part of the parameters that is not the reward model's
HELD_OUT_SHARE = 0.1  # of the pictures of a file that comes without a held-out one


def define_reward_model(config: RewardConfig) -> Definition[RewardModel]:
    """The reward model of the given architecture, without parameters."""
    return define(lambda rngs: RewardModel(config, rngs=rngs))


def init_state(
    model: Definition[RewardModel],
    objective: Objective,
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
    return TrainState(jnp.zeros((), jnp.int32), params, reward_optimizer(config).init(params))


def split_learned(params: Params) -> tuple[Params, Params]:
    """(what the objective learns, the reward model's parameters)."""
    return params.get(LEARNED, {}), {name: part for name, part in params.items() if name != LEARNED}


def reward_optimizer(config: RewardStageConfig) -> optax.GradientTransformation:
    """The optimizer of all parts; CLIP's, which are trained already, move more slowly."""
    return make_optimizer(config.optimizer, slower={"clip": config.clip_rate})


def update_step(
    model: Definition[RewardModel],
    objective: Objective,
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
        reward_optimizer(config),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    return TrainState(state.step + 1, params, opt_state), metrics | moved


def measure(
    model: Definition[RewardModel], objective: Objective, params: Params, judgements: Judgements
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


def load_preferences(config: RewardStageConfig, image_size: int) -> dict[str, PreferenceSet]:
    """The preferences to train on ("train") and to measure on: "held_out" and, from `collect`, "rubric".

    A file of the user's own is split by picture, so that no picture is on both sides.
    """
    if config.preferences is None:
        folder = config.folder("collect")
        files = {"train": "preferences", "held_out": "held_out", "rubric": "held_out_rubric"}
        return {
            part: read_preferences(folder / f"{name}.parquet", image_size) for part, name in files.items()
        }
    preferences = read_preferences(config.preferences, image_size)
    count = len(preferences.images_NxHxWxC)
    order_N = np.random.default_rng(0).permutation(count)
    held_out_N = order_N < max(1, round(HELD_OUT_SHARE * count))
    rows_P = held_out_N[preferences.image_index_P]
    if rows_P.all() or not rows_P.any():
        raise UserError(
            f"{config.preferences} has {count} picture(s): it needs at least two, to hold some out"
        )
    return {
        "train": preferences.take(np.flatnonzero(~rows_P)),
        "held_out": preferences.take(np.flatnonzero(rows_P)),
    }


def run(config: RewardStageConfig) -> dict[str, Any]:
    """Trains the reward model; leaves it under model/ with the tokenizer.

    Returns:
      The stage's result: held-out accuracy against the raters and, where known, against the noiseless rubric.
    """
    clip, _, clip_params, tokenizer = load_clip(config)
    language_model, captioner = load_language_model(config), Captioner.load(config.folder("sft") / "model")
    frozen = {"captioner": captioner.params, "language_model": language_model.params}
    preferences = load_preferences(config, clip.vision.image_size)
    check_batch(config.batch, len(preferences["train"].chosen), "training preferences")
    objective = Comparisons(config.loss.label_smoothing, config.loss.center)
    judgements = {
        part: from_preferences(rows, tokenizer, clip.text.max_length) for part, rows in preferences.items()
    }
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
        state = fit(
            lambda state: update(state, frozen, judgements["train"], key),
            init_state(model, objective, clip_params, config, key_init),
            config,
            folder,
            steps=config.steps,
            shown=objective.shown,
        )
        params = {**frozen, **state.params}
        save_model(folder.model, architecture, split_learned(params)[1])
        tokenizer.save(folder.model)
        result: dict[str, Any] = {
            part: measure(model, objective, params, rows)
            for part, rows in judgements.items()
            if part != "train"
        }
        if config.preferences is None:
            result["raters_agreement"] = read_result(config.folder("collect"))["preferences"]["agreement"]
        folder.finish(result)
        return folder.result()


def load_reward_model(folder: Path) -> tuple[Definition[RewardModel], Params]:
    """The reward model that `run` left in `folder`."""
    model = define_reward_model(load_architecture(folder, RewardConfig))
    return model, load_params(folder, model.abstract())

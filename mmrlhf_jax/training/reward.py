"""Training a reward model on a preference file."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.data.augment import random_view
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.preference import expected_calibration_error, reliability_curve, win_points
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.losses import bradley_terry_loss, centering_loss
from mmrlhf_jax.reward.model import FROZEN_PARTS, RewardModel
from mmrlhf_jax.runtime.folder import StageFolder, read_result
from mmrlhf_jax.training.attribution import attribute_choices
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.contrastive import load_clip, load_language_model
from mmrlhf_jax.training.loop import describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import check_batch
from mmrlhf_jax.types import Metrics, TrainState

HELD_OUT_SHARE = 0.1  # of the pictures of a file that comes without a held-out one


class Comparisons(NamedTuple):
    """P preferences over N pictures, whole on the device.

    Attributes:
      image_NxHxWxC: uint8.
      image_index_P: int32, the picture of each preference.
      chosen_PxT: int32 tokens, right-padded with PAD_ID, end token included; so rejected_PxT.
    """

    image_NxHxWxC: jax.Array
    image_index_P: jax.Array
    chosen_PxT: jax.Array
    rejected_PxT: jax.Array


def define_reward_model(config: RewardConfig) -> Definition[RewardModel]:
    """The reward model of the given architecture, without parameters."""
    return define(lambda rngs: RewardModel(config, rngs=rngs))


def to_device(preferences: PreferenceSet, tokenizer: CaptionTokenizer, max_length: int) -> Comparisons:
    """Preferences as arrays; the prompt stands before the answer."""

    def tokens(answers: list[str]) -> jax.Array:
        texts = [
            f"{prompt} {answer}".strip() for prompt, answer in zip(preferences.prompts, answers, strict=True)
        ]
        return jnp.asarray(tokenizer.encode_batch(texts, max_length))

    return Comparisons(
        jnp.asarray(preferences.images_NxHxWxC),
        jnp.asarray(preferences.image_index_P, jnp.int32),
        tokens(preferences.chosen),
        tokens(preferences.rejected),
    )


def init_state(
    model: Definition[RewardModel], clip: Params, config: RewardStageConfig, key: jax.Array
) -> TrainState:
    """The pretrained CLIP, a fresh fusion and head, and the optimizer; without the frozen parts."""
    params = model.init(key, without=(*FROZEN_PARTS, "clip")) | {"clip": clip}
    return TrainState(jnp.zeros((), jnp.int32), params, reward_optimizer(config).init(params))


def reward_optimizer(config: RewardStageConfig) -> optax.GradientTransformation:
    """The optimizer of all parts; CLIP's, which are trained already, move more slowly."""
    return make_optimizer(config.optimizer, slower={"clip": config.clip_rate})


def judge_both(
    model: RewardModel,
    pixels_BxHxWxC: jax.Array,
    chosen_BxT: jax.Array,
    rejected_BxT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Rewards of both answers, (B,) each; pictures are encoded once, both answers pass together."""
    seen = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), model.encode(pixels_BxHxWxC))
    both = jnp.concatenate([chosen_BxT, rejected_BxT])
    judged = model.judge(seen, both, both != PAD_ID)
    chosen_B, rejected_B = jnp.split(judged.reward_B, 2)
    return chosen_B, rejected_B


def update_step(
    model: Definition[RewardModel],
    config: RewardStageConfig,
    state: TrainState,
    frozen: Params,
    comparisons: Comparisons,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the Bradley-Terry loss of a batch of preferences.

    Args:
      frozen: parameters of the model's FROZEN_PARTS.
    """
    key_order, key_view = jax.random.split(key)
    size = comparisons.image_index_P.shape[0]
    rows_B = batch_indices(key_order, state.step, batch=config.batch, size=size)
    image_BxHxWxC = comparisons.image_NxHxWxC[comparisons.image_index_P[rows_B]]
    key_view = jax.random.fold_in(key_view, state.step)
    viewed = random_view(image_BxHxWxC, key_view, shift=config.augment.shift, zoom=config.augment.zoom)

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        chosen_B, rejected_B = judge_both(
            model.bind({**frozen, **params}),
            to_pixels(viewed),
            comparisons.chosen_PxT[rows_B],
            comparisons.rejected_PxT[rows_B],
        )
        each_B = bradley_terry_loss(chosen_B, rejected_B, config.label_smoothing)
        each_B = each_B + config.center * centering_loss(chosen_B, rejected_B)
        return jnp.mean(each_B), (jnp.sum(each_B), chosen_B - rejected_B)

    (_, (total, margin_B)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state, moved = apply_gradients(
        reward_optimizer(config),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    rows = jnp.asarray(float(config.batch))
    metrics = {
        "loss": (total, rows),
        "rewards/accuracies": (jnp.sum(margin_B > 0).astype(jnp.float32), rows),
        "rewards/margins": (jnp.sum(margin_B), rows),
    }
    return TrainState(state.step + 1, params, opt_state), metrics | moved


def margins(
    model: Definition[RewardModel],
    params: Params,
    comparisons: Comparisons,
    *,
    shuffle_pictures: bool = False,
    batch: int = 256,
) -> np.ndarray:
    """Reward of the chosen answer minus that of the rejected one, (P,).

    Args:
      shuffle_pictures: judges every pair with another pair's picture: what is left then the text alone gives.
    """

    image_P = np.asarray(comparisons.image_index_P)
    if shuffle_pictures:
        image_P = np.random.default_rng(0).permutation(image_P)
    return in_chunks(
        lambda rows_B: _margins(
            model,
            params,
            comparisons.image_NxHxWxC[image_P[rows_B]],
            comparisons.chosen_PxT[rows_B],
            comparisons.rejected_PxT[rows_B],
        ),
        len(image_P),
        batch,
    )


@functools.partial(jax.jit, static_argnums=0)
def _margins(
    model: Definition[RewardModel],
    params: Params,
    image_BxHxWxC: jax.Array,
    chosen_BxT: jax.Array,
    rejected_BxT: jax.Array,
) -> jax.Array:
    chosen_B, rejected_B = judge_both(model.bind(params), to_pixels(image_BxHxWxC), chosen_BxT, rejected_BxT)
    return chosen_B - rejected_B


def measure(model: Definition[RewardModel], params: Params, comparisons: Comparisons) -> dict[str, Any]:
    """Accuracy with its interval (pictures resampled), calibration, and accuracy without the true picture."""
    margin_P = margins(model, params, comparisons)
    clusters = np.asarray(comparisons.image_index_P)
    # Half of the pairs are turned round: with the chosen answer always first, every outcome would be 1.
    turned_P = np.arange(len(margin_P)) % 2 == 1
    probability_P = 1 / (1 + np.exp(-np.where(turned_P, -margin_P, margin_P)))
    outcome_P = np.where(turned_P, 0.0, 1.0)
    return {
        "accuracy": bootstrap_mean(win_points(margin_P), clusters=clusters),
        "pairs": len(margin_P),
        "calibration_error": expected_calibration_error(probability_P, outcome_P),
        "reliability": reliability_curve(probability_P, outcome_P),
        "accuracy_picture_shuffled": float(
            np.mean(win_points(margins(model, params, comparisons, shuffle_pictures=True)))
        ),
        "attribution": attribute_choices(model, params, *comparisons),
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
    comparisons = {
        part: to_device(rows, tokenizer, clip.text.max_length) for part, rows in preferences.items()
    }
    architecture = RewardConfig(
        clip, config.fusion, config.fusion_width, captioner.architecture, language_model.architecture
    )
    model = define_reward_model(architecture)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2))
    update = jax.jit(functools.partial(update_step, model, config))
    if config.dry_run:
        state = jax.eval_shape(lambda clip: init_state(model, clip, config, key_init), clip_params)
        arguments = {"state": state, "frozen": frozen, "comparisons": comparisons["train"], "key": key}
        describe("reward", state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder("reward"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        state = fit(
            lambda state: update(state, frozen, comparisons["train"], key),
            init_state(model, clip_params, config, key_init),
            config,
            folder,
            steps=config.steps,
            shown=("loss", "rewards/accuracies"),
        )
        params = {**frozen, **state.params}
        save_model(folder.model, architecture, params)
        tokenizer.save(folder.model)
        result: dict[str, Any] = {
            part: measure(model, params, rows) for part, rows in comparisons.items() if part != "train"
        }
        if config.preferences is None:
            result["raters_agreement"] = read_result(config.folder("collect"))["preferences"]["agreement"]
        if warning := result["held_out"]["attribution"]["warning"]:
            print(f"reward: warning: {warning}")
        folder.finish(result)
        return folder.result()


def load_reward_model(folder: Path) -> tuple[Definition[RewardModel], Params]:
    """The reward model that `run` left in `folder`."""
    model = define_reward_model(load_architecture(folder, RewardConfig))
    return model, load_params(folder, model.abstract())

"""Direct preference optimisation of the SFT policy on a preference file."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.tokens import PAD_ID
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.preference import win_points
from mmrlhf_jax.masked import token_logprobs
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.policy.sampling import encode_prompts
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.rl.dpo import dpo_loss
from mmrlhf_jax.rl.generate import masked_logits
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.sharding import by_rows, held, made
from mmrlhf_jax.training.adaptation import bind, init_trained, merged, save_trained
from mmrlhf_jax.training.config import DPOConfig, RewardStageConfig
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.loop import Rescue, describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import check_batch
from mmrlhf_jax.training.setting import load_preferences
from mmrlhf_jax.types import Completions, Metrics, Prompts, TrainState

LOSSES = ("loss",)


class Answers(NamedTuple):
    """Both answers of each preference, the chosen ones first: a leading axis of 2 on every leaf.

    Attributes:
      completions: (2, P, T).
      reference_2xP: float32, log-probability of the whole answer under the reference, in nats.
    """

    completions: Completions
    reference_2xP: jax.Array


class Pairs(NamedTuple):
    """P preferences over N pictures, whole on the device.

    Attributes:
      image_NxSxD: the pictures as the decoder reads them; their tower is not trained.
      image_index_P: int32, the picture of each preference.
      prompts: (P, L).
    """

    image_NxSxD: jax.Array
    image_index_P: jax.Array
    prompts: Prompts
    answers: Answers


def load_comparisons(config: DPOConfig, image_size: int) -> dict[str, PreferenceSet]:
    """The preferences to learn from ("train") and to measure on, without ties.

    Raises:
      UserError: other judgements than comparisons of two answers to one picture.
    """
    source = RewardStageConfig(run=config.run, seed=config.seed, preferences=config.preferences)
    parts = {}
    for part, judged in load_preferences(source, image_size).items():
        if not isinstance(judged, PreferenceSet) or judged.rejected_image_index_P is not None:
            raise UserError(
                f"{config.preferences} holds no comparisons of two answers to one picture, from which alone "
                "DPO learns: give a file with chosen and rejected, or train a reward model on it"
            )
        parts[part] = judged if judged.tie_P is None else judged.take(np.flatnonzero(~judged.tie_P))
    return parts


def to_device(preferences: PreferenceSet, captioner: Captioner) -> Pairs:
    """Preferences as arrays, with the log-probs of `captioner`, which is the reference from here on."""
    length, tokenizer = captioner.architecture.max_length, captioner.tokenizer
    sides = [tokenizer.encode_batch(side, length) for side in (preferences.chosen, preferences.rejected)]
    ids_2xPxT = jnp.asarray(np.stack(sides))
    image_NxSxD = in_chunks(
        lambda rows_B: _encode(
            captioner.policy, captioner.params, jnp.asarray(preferences.images_NxHxWxC[rows_B])
        ),
        len(preferences.images_NxHxWxC),
        256,
    )
    pairs = Pairs(
        jnp.asarray(image_NxSxD),
        jnp.asarray(preferences.image_index_P, jnp.int32),
        encode_prompts(preferences.prompts, tokenizer),
        Answers(Completions(ids_2xPxT, ids_2xPxT != PAD_ID), jnp.zeros(ids_2xPxT.shape[:2])),
    )
    reference_2xP = jnp.asarray(answer_logprobs(captioner, pairs))
    return pairs._replace(answers=pairs.answers._replace(reference_2xP=reference_2xP))


def take(pairs: Pairs, rows_B: jax.Array | np.ndarray) -> Pairs:
    """The preferences `rows_B`, each with a picture of its own."""
    return Pairs(
        pairs.image_NxSxD[pairs.image_index_P[rows_B]],
        jnp.arange(len(rows_B)),
        jax.tree.map(lambda leaf: leaf[rows_B], pairs.prompts),
        jax.tree.map(lambda leaf: leaf[:, rows_B], pairs.answers),
    )


def logprobs_of(policy: VisionLanguagePolicy, forbidden_V: jax.Array, taken: Pairs) -> jax.Array:
    """Log-probability (2, B) in nats of both answers of preferences that `take` gave, in one pass."""
    once = (taken.image_NxSxD, *taken.prompts)
    twice = by_rows([jnp.concatenate([leaf, leaf]) for leaf in once])
    completions = by_rows(
        jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), taken.answers.completions)
    )
    logits_BxTxV = policy.score(*twice, *completions).logits_BxTxV
    logprobs_BxT = token_logprobs(masked_logits(logits_BxTxV, forbidden_V, 1.0), *completions)
    return jnp.sum(logprobs_BxT, axis=1).reshape(2, -1)


def answer_logprobs(captioner: Captioner, pairs: Pairs, *, batch: int = 128) -> np.ndarray:
    """`logprobs_of` all preferences, (2, P), in chunks."""

    def chunk(rows_B: np.ndarray) -> jax.Array:
        return _logprobs(captioner.policy, captioner.params, captioner.forbidden_V, take(pairs, rows_B)).T

    return in_chunks(chunk, len(pairs.image_index_P), batch).T


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(
    policy: Definition[VisionLanguagePolicy], params: Params, forbidden_V: jax.Array, taken: Pairs
) -> jax.Array:
    return logprobs_of(policy.bind(params), forbidden_V, taken)


@functools.partial(jax.jit, static_argnums=0)
def _encode(policy: Definition[VisionLanguagePolicy], params: Params, image_BxHxWxC: jax.Array) -> jax.Array:
    return policy.bind(params).encode(to_pixels(image_BxHxWxC))


def init_state(reference: Params, config: DPOConfig) -> TrainState:
    """The policy starts as the reference; the state holds what is trained, and nothing else of it."""
    key = jax.random.fold_in(jax.random.key(config.seed), 6)
    params = init_trained(reference, config.adapt, config.lora, key, critic=None)
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config.optimizer).init(params))


def update_step(
    policy: Definition[VisionLanguagePolicy],
    config: DPOConfig,
    state: TrainState,
    reference: Params,
    forbidden_V: jax.Array,
    pairs: Pairs,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the DPO loss of a batch of preferences."""
    size = pairs.image_index_P.shape[0]
    taken = take(pairs, batch_indices(key, state.step, batch=config.batch, size=size))

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        trained = bind(policy, reference, params, config.lora.scale)
        logprobs_2xB = logprobs_of(trained, forbidden_V, taken)
        ratio_2xB = logprobs_2xB - taken.answers.reference_2xP
        each_B = dpo_loss(
            ratio_2xB[0],
            ratio_2xB[1],
            config.beta,
            kind=config.loss,
            label_smoothing=config.label_smoothing,
        )
        return jnp.mean(each_B), (logprobs_2xB, config.beta * ratio_2xB)

    (mean, (logprobs_2xB, reward_2xB)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state, moved = apply_gradients(
        make_optimizer(config.optimizer),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    rows = jnp.asarray(float(config.batch))
    margin_B = reward_2xB[0] - reward_2xB[1]
    metrics = {
        "loss": (mean * rows, rows),
        "rewards/accuracies": (jnp.sum(margin_B > 0).astype(jnp.float32), rows),
        "rewards/margins": (jnp.sum(margin_B), rows),
    }
    for i, side in enumerate(("chosen", "rejected")):
        metrics[f"rewards/{side}"] = (jnp.sum(reward_2xB[i]), rows)
        metrics[f"logps/{side}"] = (jnp.sum(logprobs_2xB[i]), rows)
    return TrainState(state.step + 1, params, opt_state), metrics | moved


def measure(captioner: Captioner, pairs: Pairs) -> dict[str, Any]:
    """How often the policy's own reward, its log-ratio to the reference, agrees with the preferences."""
    ratio_2xP = answer_logprobs(captioner, pairs) - np.asarray(pairs.answers.reference_2xP)
    margin_P = ratio_2xP[0] - ratio_2xP[1]
    accuracy = bootstrap_mean(win_points(margin_P), clusters=np.asarray(pairs.image_index_P))
    return {"accuracy": accuracy, "margin_nats": float(np.mean(margin_P)), "pairs": len(margin_P)}


def sampled_kl(policy: Captioner, reference: Captioner, image_NxHxWxC: np.ndarray, seed: int) -> float:
    """KL of `policy` to `reference` in nats a caption, on one sample for each picture."""
    completions = policy.sample(image_NxHxWxC, seed=seed)
    both = [captioner.logprobs(image_NxHxWxC, completions) for captioner in (policy, reference)]
    return float(np.mean(both[0] - both[1]))


@on_own_mesh
def run(config: DPOConfig) -> dict[str, Any]:
    """Trains the policy; leaves it under model/, in the form of the SFT policy.

    Returns:
      The stage's result: for each held-out part, how often the policy's own reward agrees with it; `kl_max`,
      the KL to the SFT policy at the end on training pictures.
    """
    captioner = Captioner.load(config.folder("sft") / "model")
    preferences = load_comparisons(config, captioner.architecture.vision.image_size)
    check_batch(config.batch, len(preferences["train"]), "training preferences")
    parts = {part: to_device(rows, captioner) for part, rows in preferences.items()}
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    update = jax.jit(guarded(functools.partial(update_step, captioner.policy, config), LOSSES))

    def start(reference: Params) -> Guarded:
        return begin(init_state(reference, config), LOSSES)

    def batch(_: Guarded, step: int) -> Pairs:
        pairs = parts["train"]
        return take(
            pairs, batch_indices(key, jnp.asarray(step), batch=config.batch, size=len(pairs.image_index_P))
        )

    fixed = (held(captioner.params, config.mesh_frozen), captioner.forbidden_V, parts["train"], key)
    if config.dry_run:
        state = jax.eval_shape(start, captioner.params)
        names = ("state", "reference", "forbidden", "pairs", "key")
        describe("dpo", state.state.params, update, dict(zip(names, (state, *fixed), strict=True)))
        return {}
    with StageFolder.open(config.folder("dpo"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        state, _ = fit(
            lambda state: update(state, *fixed),
            made(start, fixed[0]),
            config,
            folder,
            steps=config.steps,
            shown=("loss", "rewards/accuracies", "rewards/margins"),
            rescue=Rescue(batch),
        )
        save_trained(captioner, state.params, folder.model, scale=config.lora.scale)
        trained = merged(captioner, state.params, config.lora.scale)
        held_out = {part: pairs for part, pairs in parts.items() if part != "train"}
        measured = {part: measure(trained, rows) for part, rows in held_out.items()}
        kl = sampled_kl(trained, captioner, preferences["train"].images_NxHxWxC, config.seed)
        folder.finish({**measured, "kl_max": kl})
        return folder.result()

"""Supervised fine-tuning: picture tower and language model become one policy that writes the names."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.captions import cider_d, exact_match
from mmrlhf_jax.masked import masked_sum, token_logprobs
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.metrics import MetricsWriter
from mmrlhf_jax.training.config import SFTConfig
from mmrlhf_jax.training.contrastive import load_clip, load_language_model
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.loop import Rescue, describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import (
    PictureBatch,
    Pictures,
    check_batch,
    draw,
    order_key,
    picture_shapes,
    plain,
    text_arrays,
    to_device,
    view,
)
from mmrlhf_jax.training.streaming import fit_streamed, picture_stream
from mmrlhf_jax.types import Metrics, TrainState

LOSSES = ("loss",)


def init_state(
    policy: Definition[VisionLanguagePolicy],
    vision: Params,
    decoder: Params,
    config: SFTConfig,
    key: jax.Array,
) -> TrainState:
    """CLIP's picture tower and the language model, with a fresh projector between them and a value head."""
    params = policy.init(key, without=("vision", "decoder")) | {"vision": vision, "decoder": decoder}
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config.optimizer).init(params))


def name_loss(
    policy: Definition[VisionLanguagePolicy], params: Params, batch: PictureBatch
) -> tuple[jax.Array, jax.Array]:
    """(summed negative log-likelihood of the names in nats, number of tokens), end tokens included."""
    model = policy.bind(params)
    prompts = begin_prompts(batch.ids_BxT.shape[0])
    image_BxPxD = model.encode(batch.pixels_BxHxWxC)
    scored = model.score(image_BxPxD, prompts.ids_BxL, prompts.mask_BxL, batch.ids_BxT, batch.mask_BxT)
    return masked_sum(-token_logprobs(scored.logits_BxTxV, batch.ids_BxT, batch.mask_BxT), batch.mask_BxT)


def update_step(
    policy: Definition[VisionLanguagePolicy],
    config: SFTConfig,
    state: TrainState,
    pictures: Pictures,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step on pictures that are whole on the device."""
    _, drawn = draw(pictures, key, state.step, batch=config.batch)
    return learn(policy, config, state, drawn, key)


def learn(
    policy: Definition[VisionLanguagePolicy],
    config: SFTConfig,
    state: TrainState,
    pictures: Pictures,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the mean negative log-likelihood of the names of a batch of pictures."""
    batch = view(pictures, key, state.step, config.augment)

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        total, tokens = name_loss(policy, params, batch)
        return total / tokens, (total, tokens)

    (_, pair), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    params, opt_state, moved = apply_gradients(
        make_optimizer(config.optimizer),
        gradients,
        state.params,
        state.opt_state,
        warmup_cosine(config.optimizer, state.step, config.steps),
    )
    return TrainState(state.step + 1, params, opt_state), {"loss": pair, **moved}


def run(config: SFTConfig) -> dict[str, Any]:
    """Trains the policy; leaves it under model/.

    Returns:
      The stage's result: held-out loss, CIDEr-D and exact match of greedy captions, for each held-out part.
    """
    clip, _, clip_params, tokenizer = load_clip(config)
    language_model, _, decoder_params, _ = load_language_model(config)
    source = picture_source(config)
    captions = source.captions("train")
    check_batch(config.batch, len(captions), "training pictures")
    length = clip.text.max_length
    texts = text_arrays(captions, tokenizer, length)

    architecture = PolicyConfig(clip.vision, language_model, length)
    policy = define_policy(architecture)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    init = functools.partial(init_state, policy, config=config, key=key_init)
    update = jax.jit(guarded(functools.partial(update_step, policy, config), LOSSES))
    if config.dry_run:
        state = jax.eval_shape(
            lambda *towers: begin(init(*towers), LOSSES), clip_params["vision"], decoder_params
        )
        shapes = picture_shapes(texts, clip.vision.image_size)
        describe("sft", state.state.params, update, {"state": state, "pictures": shapes, "key": key})
        return {}
    held_out = {part: source.load(part) for part in source.held_out}
    held_out_pictures = {part: to_device(captions, tokenizer, length) for part, captions in held_out.items()}

    @jax.jit
    def held_out_loss(params: Params, pictures: Pictures) -> tuple[jax.Array, jax.Array]:
        return name_loss(policy, params, plain(pictures))

    def evaluate(at: Guarded) -> Metrics:
        params = at.state.params
        return {
            f"{part}/loss": held_out_loss(params, pictures) for part, pictures in held_out_pictures.items()
        }

    with StageFolder.open(config.folder("sft"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        start = begin(init(clip_params["vision"], decoder_params), LOSSES)
        looks: dict[str, Any] = {
            "steps": config.steps,
            "shown": LOSSES,
            "evaluate": evaluate,
            "eval_every": config.eval_every,
        }
        if config.stream:
            stream = picture_stream(source, texts, config, order_key(key), lambda row: ())
            step = jax.jit(guarded(functools.partial(learn, policy, config), LOSSES))
            trained = fit_streamed(
                lambda state, batch: step(state, batch[0], key), start, stream, config, folder, **looks
            )
        else:
            pictures = to_device(source.load("train"), tokenizer, length)

            def batch(at: Guarded, step: int) -> PictureBatch:
                _, drawn = draw(pictures, key, jnp.asarray(step), batch=config.batch)
                return view(drawn, key, jnp.asarray(step), config.augment)

            trained = fit(
                lambda state: update(state, pictures, key),
                start,
                config,
                folder,
                rescue=Rescue(batch),
                **looks,
            )
        captioner = Captioner(architecture, policy, trained.state.params, tokenizer)
        captioner.save(folder.model)
        result: dict[str, Any] = {}
        for split, own in held_out.items():
            written = captioner.caption(own.images_NxHxWxC)
            cider_N = cider_d(written, own.references)
            loss, tokens = evaluate(trained)[f"{split}/loss"]
            result[split] = {
                "loss": float(loss / tokens),
                "cider_d": bootstrap_mean(cider_N),
                "exact_match": exact_match(written, own.references),
            }
            with MetricsWriter(folder.path) as writer:
                shown = np.linspace(0, len(own) - 1, min(16, len(own))).astype(int)
                lines = [f"{written[i]} ({own.names[i]})" for i in shown]
                writer.images(config.steps, f"captions/{split}", own.images_NxHxWxC[shown], lines)
        folder.finish(result)
        return folder.result()

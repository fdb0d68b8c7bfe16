"""Supervised fine-tuning: picture tower and language model become one policy that writes the names."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.encoders.vit import to_pixels
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
from mmrlhf_jax.training.contrastive import HELD_OUT, load_clip, load_language_model
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.loop import Evaluation, Rescue, describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import PictureBatch, Pictures, check_batch, draw, load_split, to_device
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
    """One gradient step on the mean negative log-likelihood of a batch of names."""
    batch = draw(pictures, key, state.step, batch=config.batch, augment=config.augment)

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
    train = load_split(config, "train")
    check_batch(config.batch, len(train), "training pictures")
    length = clip.text.max_length
    pictures = to_device(train, tokenizer, length)
    held_out = {split: load_split(config, split) for split in HELD_OUT}
    held_out_pictures = {
        split: to_device(captions, tokenizer, length) for split, captions in held_out.items()
    }

    architecture = PolicyConfig(clip.vision, language_model, length)
    policy = define_policy(architecture)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    init = functools.partial(init_state, policy, config=config, key=key_init)
    update = jax.jit(guarded(functools.partial(update_step, policy, config), LOSSES))
    if config.dry_run:
        state = jax.eval_shape(
            lambda *towers: begin(init(*towers), LOSSES), clip_params["vision"], decoder_params
        )
        describe("sft", state.state.params, update, {"state": state, "pictures": pictures, "key": key})
        return {}

    @jax.jit
    def held_out_loss(params: Params, pictures: Pictures) -> tuple[jax.Array, jax.Array]:
        pixels = to_pixels(pictures.image_NxHxWxC)
        rows_N = jnp.arange(pixels.shape[0])
        batch = PictureBatch(rows_N, pixels, pictures.ids_NxT, pictures.mask_NxT, pictures.name_N)
        return name_loss(policy, params, batch)

    def evaluate(at: Guarded) -> Metrics:
        params = at.state.params
        return {f"{split}/loss": held_out_loss(params, held_out_pictures[split]) for split in HELD_OUT}

    def batch(at: Guarded, step: int) -> PictureBatch:
        return draw(pictures, key, jnp.asarray(step), batch=config.batch, augment=config.augment)

    with StageFolder.open(config.folder("sft"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        trained = fit(
            lambda state: update(state, pictures, key),
            begin(init(clip_params["vision"], decoder_params), LOSSES),
            config,
            folder,
            steps=config.steps,
            shown=("loss",),
            evaluation=Evaluation(evaluate, config.eval_every),
            rescue=Rescue(batch),
        )
        captioner = Captioner(architecture, policy, trained.state.params, tokenizer)
        captioner.save(folder.model)
        result: dict[str, Any] = {}
        for split, captions in held_out.items():
            written = captioner.caption(captions.images_NxHxWxC)
            cider_N = cider_d(written, [[name] for name in captions.names])
            loss, tokens = evaluate(trained)[f"{split}/loss"]
            result[split] = {
                "loss": float(loss / tokens),
                "cider_d": bootstrap_mean(cider_N),
                "exact_match": exact_match(written, [[name] for name in captions.names]),
            }
            with MetricsWriter(folder.path) as writer:
                shown = np.linspace(0, len(captions) - 1, min(16, len(captions))).astype(int)
                lines = [f"{written[i]} ({captions.names[i]})" for i in shown]
                writer.images(config.steps, f"captions/{split}", captions.images_NxHxWxC[shown], lines)
        folder.finish(result)
        return folder.result()

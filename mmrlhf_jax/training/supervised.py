"""Supervised fine-tuning: picture tower and language model become one policy that writes the names."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
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
from mmrlhf_jax.training.loop import Rescue, describe, fit
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
    policy: Definition[VisionLanguagePolicy],
    params: Params,
    batch: PictureBatch,
    picture_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(summed negative log-likelihood of the names in nats, number of tokens), end tokens included.

    Args:
      picture_B: False where the picture is left out; None: it is there everywhere.
    """
    model = policy.bind(params)
    prompts = begin_prompts(batch.ids_BxT.shape[0]) if batch.prompts is None else batch.prompts
    image_BxPxD = model.encode(batch.pixels_BxHxWxC)
    scored = model.score(image_BxPxD, *prompts, batch.ids_BxT, batch.mask_BxT, picture_B)
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
    picture_B = None
    if config.picture_dropout:
        key_dropout = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        picture_B = ~jax.random.bernoulli(key_dropout, config.picture_dropout, batch.row_B.shape)

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        total, tokens = name_loss(policy, params, batch, picture_B)
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


class Course(NamedTuple):
    """What a policy is taught.

    Attributes:
      train: pictures, and what to write about them.
      held_out: the same by part, to look at along the way.
      init: makes the state to start from; a dry run asks for its shapes alone.
      key: of the order and of all that varies.
    """

    architecture: PolicyConfig
    tokenizer: CaptionTokenizer
    train: Pictures
    held_out: dict[str, Pictures]
    init: Callable[[], TrainState]
    key: jax.Array


def describe_course(config: SFTConfig, course: Course) -> None:
    """What a dry run prints."""
    state = jax.eval_shape(lambda: begin(course.init(), LOSSES))
    update = _compile(config, course)
    describe("sft", state.state.params, update, {"state": state, "pictures": course.train, "key": course.key})


def _compile(config: SFTConfig, course: Course) -> Any:
    step = functools.partial(update_step, define_policy(course.architecture), config)
    return jax.jit(guarded(step, LOSSES))


def teach(config: SFTConfig, course: Course, folder: StageFolder) -> tuple[Captioner, dict[str, float]]:
    """Trains the policy and leaves it under model/; and its loss on each held-out part, in nats a token."""
    policy, update = define_policy(course.architecture), _compile(config, course)

    @jax.jit
    def held_out_loss(params: Params, pictures: Pictures) -> tuple[jax.Array, jax.Array]:
        pixels = to_pixels(pictures.image_NxHxWxC)
        rows_N = jnp.arange(pixels.shape[0])
        batch = PictureBatch(
            rows_N, pixels, pictures.ids_NxT, pictures.mask_NxT, pictures.name_N, pictures.prompts
        )
        return name_loss(policy, params, batch)

    def evaluate(at: Guarded) -> Metrics:
        params = at.state.params
        return {f"{part}/loss": held_out_loss(params, pictures) for part, pictures in course.held_out.items()}

    def batch(at: Guarded, step: int) -> PictureBatch:
        return draw(course.train, course.key, jnp.asarray(step), batch=config.batch, augment=config.augment)

    trained = fit(
        lambda state: update(state, course.train, course.key),
        begin(course.init(), LOSSES),
        config,
        folder,
        steps=config.steps,
        shown=("loss",),
        evaluate=evaluate,
        eval_every=config.eval_every,
        rescue=Rescue(batch),
    )
    captioner = Captioner(course.architecture, policy, trained.state.params, course.tokenizer)
    captioner.save(folder.model)
    return captioner, {name: float(total / tokens) for name, (total, tokens) in evaluate(trained).items()}


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
    held_out = {split: load_split(config, split) for split in HELD_OUT}
    architecture = PolicyConfig(clip.vision, language_model, length)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    vision, decoder = clip_params["vision"], decoder_params
    course = Course(
        architecture,
        tokenizer,
        to_device(train, tokenizer, length),
        {split: to_device(captions, tokenizer, length) for split, captions in held_out.items()},
        lambda: init_state(define_policy(architecture), vision, decoder, config, key_init),
        key,
    )
    if config.dry_run:
        describe_course(config, course)
        return {}
    with StageFolder.open(config.folder("sft"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        captioner, losses = teach(config, course, folder)
        result: dict[str, Any] = {}
        for split, captions in held_out.items():
            written = captioner.caption(captions.images_NxHxWxC)
            cider_N = cider_d(written, [[name] for name in captions.names])
            result[split] = {
                "loss": losses[f"{split}/loss"],
                "cider_d": bootstrap_mean(cider_N),
                "exact_match": exact_match(written, [[name] for name in captions.names]),
            }
            with MetricsWriter(folder.path) as writer:
                shown = np.linspace(0, len(captions) - 1, min(16, len(captions))).astype(int)
                lines = [f"{written[i]} ({captions.names[i]})" for i in shown]
                writer.images(config.steps, f"captions/{split}", captions.images_NxHxWxC[shown], lines)
        folder.finish(result)
        return folder.result()

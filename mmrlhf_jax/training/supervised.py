"""Supervised fine-tuning: picture tower and language model become one policy that writes the names."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.tokens import CaptionTokenizer
from mmrlhf_jax.evaluate.bootstrap import bootstrap_mean
from mmrlhf_jax.evaluate.captions import cider_d, exact_match
from mmrlhf_jax.masked import masked_sum, token_logprobs
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.policy.captioner import Captioner, define_policy
from mmrlhf_jax.policy.sampling import begin_prompts
from mmrlhf_jax.policy.vision_language import VisionLanguagePolicy
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.runtime.metrics import MetricsWriter
from mmrlhf_jax.sharding import made
from mmrlhf_jax.training.config import SFTConfig
from mmrlhf_jax.training.contrastive import load_clip, load_language_model
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.loop import Evaluation, Rescue, describe, fit
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
    picture_B = None
    if config.picture_dropout:
        key_dropout = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        picture_B = ~jax.random.bernoulli(key_dropout, config.picture_dropout, batch.ids_BxT.shape[:1])

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
    """What a policy is taught; functions are for what a dry run does not load.

    Attributes:
      shapes: of the pictures to learn from, and of what to write about them.
      train: those pictures on the device.
      held_out: the same by part, to look at along the way.
      init: makes the state to start from, of `given`.
      given: parameters that were trained before.
      key: of the order and of all that varies.
      stream: opens the pictures where they are read step by step; None: they are whole on the device.
    """

    architecture: PolicyConfig
    tokenizer: CaptionTokenizer
    shapes: Pictures
    train: Callable[[], Pictures]
    held_out: Callable[[], dict[str, Pictures]]
    init: Callable[..., TrainState]
    given: tuple[Params, ...]
    key: jax.Array
    stream: Callable[[], Any] | None = None

    def start(self, *given: Params) -> Guarded:
        """The first state, under guard."""
        return begin(self.init(*given), LOSSES)


def describe_course(config: SFTConfig, course: Course) -> None:
    """What a dry run prints."""
    state = jax.eval_shape(course.start, *course.given)
    update = jax.jit(
        guarded(functools.partial(update_step, define_policy(course.architecture), config), LOSSES)
    )
    describe(
        "sft", state.state.params, update, {"state": state, "pictures": course.shapes, "key": course.key}
    )


def teach(config: SFTConfig, course: Course, folder: StageFolder) -> tuple[Captioner, dict[str, float]]:
    """Trains the policy and leaves it under model/; and its loss on each held-out part, in nats a token."""
    policy, key, held_out = define_policy(course.architecture), course.key, course.held_out()

    @jax.jit
    def held_out_loss(params: Params, pictures: Pictures) -> tuple[jax.Array, jax.Array]:
        return name_loss(policy, params, plain(pictures))

    def evaluate(at: Guarded) -> Metrics:
        params = at.state.params
        return {f"{part}/loss": held_out_loss(params, pictures) for part, pictures in held_out.items()}

    start = made(course.start, *course.given)
    looks: dict[str, Any] = {
        "steps": config.steps,
        "shown": LOSSES,
        "evaluation": Evaluation(evaluate, config.eval_every),
    }
    if course.stream is not None:
        step = jax.jit(guarded(functools.partial(learn, policy, config), LOSSES))
        trained = fit_streamed(
            lambda state, batch: step(state, batch[0], key), start, course.stream(), config, folder, **looks
        )
    else:
        pictures = course.train()
        update = jax.jit(guarded(functools.partial(update_step, policy, config), LOSSES))

        def batch(at: Guarded, step: int) -> PictureBatch:
            _, drawn = draw(pictures, key, jnp.asarray(step), batch=config.batch)
            return view(drawn, key, jnp.asarray(step), config.augment)

        trained = fit(
            lambda state: update(state, pictures, key), start, config, folder, rescue=Rescue(batch), **looks
        )
    captioner = Captioner(course.architecture, policy, trained.state.params, course.tokenizer)
    captioner.save(folder.model)
    return captioner, {name: float(total / tokens) for name, (total, tokens) in evaluate(trained).items()}


@on_own_mesh
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
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    held_out = functools.cache(lambda: {part: source.load(part) for part in source.held_out})
    course = Course(
        architecture,
        tokenizer,
        picture_shapes(texts, clip.vision.image_size),
        lambda: to_device(source.load("train"), tokenizer, length),
        lambda: {part: to_device(own, tokenizer, length) for part, own in held_out().items()},
        lambda vision, decoder: init_state(define_policy(architecture), vision, decoder, config, key_init),
        (clip_params["vision"], decoder_params),
        key,
        (lambda: picture_stream(source, texts, config, order_key(key), lambda row: ()))
        if config.stream
        else None,
    )
    if config.dry_run:
        describe_course(config, course)
        return {}
    with StageFolder.open(config.folder("sft"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        captioner, losses = teach(config, course, folder)
        result: dict[str, Any] = {}
        for split, own in held_out().items():
            written = captioner.caption(own.images_NxHxWxC)
            cider_N = cider_d(written, own.references)
            result[split] = {
                "loss": losses[f"{split}/loss"],
                "cider_d": bootstrap_mean(cider_N),
                "exact_match": exact_match(written, own.references),
            }
            with MetricsWriter(folder.path) as writer:
                shown = np.linspace(0, len(own) - 1, min(16, len(own))).astype(int)
                lines = [f"{written[i]} ({own.names[i]})" for i in shown]
                writer.images(config.steps, f"captions/{split}", own.images_NxHxWxC[shown], lines)
        folder.finish(result)
        return folder.result()

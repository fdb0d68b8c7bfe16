"""Pretraining: a CLIP on pictures and names, and beside it a language model on the names alone."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig
from mmrlhf_jax.data.neighbours import nearest_names
from mmrlhf_jax.data.tokens import BEGIN_ID, PAD_ID, CaptionTokenizer
from mmrlhf_jax.encoders.clip import CLIP, contrastive_loss
from mmrlhf_jax.evaluate.retrieval import recall_at_k
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.modules import Definition, ModuleT, Params, define
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.runtime.mesh import on_own_mesh
from mmrlhf_jax.sharding import made, on_host
from mmrlhf_jax.training.config import PretrainConfig, StageConfig
from mmrlhf_jax.training.guard import Guarded, begin, guarded
from mmrlhf_jax.training.loop import Rescue, describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.picture_source import picture_source
from mmrlhf_jax.training.pictures import (
    Pictures,
    check_batch,
    draw,
    fits,
    order_key,
    picture_shapes,
    plain,
    text_arrays,
    to_device,
    view,
)
from mmrlhf_jax.training.streaming import fit_streamed, picture_stream
from mmrlhf_jax.types import Metrics, TrainState

LOSSES = ("clip/loss", "language_model/loss")


class Networks(NamedTuple):
    """The two networks of this stage."""

    clip: Definition[CLIP]
    language_model: Definition[Decoder]


def define_networks(clip: CLIPConfig, language_model: DecoderConfig) -> Networks:
    """Networks of the given architectures, without parameters."""
    return Networks(
        define(lambda rngs: CLIP(clip, rngs=rngs)), define(lambda rngs: Decoder(language_model, rngs=rngs))
    )


def init_state(networks: Networks, config: PretrainConfig, key: jax.Array) -> TrainState:
    """Fresh parameters of both networks, and their optimizers."""
    key_clip, key_language = jax.random.split(key)
    params = {
        "clip": networks.clip.init(key_clip),
        "language_model": networks.language_model.init(key_language),
    }
    optimizer = make_optimizer(config.optimizer)
    opt_state = {name: optimizer.init(network) for name, network in params.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


class Near(NamedTuple):
    """Names of other pictures that read like those of B pictures, K for each; K may be 0.

    Attributes:
      ids_BxKxT: int32.
      name_BxK: int32, numbered as in `Pictures`.
    """

    ids_BxKxT: jax.Array
    name_BxK: jax.Array


def draw_both(
    pictures: Pictures, near_NxK: jax.Array, key: jax.Array, step: jax.Array, config: PretrainConfig
) -> tuple[Pictures, Near]:
    """The pictures of a step, and names that read like theirs."""
    rows_B, drawn = draw(pictures, jax.random.split(key)[0], step, batch=config.batch)
    near_BxK = near_NxK[rows_B]
    return drawn, Near(pictures.ids_NxAxT[near_BxK, 0], pictures.name_NxA[near_BxK, 0])


def update_step(
    networks: Networks,
    config: PretrainConfig,
    state: TrainState,
    pictures: Pictures,
    near_NxK: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step on pictures that are whole on the device.

    Args:
      near_NxK: rows of names that read like each picture's own; K may be 0.
    """
    drawn, near = draw_both(pictures, near_NxK, key, state.step, config)
    return learn(networks, config, state, drawn, near, key)


def learn(
    networks: Networks,
    config: PretrainConfig,
    state: TrainState,
    pictures: Pictures,
    near: Near,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step of each network on a batch of pictures and names; they share nothing else."""
    key_draw, key_near = jax.random.split(key)
    batch = view(pictures, key_draw, state.step, config.augment)
    ids_NxT, name_N = batch.ids_BxT, batch.name_B  # the pictures' own, then one that reads alike for each
    if near.name_BxK.shape[1]:
        rows_B = jnp.arange(config.batch)
        choice_B = jax.random.randint(
            jax.random.fold_in(key_near, state.step), rows_B.shape, 0, near.name_BxK.shape[1]
        )
        ids_NxT = jnp.concatenate([ids_NxT, near.ids_BxKxT[rows_B, choice_B]])
        name_N = jnp.concatenate([name_N, near.name_BxK[rows_B, choice_B]])
    positives_BxN = fits(pictures, name_N)

    def clip_loss(params: Params) -> jax.Array:
        output = networks.clip.bind(params)(batch.pixels_BxHxWxC, ids_NxT, ids_NxT != PAD_ID)
        return contrastive_loss(output.logits_per_image, positives_BxN)

    def language_loss(params: Params) -> jax.Array:
        decoder = networks.language_model.bind(params)
        return -jnp.mean(mean_logprob(decoder, batch.ids_BxT, batch.mask_BxT, begin_id=BEGIN_ID))

    optimizer = make_optimizer(config.optimizer)
    learning_rate = warmup_cosine(config.optimizer, state.step, config.steps)
    one = jnp.ones(())
    params: dict[str, Any] = {}
    opt_state: dict[str, Any] = {}
    metrics: Metrics = {}
    for name, loss in (("clip", clip_loss), ("language_model", language_loss)):
        value, gradients = jax.value_and_grad(loss)(state.params[name])
        params[name], opt_state[name], moved = apply_gradients(
            optimizer, gradients, state.params[name], state.opt_state[name], learning_rate
        )
        metrics[f"{name}/loss"] = (value, one)
        metrics |= {f"{name}/{key}": pair for key, pair in moved.items()}
    return TrainState(state.step + 1, params, opt_state), metrics


def retrieval(clip: Definition[CLIP], params: Params, pictures: Pictures) -> dict[str, float]:
    """Recall@1 and @5 both ways among all of `pictures` and their names; each name that fits is right."""
    similarity = on_host(_similarity(clip, params, pictures))
    right = on_host(fits(pictures, pictures.name_NxA[:, 0]))
    return {
        f"{way}_recall_at_{k}": float(recall_at_k(scores, relevant, k))
        for way, scores, relevant in (
            ("image_to_text", similarity, right),
            ("text_to_image", similarity.T, right.T),
        )
        for k in (1, 5)
    }


@functools.partial(jax.jit, static_argnums=0)
def _similarity(clip: Definition[CLIP], params: Params, pictures: Pictures) -> jax.Array:
    batch = plain(pictures)
    return clip.bind(params)(batch.pixels_BxHxWxC, batch.ids_BxT, batch.mask_BxT).logits_per_image


@on_own_mesh
def run(config: PretrainConfig) -> dict[str, Any]:
    """Trains both networks; leaves them under model/clip and model/language_model, with the tokenizer.

    Returns:
      The stage's result: retrieval on each held-out part.
    """
    source, clip = picture_source(config), config.sized()
    captions = source.captions("train")
    check_batch(config.batch, len(captions), "training pictures")
    said = [text for caption in captions for text in caption.texts]
    tokenizer = CaptionTokenizer.train(said, vocab_size=clip.text.vocab_size)
    warn_of_cuts(said, tokenizer, clip.text.max_length)
    texts = text_arrays(captions, tokenizer, clip.text.max_length)
    networks = define_networks(clip, config.language_model)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    near_NxK = nearest_names([caption.name for caption in captions], config.neighbours)
    update = jax.jit(guarded(functools.partial(update_step, networks, config), LOSSES))

    def begin_training(key: jax.Array) -> Guarded:
        return begin(init_state(networks, config, key), LOSSES)

    if config.dry_run:
        state = jax.eval_shape(begin_training, key_init)
        pictures = picture_shapes(texts, clip.vision.image_size)
        arguments = {"state": state, "pictures": pictures, "near_NxK": jnp.asarray(near_NxK), "key": key}
        describe("pretrain", state.state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder("pretrain"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        start = made(begin_training, key_init)
        if config.stream:
            stream = picture_stream(
                source, texts, config, order_key(jax.random.split(key)[0]), near_reader(texts, near_NxK)
            )
            step = jax.jit(guarded(functools.partial(learn, networks, config), LOSSES))
            state, _ = fit_streamed(
                lambda state, batch: step(state, *batch, key),
                start,
                stream,
                config,
                folder,
                steps=config.steps,
                shown=LOSSES,
            )
        else:
            pictures = to_device(source.load("train"), tokenizer, clip.text.max_length)
            near = jnp.asarray(near_NxK)
            state, _ = fit(
                lambda state: update(state, pictures, near, key),
                start,
                config,
                folder,
                steps=config.steps,
                shown=LOSSES,
                rescue=Rescue(lambda _, step: draw_both(pictures, near, key, jnp.asarray(step), config)),
            )
        for name, architecture in (("clip", clip), ("language_model", config.language_model)):
            save_model(folder.model / name, architecture, state.params[name])
            tokenizer.save(folder.model / name)
        result: dict[str, Any] = {}
        for part in source.held_out:
            held_out = to_device(source.load(part), tokenizer, clip.text.max_length)
            result[part] = retrieval(networks.clip, state.params["clip"], held_out)
        folder.finish(result)
        return folder.result()


def near_reader(texts: Pictures, near_NxK: np.ndarray) -> Callable[[int], Near]:
    """What gives the names that read like the one of a picture, by its row."""

    def read(row: int) -> Near:
        near_K = near_NxK[row]
        return Near(texts.ids_NxAxT[near_K, 0], texts.name_NxA[near_K, 0])

    return read


def warn_of_cuts(texts: Sequence[str], tokenizer: CaptionTokenizer, max_length: int) -> None:
    """Says how many captions are longer than the networks read."""
    cut = int(np.sum(tokenizer.count_tokens(texts) > max_length))
    if cut:
        print(
            f"pretrain: {cut} of {len(texts)} captions have more than {max_length} tokens and lose their "
            "end: raise --clip.text.max-length to keep it"
        )


class Pretrained(NamedTuple, Generic[ModuleT]):
    """A network that this stage left behind."""

    architecture: Any
    definition: Definition[ModuleT]
    params: Params
    tokenizer: CaptionTokenizer


# Stands for the networks of a run that this stage is no part of.
NOT_PRETRAINED: Pretrained[Any] = Pretrained(None, cast(Any, None), None, cast(Any, None))


def load_clip(config: StageConfig) -> Pretrained[CLIP]:
    """The CLIP that `pretrain` left in this run. Raises UserError where there is none."""
    return _load(config, "clip", CLIPConfig, CLIP)


def load_language_model(config: StageConfig) -> Pretrained[Decoder]:
    """The language model that `pretrain` left in this run. Raises UserError where there is none."""
    return _load(config, "language_model", DecoderConfig, Decoder)


def _load(config: StageConfig, name: str, architecture_class: type, module_class: Any) -> Pretrained[Any]:
    folder = config.folder("pretrain") / "model" / name
    architecture: Any = load_architecture(folder, architecture_class)
    definition: Definition[Any] = define(lambda rngs: module_class(architecture, rngs=rngs))
    params = load_params(folder, definition.abstract())
    return Pretrained(architecture, definition, params, CaptionTokenizer.load(folder))

"""Pretraining: a CLIP on pictures and names, and beside it a language model on the names alone."""

import functools
from typing import Any, Generic, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig
from mmrlhf_jax.data.neighbours import nearest_names
from mmrlhf_jax.data.tokens import BEGIN_ID, CaptionTokenizer
from mmrlhf_jax.encoders.clip import CLIP, contrastive_loss
from mmrlhf_jax.encoders.vit import to_pixels
from mmrlhf_jax.evaluate.retrieval import recall_at_k
from mmrlhf_jax.hub.folder import load_architecture, load_params, save_model
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.language.likelihood import mean_logprob
from mmrlhf_jax.modules import Definition, ModuleT, Params, define
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.training.config import PretrainConfig, StageConfig
from mmrlhf_jax.training.guard import begin, guarded
from mmrlhf_jax.training.loop import Rescue, describe, fit
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine
from mmrlhf_jax.training.pictures import PictureBatch, Pictures, check_batch, draw, load_split, to_device
from mmrlhf_jax.types import Metrics, TrainState

HELD_OUT = ("combinations", "concepts")


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


def draw_both(
    pictures: Pictures, near_NxK: jax.Array, key: jax.Array, step: jax.Array, config: PretrainConfig
) -> tuple[PictureBatch, jax.Array]:
    """The pictures of a step, and the rows of its texts: the pictures' own, then one alike for each."""
    key_draw, key_near = jax.random.split(key)
    batch = draw(pictures, key_draw, step, batch=config.batch, augment=config.augment)
    if not near_NxK.shape[1]:
        return batch, batch.row_B
    choice_B = jax.random.randint(jax.random.fold_in(key_near, step), batch.row_B.shape, 0, near_NxK.shape[1])
    return batch, jnp.concatenate([batch.row_B, near_NxK[batch.row_B, choice_B]])


def update_step(
    networks: Networks,
    config: PretrainConfig,
    state: TrainState,
    pictures: Pictures,
    near_NxK: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step of each network on the same names; they share nothing else.

    Args:
      near_NxK: rows of names that read like each picture's own; K may be 0.
    """
    batch, text_N = draw_both(pictures, near_NxK, key, state.step, config)

    def clip_loss(params: Params) -> jax.Array:
        ids_NxT, name_N = pictures.ids_NxT[text_N], pictures.name_N[text_N]
        output = networks.clip.bind(params)(batch.pixels_BxHxWxC, ids_NxT, pictures.mask_NxT[text_N])
        return contrastive_loss(output.logits_per_image, batch.name_B[:, None] == name_N[None])

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
    """Recall@1 and @5 both ways among all of `pictures`; pictures of the same name all count as right."""

    similarity = np.asarray(_similarity(clip, params, pictures))
    name_N = np.asarray(pictures.name_N)
    relevant = name_N[:, None] == name_N[None]
    return {
        f"{way}_recall_at_{k}": float(recall_at_k(scores, relevant, k))
        for way, scores in (("image_to_text", similarity), ("text_to_image", similarity.T))
        for k in (1, 5)
    }


@functools.partial(jax.jit, static_argnums=0)
def _similarity(clip: Definition[CLIP], params: Params, pictures: Pictures) -> jax.Array:
    pixels = to_pixels(pictures.image_NxHxWxC)
    return clip.bind(params)(pixels, pictures.ids_NxT, pictures.mask_NxT).logits_per_image


def run(config: PretrainConfig) -> dict[str, Any]:
    """Trains both networks; leaves them under model/clip and model/language_model, with the tokenizer.

    Returns:
      The stage's result: retrieval on each held-out part.
    """
    train = load_split(config, "train")
    check_batch(config.batch, len(train), "training pictures")
    tokenizer = CaptionTokenizer.train(train.names, vocab_size=config.clip.text.vocab_size)
    pictures = to_device(train, tokenizer, config.clip.text.max_length)
    networks = define_networks(config.clip, config.language_model)
    key_init, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    near_NxK = jnp.asarray(nearest_names(train.names, config.neighbours))
    update = jax.jit(guarded(functools.partial(update_step, networks, config), LOSSES))
    if config.dry_run:
        state = jax.eval_shape(lambda: begin(init_state(networks, config, key_init), LOSSES))
        arguments = {"state": state, "pictures": pictures, "near_NxK": near_NxK, "key": key}
        describe("pretrain", state.state.params, update, arguments)
        return {}
    with StageFolder.open(config.folder("pretrain"), config, resume=config.resume) as folder:
        if folder.is_done:
            return folder.result()
        state, _ = fit(
            lambda state: update(state, pictures, near_NxK, key),
            begin(init_state(networks, config, key_init), LOSSES),
            config,
            folder,
            steps=config.steps,
            shown=LOSSES,
            rescue=Rescue(lambda _, step: draw_both(pictures, near_NxK, key, jnp.asarray(step), config)),
        )
        for name, architecture in (("clip", config.clip), ("language_model", config.language_model)):
            save_model(folder.model / name, architecture, state.params[name])
            tokenizer.save(folder.model / name)
        result: dict[str, Any] = {}
        for split in HELD_OUT:
            held_out = to_device(load_split(config, split), tokenizer, config.clip.text.max_length)
            result[split] = retrieval(networks.clip, state.params["clip"], held_out)
        folder.finish(result)
        return folder.result()


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

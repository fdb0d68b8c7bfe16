"""The stage before the assistant's: its encoders learn to read rooms and instructions by themselves.

A word is left out of each instruction, and picture and other words tell which (masked language modelling with
pictures, Lu et al. 2019, arXiv:1908.02265). Neither rewards nor judgements are needed, so that those which
are there need not teach what a word means.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmrlhf_jax.actor_critic_config import ActorCriticConfig
from mmrlhf_jax.envs.protocol import Observation
from mmrlhf_jax.envs.rooms import Rooms, RoomsParams
from mmrlhf_jax.envs.rooms_language import WORDS, Split
from mmrlhf_jax.envs.vector import reset_all
from mmrlhf_jax.hub.folder import load_params, save_model
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.policy.observation import ObservationEncoder, linear
from mmrlhf_jax.runtime.folder import StageFolder
from mmrlhf_jax.training.assistant.config import AssistantConfig
from mmrlhf_jax.training.assistant.evaluation import splits
from mmrlhf_jax.training.config.reading import ReadingConfig
from mmrlhf_jax.training.loop import as_read, fit
from mmrlhf_jax.training.optimize import apply_gradients
from mmrlhf_jax.types import Metrics, TrainState


class Reader(nnx.Module):
    """The encoder of an actor-critic, and a guess at the word that is left out."""

    def __init__(self, environment: Rooms, config: ActorCriticConfig, *, rngs: nnx.Rngs):
        self.encoder = ObservationEncoder(environment.observation_space, config, rngs=rngs)
        self.out = linear(self.encoder.width, len(WORDS), 1.0, rngs)

    def __call__(self, observation: Observation) -> jax.Array:
        """Logits of all words, (B, V)."""
        return self.out(self.encoder(observation))


@functools.cache
def define_reader(environment: Rooms, config: ActorCriticConfig) -> Definition[Reader]:
    """The reader without parameters; always the same object for the same arguments."""
    return define(lambda rngs: Reader(environment, config, rngs=rngs))


def gaps(environment: Rooms, split: Split) -> RoomsParams:
    """What `split` poses, each instruction without one word, each thing as it is."""
    return environment.params(split)._replace(word_dropout=1.0, disguise=0.0)


def guess(
    environment: Rooms, reader: Reader, world: RoomsParams, key: jax.Array, *, batch: int
) -> tuple[jax.Array, jax.Array]:
    """(cross-entropy in nats, whether the likeliest word is the right one), (B,) each, in rooms by `key`."""
    state, observation = reset_all(environment, key, world, batch)
    word_B = jax.vmap(environment.left_out)(state)
    logits_BxV = reader(observation)
    right_B = jnp.argmax(logits_BxV, axis=-1) == word_B
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxV, word_B), right_B.astype(jnp.float32)


def start_reading(definition: Definition[Reader], config: ReadingConfig, key: jax.Array) -> TrainState:
    """A fresh reader and its optimizer."""
    params = definition.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, _optimizer(config).init(params))


def read_step(
    environment: Rooms,
    definition: Definition[Reader],
    config: ReadingConfig,
    state: TrainState,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One gradient step; random by (key, step) alone. The learning rate falls along half a cosine."""

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        loss_B, right_B = guess(
            environment,
            definition.bind(params),
            gaps(environment, "train"),
            jax.random.fold_in(key, state.step),
            batch=config.batch_size,
        )
        return jnp.mean(loss_B), jnp.mean(right_B)

    (value, right), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    done = state.step.astype(jnp.float32) / config.steps
    rate = config.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    params, opt_state, moved = apply_gradients(
        _optimizer(config), gradients, state.params, state.opt_state, rate
    )
    one = jnp.ones(())
    metrics = {"loss": (value, one), "accuracy": (right, one), "learning_rate": (rate, one)} | moved
    return TrainState(state.step + 1, params, opt_state), metrics


def run(config: AssistantConfig, environment: Rooms, keys_K: jax.Array) -> Params:
    """Reads, or loads what a start before this one read: the encoders of K seeds on a leading axis.

    Leaves RUN/seed_0/reading with metrics, checkpoints, model and, by split, how many words were right.
    """
    definition, reading = define_reader(environment, config.architecture), config.reading
    start = functools.partial(start_reading, definition, reading)
    step = functools.partial(read_step, environment, definition, reading)
    seeds, own_K = len(keys_K), jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys_K)
    with StageFolder.open(config.folder("reading"), config, resume=config.resume) as folder:
        if not folder.is_done:
            together = jax.jit(lambda states: as_read(jax.vmap(step)(states, own_K), seeds))
            states = fit(
                together,
                jax.vmap(start)(own_K),
                config,
                folder,
                steps=reading.steps,
                shown=("loss", "accuracy"),
                members=seeds,
            )
            save_model(folder.model, config.architecture, states.params)
            folder.finish({"accuracy": accuracies(environment, definition, states.params)})
        params_K = load_params(folder.model, jax.eval_shape(jax.vmap(start), own_K).params)
    return params_K["encoder"]


def accuracies(environment: Rooms, definition: Definition[Reader], params_K: Params) -> dict[str, float]:
    """By split, how many of the words that are left out are guessed, over 1,024 rooms of each seed."""

    def right(params: Params, world: RoomsParams) -> jax.Array:
        return guess(environment, definition.bind(params), world, jax.random.key(3), batch=1024)[1]

    measure = jax.jit(jax.vmap(right, in_axes=(0, None)))
    worlds = {split: gaps(environment, split) for split in splits(environment.level)}
    return {split: float(jnp.mean(measure(params_K, world))) for split, world in worlds.items()}


def _optimizer(config: ReadingConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam())

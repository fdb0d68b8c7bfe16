"""One method on one task: all seeds train in one vmapped program and are asked in another."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.data.fusion_tasks import FusionExamples
from mmrlhf_jax.fusion import Masks, build_fusion, drop_modalities
from mmrlhf_jax.modules import Definition, Params, define
from mmrlhf_jax.training.fusion_benchmark.config import TrialConfig
from mmrlhf_jax.training.optimize import apply_gradients, make_optimizer, warmup_cosine

MODALITIES = ("image", "text")


class Asked(NamedTuple):
    """What a model says of N examples.

    Attributes:
      logit_N: log-odds of the label 1.
      weights_Nx2: weight of picture and text in the fusion; None where the method has none.
    """

    logit_N: jax.Array
    weights_Nx2: jax.Array | None


class Judge(nnx.Module):
    """score = w . gelu(fusion(picture, text)) + b, without the gelu where the fusion asks for a linear head.

    The head of the reward model (`reward/model.py`), so that what is found here holds there.
    """

    def __init__(self, method: FusionName, features: tuple[int, int], width: int, *, rngs: nnx.Rngs):
        self.fusion = build_fusion(
            method, dict(zip(MODALITIES, features, strict=True)), width=width, rngs=rngs
        )
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, image_NxD: jax.Array, text_NxD: jax.Array, present_Nx2: jax.Array) -> Asked:
        fused = self.fusion(dict(zip(MODALITIES, (image_NxD, text_NxD), strict=True)), Masks(present_Nx2))
        vector_NxW = fused.vector_BxD if self.fusion.linear_readout else jax.nn.gelu(fused.vector_BxD)
        return Asked(self.head(vector_NxW)[:, 0], fused.weights_BxM)

    def ask(self, examples: FusionExamples) -> Asked:
        """The score; where two answers are compared, the first one's minus the second's."""
        asked = self(examples.image_NxD, examples.text_NxD, examples.present_Nx2)
        if examples.other_NxD is None:
            return asked
        other = self(examples.image_NxD, examples.other_NxD, examples.present_Nx2)
        return Asked(asked.logit_N - other.logit_N, asked.weights_Nx2)


@functools.cache  # one definition, hence one compiled program, for all tasks of the same sizes
def define_judge(method: FusionName, features: tuple[int, int], width: int) -> Definition[Judge]:
    """The model of `method` for features of picture and text of these sizes, without parameters."""
    return define(lambda rngs: Judge(method, features, width, rngs=rngs))


def train_one(
    model: Definition[Judge], config: TrialConfig, key: jax.Array, examples: FusionExamples
) -> tuple[Params, jax.Array]:
    """Trains one seed from nothing: logistic loss, Adam, modalities dropped at random.

    For comparisons the loss is that of Bradley and Terry.

    Returns:
      (parameters, loss of each step (T,)).
    """
    key_init, key_steps = jax.random.split(key)
    # One vector: the optimizer's few operations instead of as many for each parameter, in compilation too.
    flat_P, as_params = ravel_pytree(model.init(key_init))
    optimizer = make_optimizer(config.optimizer)

    def update(
        state: tuple[jax.Array, optax.OptState], step: jax.Array
    ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
        key_rows, key_drop = jax.random.split(jax.random.fold_in(key_steps, step))
        rows_B = jax.random.randint(key_rows, (config.batch,), 0, examples.label_N.shape[0])
        batch = jax.tree.map(lambda leaf: leaf[rows_B], examples)
        batch = batch._replace(
            present_Nx2=drop_modalities(batch.present_Nx2, config.modality_dropout, key_drop)
        )

        def loss(flat_P: jax.Array) -> jax.Array:
            logit_B = model.bind(as_params(flat_P)).ask(batch).logit_N
            return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logit_B, batch.label_N))

        value, gradients = jax.value_and_grad(loss)(state[0])
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix whole numbers with others
            rate = warmup_cosine(config.optimizer, step, config.steps)
        return apply_gradients(optimizer, gradients, *state, rate)[:2], value

    start = (flat_P, optimizer.init(flat_P))
    (flat_P, _), losses_T = jax.lax.scan(update, start, jnp.arange(config.steps))
    return as_params(flat_P), losses_T


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(
    model: Definition[Judge], config: TrialConfig, key_K: jax.Array, examples: FusionExamples
) -> tuple[Params, jax.Array]:
    """`train_one` for K seeds at once, each on its own examples: leaves of `examples` begin with K.

    Returns:
      (parameters, losses (K, T)), every leaf with K in front.
    """
    return jax.vmap(functools.partial(train_one, model, config))(key_K, examples)


def flops_per_example(model: Definition[Judge], examples: FusionExamples) -> float:
    """Floating-point operations of one score, as XLA counts those of the program for a batch.

    Args:
      examples: of one seed; only shapes matter.
    """
    count = examples.label_N.shape[0]
    asked = jax.jit(lambda params, examples: model.bind(params).ask(examples))
    cost = asked.lower(model.abstract(), examples).cost_analysis()
    return cost["flops"] / count if cost else float("nan")  # some backends do not say

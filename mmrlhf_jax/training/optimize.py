"""From gradients to new parameters, the same for every stage."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmrlhf_jax.config import OptimizerConfig
from mmrlhf_jax.types import Metrics


def make_optimizer(
    config: OptimizerConfig, *, slower: Mapping[str, jax.Array | float] | None = None
) -> optax.GradientTransformation:
    """AdamW's direction after clipping by global norm; the learning rate comes with each step.

    Args:
      slower: factors on the direction, by name of a part (a top-level key of the parameters).
    """
    factors = (slower or {}).items()
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
        *(optax.masked(optax.scale(factor), functools.partial(_is_part, part)) for part, factor in factors),
    )


def warmup_cosine(config: OptimizerConfig, step: jax.Array, steps: int) -> jax.Array:
    """Learning rate of `step`: up linearly over the warm-up, then down a half cosine to a tenth."""
    warmup = min(config.warmup_steps, max(1, steps // 4), steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, steps, end_value=0.1 * config.learning_rate
    )
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the count with floats
        return schedule(step + 1)


def apply_gradients(
    optimizer: optax.GradientTransformation,
    gradients: Any,
    params: Any,
    opt_state: Any,
    learning_rate: jax.Array | float,
) -> tuple[Any, Any, Metrics]:
    """One optimizer step, or none at all where the gradient is not finite.

    Returns:
      (params, opt_state, metrics), with the gradient's norm before clipping and the share of steps skipped.
    """
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
        direction, new_opt_state = optimizer.update(gradients, opt_state, params)
    new_params = jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (new_params, new_opt_state), (params, opt_state)
    )
    one = jnp.ones(())
    metrics = {
        "grad_norm": (jnp.where(finite, norm, 0.0), one),
        "skipped_steps": (1.0 - finite.astype(jnp.float32), one),
    }
    return params, opt_state, metrics


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _is_part(part: str, params: Any) -> dict[str, bool]:
    return {name: name == part for name in params}

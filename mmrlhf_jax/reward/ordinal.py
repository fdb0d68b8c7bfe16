"""Ratings on a scale of ordered levels, as what a latent reward passes on its way up."""

import jax
import jax.numpy as jnp
import numpy as np

_LEAST_STEP = 1e-3  # between cutpoints: what float32 can tell apart


def ordered_cutpoints(raw: jax.Array) -> jax.Array:
    """K - 1 rising cutpoints from as many free numbers: the first one, then 0.001 + softplus for each step.

    Args:
      raw: (K - 1,).
    """
    return jnp.cumsum(jnp.concatenate([raw[:1], _LEAST_STEP + jax.nn.softplus(raw[1:])]))


def raw_cutpoints(cutpoints: np.ndarray) -> np.ndarray:
    """The free numbers whose `ordered_cutpoints` are these, float32.

    Raises:
      ValueError: the cutpoints do not rise, or by less than 0.001.
    """
    cutpoints = np.asarray(cutpoints, np.float64)
    step = np.diff(cutpoints) - _LEAST_STEP
    if not (step > 0).all():
        raise ValueError(f"cutpoints must rise by more than {_LEAST_STEP}, got {cutpoints.tolist()}")
    return np.concatenate([cutpoints[:1], step + np.log(-np.expm1(-step))]).astype(np.float32)


def level_logprobs(reward_B: jax.Array, cutpoints: jax.Array) -> jax.Array:
    """Log-probability of each of K levels, (B, K): proportional odds.

    P(level <= k) = sigmoid(c_k - reward)

    Args:
      cutpoints: (K - 1,), rising. The reward's unit is thereby that of a logit.

    Source: McCullagh 1980, "Regression Models for Ordinal Data", section 2.
    """
    above_BxK = jax.nn.log_sigmoid(reward_B[:, None] - cutpoints[None])
    below_BxK = jax.nn.log_sigmoid(cutpoints[None] - reward_B[:, None])
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): nothing cancels in the tails
    between = jnp.log(-jnp.expm1(-jnp.diff(cutpoints)))
    return (
        jnp.pad(above_BxK, ((0, 0), (1, 0)))
        + jnp.pad(below_BxK, ((0, 0), (0, 1)))
        + jnp.pad(between, (1, 1))[None]
    )


def ordinal_loss(reward_B: jax.Array, level_B: jax.Array, cutpoints: jax.Array) -> jax.Array:
    """Negative log-likelihood of each rating, (B,) in nats; 0 where there is none.

    Args:
      level_B: int32, from 0 to K - 1; below 0 where a rating is missing.
      cutpoints: (K - 1,), rising.
    """
    logprob_BxK = level_logprobs(reward_B, cutpoints)
    said_B = jnp.take_along_axis(logprob_BxK, jnp.maximum(level_B, 0)[:, None], axis=1)[:, 0]
    return jnp.where(level_B >= 0, -said_B, 0.0)


def expected_level(reward_B: jax.Array, cutpoints: jax.Array) -> jax.Array:
    """The mean of the levels that the model expects, (B,), from 0 to K - 1: the sum of P(level > k)."""
    return jnp.sum(jax.nn.sigmoid(reward_B[:, None] - cutpoints[None]), axis=1)


def level_edges(ratings: np.ndarray, most: int = 10) -> np.ndarray:
    """Where one level of the given ratings ends and the next one begins, rising.

    Few distinct values, such as 1 to 5 stars, are a level each; of more than `most`, levels of about as many
    ratings each are made. The level of a rating is `np.searchsorted(edges, rating)`.

    Args:
      ratings: any shape; NaN where there is none.

    Raises:
      ValueError: fewer than two distinct ratings.
    """
    ratings = np.asarray(ratings, np.float64)
    ratings = ratings[~np.isnan(ratings)]
    values = np.unique(ratings)
    if len(values) < 2:
        raise ValueError(f"ratings must differ, but all are {values.tolist()}")
    middles = (values[1:] + values[:-1]) / 2
    if len(values) <= most:
        return middles
    quantiles = np.quantile(ratings, np.arange(1, most) / most)
    return np.unique(middles[np.minimum(np.searchsorted(middles, quantiles), len(middles) - 1)])


def marginal_cutpoints(level_B: np.ndarray, levels: int) -> np.ndarray:
    """Cutpoints of a model without rewards, the logits of the cumulated shares: where training starts.

    Args:
      level_B: from 0 to levels - 1; below 0 where a rating is missing.
    """
    level_B = np.asarray(level_B)
    count = np.bincount(level_B[level_B >= 0], minlength=levels) + 0.5  # no share is 0
    below = np.cumsum(count)[:-1] / count.sum()
    return np.log(below) - np.log1p(-below)

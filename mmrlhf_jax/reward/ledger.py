"""Where the reward came from: what is logged of each term, and which of them decided.

    share of a term = cov(weighted, total) / var(total);  the shares sum to 1

A share tells what the reward's differences between completions are made of, which the weights do not: a term
of great weight that is the same for all completions decides nothing, and one that works against the others
has a negative share (the covariance decomposition of Li et al. 2010, "Global sensitivity analysis for systems
with independent and/or correlated inputs").
"""

import itertools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.types import Metrics, RewardLedger

_MOMENT = "moments/"


def ledger_metrics(ledger: RewardLedger) -> Metrics:
    """Means of every term, raw, normalised and weighted, and the products that `ledger_numbers` needs.

    All are (sum, weight) pairs over completions, so that those of microbatches and devices add up.
    """
    rows = jnp.asarray(float(ledger.total_B.shape[0]))
    metrics = {}
    for name in ledger.raw:
        metrics[f"rewards/{name}/mean"] = (jnp.sum(ledger.raw[name]), rows)
        metrics[f"rewards/{name}/normalised"] = (jnp.sum(ledger.normalised[name]), rows)
        metrics[f"rewards/{name}/weighted"] = (jnp.sum(ledger.weighted[name]), rows)
        metrics[f"{_MOMENT}{name}/total"] = (jnp.sum(ledger.weighted[name] * ledger.total_B), rows)
    for one, other in itertools.combinations_with_replacement(sorted(ledger.raw), 2):
        product_B = ledger.normalised[one] * ledger.normalised[other]
        metrics[f"{_MOMENT}{one}/{other}"] = (jnp.sum(product_B), rows)
    return metrics


def ledger_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Means over completions, as they are written: shares and correlations in the place of the products.

    `rewards/<term>/share` and `rewards/correlation/<term>/<term>` are NaN where nothing varies, and where a
    term is not finite.

    Args:
      numbers: every metric's mean; those that are not of the ledger pass through.
    """
    names = sorted(
        key.split("/")[1] for key in numbers if key.startswith("rewards/") and key.endswith("/weighted")
    )
    written = {key: value for key, value in numbers.items() if not key.startswith(_MOMENT)}
    weighted = {name: numbers[f"rewards/{name}/weighted"] for name in names}
    normalised = {name: numbers[f"rewards/{name}/normalised"] for name in names}

    products = {name: numbers[f"{_MOMENT}{name}/total"] for name in names}  # their sum is the mean of total^2
    total = sum(weighted.values())  # math.fsum refuses infinity of both signs
    covariance = {name: products[name] - weighted[name] * total for name in names}
    variance = _variance(sum(products.values()), total)
    for name in names:
        written[f"rewards/{name}/share"] = covariance[name] / variance

    spread = {
        name: math.sqrt(_variance(numbers[f"{_MOMENT}{name}/{name}"], normalised[name])) for name in names
    }
    for one, other in itertools.combinations(names, 2):
        joint = numbers[f"{_MOMENT}{one}/{other}"] - normalised[one] * normalised[other]
        written[f"rewards/correlation/{one}/{other}"] = joint / (spread[one] * spread[other])
    return written


def _variance(mean_of_square: float, mean: float) -> float:
    """The variance; NaN where no more of it is left than float32 sums round off."""
    variance = mean_of_square - mean * mean
    return variance if variance > 1e-5 * mean_of_square else math.nan


def require_finite(
    values: Mapping[str, np.ndarray | jax.Array], reasons: Mapping[str, str] | None = None
) -> None:
    """Raises `UserError`, in one line, for the first term with a value that is not finite."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            reason = (reasons or {}).get(name)
            why = f" ({reason})" if reason else ""
            raise UserError(f"reward term {name!r} is not a finite number{why}: mend what computes it")

"""What the ledger logs, against numpy over all completions at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.reward.composite import Normaliser, compose
from mmrlhf_jax.reward.ledger import ledger_metrics, ledger_numbers, require_finite
from mmrlhf_jax.runtime.metrics import finalize
from mmrlhf_jax.types import RewardLedger

NAMES = ("a", "b", "c")
WEIGHTS = {"a": 1.0, "b": 0.5, "c": 0.0}


def ledger(rows: int = 96, **replaced: np.ndarray) -> RewardLedger:
    """Terms of which the second works against the first, and the third counts for nothing."""
    rng = np.random.default_rng(0)
    a = rng.normal(2.0, 1.5, rows)
    raw = {"a": a, "b": -0.7 * a + rng.normal(0, 0.5, rows), "c": rng.normal(5.0, 3.0, rows)} | replaced
    normaliser = Normaliser(*({name: jnp.asarray(value) for name in NAMES} for value in (0.5, 2.0)))
    weights = {name: jnp.asarray(weight) for name, weight in WEIGHTS.items()}
    return compose({n: jnp.asarray(v, jnp.float32) for n, v in raw.items()}, normaliser, weights)


def numbers(ledger: RewardLedger) -> dict[str, float]:
    return ledger_numbers(finalize(ledger_metrics(ledger)))


def test_means_shares_and_correlations_are_those_of_numpy():
    entries = ledger()
    got = numbers(entries)
    weighted = {name: np.asarray(entries.weighted[name], np.float64) for name in NAMES}
    total = sum(weighted.values())
    for name in NAMES:
        raw = np.asarray(entries.raw[name], np.float64)
        assert got[f"rewards/{name}/mean"] == pytest.approx(raw.mean(), rel=1e-5)
        assert got[f"rewards/{name}/normalised"] == pytest.approx((raw.mean() - 0.5) / 2, rel=1e-5)
        assert got[f"rewards/{name}/weighted"] == pytest.approx(weighted[name].mean(), rel=1e-5, abs=1e-7)
        share = np.cov(weighted[name], total, bias=True)[0, 1] / total.var()
        assert got[f"rewards/{name}/share"] == pytest.approx(share, abs=1e-4)
    assert got["rewards/a/share"] > 1 and got["rewards/b/share"] < 0 == got["rewards/c/share"]
    table = np.corrcoef([np.asarray(entries.raw[name], np.float64) for name in NAMES])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        correlation = got[f"rewards/correlation/{NAMES[one]}/{NAMES[other]}"]
        assert correlation == pytest.approx(table[one, other], abs=1e-4)
    assert len(got) == 3 * 4 + 3  # and no product is left


def test_shares_sum_to_one():
    got = numbers(ledger())
    assert sum(got[f"rewards/{name}/share"] for name in NAMES) == pytest.approx(1.0, abs=1e-9)


def test_microbatches_add_up():
    """(sum, weight) pairs of three unequal parts, added, give the numbers of the whole."""
    whole = ledger()
    parts = [
        ledger_metrics(jax.tree.map(lambda leaf, rows=rows: leaf[rows], whole))
        for rows in (slice(0, 10), slice(10, 50), slice(50, 96))
    ]
    added = {name: tuple(sum(float(part[name][i]) for part in parts) for i in (0, 1)) for name in parts[0]}
    got, want = ledger_numbers(finalize(added)), numbers(whole)
    assert got.keys() == want.keys()
    for name in want:
        assert got[name] == pytest.approx(want[name], rel=1e-4, abs=1e-5), name


def test_where_nothing_varies_there_is_no_share_and_no_correlation():
    got = numbers(ledger(a=np.full(96, 7.0), b=np.full(96, -3.3)))
    assert np.isnan(got["rewards/a/share"]) and np.isnan(got["rewards/b/share"])
    assert np.isnan(got["rewards/correlation/a/b"]) and np.isnan(got["rewards/correlation/a/c"])
    one = numbers(ledger(a=np.full(96, 7.0)))
    assert one["rewards/b/share"] == pytest.approx(1.0) and one["rewards/a/share"] == pytest.approx(
        0, abs=1e-4
    )
    assert np.isfinite(one["rewards/correlation/b/c"])


def test_other_metrics_pass_through_and_a_run_without_a_ledger_has_none():
    plain = {"objective/kl": 1.5, "loss": float("nan")}
    assert ledger_numbers(plain) == plain
    assert ledger_numbers(finalize(ledger_metrics(ledger())) | {"loss": 2.0})["loss"] == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_term_that_is_not_a_number_leaves_the_others_and_is_named_in_one_line(bad):
    values = np.zeros(96)
    values[17] = bad
    written, healthy = numbers(ledger(b=values)), numbers(ledger())
    assert np.isnan(written["rewards/b/share"]) and not np.isfinite(written["rewards/b/mean"])
    assert written["rewards/correlation/a/c"] == healthy["rewards/correlation/a/c"]
    with pytest.raises(UserError) as error:
        require_finite({"b": values})
    assert str(error.value) == "reward term 'b' is not a finite number: mend what computes it"
    require_finite({"a": np.zeros(3), "b": jnp.zeros(3)})
    with pytest.raises(UserError, match=r"'b' is not a finite number \(ValueError: no\)"):
        require_finite({"a": np.zeros(3), "b": np.array([0, bad])}, {"a": "", "b": "ValueError: no"})

"""What judgements say, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from mmrlhf_jax.feedback.dashboard import overview
from mmrlhf_jax.feedback.scores import bradley_terry, bradley_terry_errors
from mmrlhf_jax.feedback.store import Lease, Store
from mmrlhf_jax.feedback.tasks import Item, attention_check


def test_two_competitors_have_the_log_odds_of_their_games():
    wins = np.array([[0, 30], [10, 0]])
    np.testing.assert_allclose(bradley_terry(wins, prior=0), [math.log(3) / 2, -math.log(3) / 2], rtol=1e-6)
    # the variance of the difference is 1 / (n p q), that of either half a quarter of it
    variance = 1 / (40 * 0.75 * 0.25)
    np.testing.assert_allclose(bradley_terry_errors(wins, prior=0), [math.sqrt(variance) / 2] * 2, rtol=1e-6)


def test_strengths_that_made_the_games_are_found():
    true = np.array([1.2, 0.1, -0.4, -0.9])
    expected = 1000 / (1 + np.exp(true[None] - true[:, None]))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(bradley_terry(expected, prior=0), true, atol=1e-5)
    assert np.isfinite(bradley_terry(np.array([[0, 5], [0, 0]]))).all()  # who always won is not infinite


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        opened.add_raters(["one", "two", "idle"])
        sources = {"sources": ["old", "new"]}
        opened.add_items([Item("compare", "", ("x", "y"), wanted=2, extras=sources)] * 4)
        opened.add_items([attention_check(0), Item("rate", "", ("x",))])
        yield opened


def judge(store: Store, rater: int, item: int, answer, shown=(0, 1), seconds=2.0):
    lease = Lease(item, rater, shown, "random", 0.0)
    store.lease(lease)
    store.judge(f"{rater}-{item}", rater, store.items()[item], lease, answer, seconds, time=3600.0 * item)


def test_an_empty_store_has_an_overview(store):
    seen = overview(store)
    assert (seen["items"], seen["finished"], seen["judgements"], seen["alpha"]) == (5, 0, 0, None)
    assert seen["raters"][0] == {
        "name": "one",
        "done": 0,
        "seconds": None,
        "agreement": None,
        "first": None,
        "checks": None,
    }


def test_overview(store):
    for item, (one, two) in enumerate([("a", "a"), ("b", "b"), ("a", "b"), ("a", "tie")], start=1):
        judge(store, 1, item, {"choice": one}, seconds=float(item))
        judge(store, 2, item, {"choice": two}, shown=(1, 0))
    judge(store, 1, 5, {"choice": "b"})  # the check expects a
    judge(store, 2, 5, {"choice": "a"})
    judge(store, 2, 6, {"choice": "skip"})
    seen = overview(store)
    assert (seen["items"], seen["finished"], seen["judgements"], seen["skipped"]) == (5, 4, 11, 1)
    assert seen["agreement"] == 0.5 and dict(seen["choices"]) == {"a": 4, "b": 3, "tie": 1}
    # By hand: 8 values a4 b3 t1; observed disagreement 4 of 8, expected 56 - (12 + 6 + 0) = 38 of 56
    assert seen["alpha"] == pytest.approx(1 - (4 / 8) / (38 / 56))
    one, two, idle = seen["raters"]
    assert one == {"name": "one", "done": 5, "seconds": 2.0, "agreement": 0.5, "first": 0.75, "checks": 0.0}
    assert two["first"] == pytest.approx(2 / 3) and two["checks"] == 1.0 and idle["done"] == 0
    assert [row["item"] for row in seen["disputed"]] == [3, 4]
    assert seen["disputed"][0]["votes"] == [["one", "a"], ["two", "b"]]
    assert seen["pace"][0] == [0.0, 1] and seen["pace"][-1] == [5.0, 11]
    best, worst = seen["scores"]
    assert (best["source"], worst["source"]) == ("old", "new") and best["low"] < best["score"] < best["high"]
    # 4.5 to 3.5, and the prior on either side
    assert best["score"] - worst["score"] == pytest.approx(math.log(4.6 / 3.6), rel=1e-4)


def test_ratings_by_aspect(store):
    assert overview(store)["aspects"] == []
    store.add_items([Item("rate", "", ("y",), wanted=2), Item("rate", "", ("z",), wanted=2)])
    for rater, (first, second) in ((1, (5, 1)), (2, (3, 1))):
        for item, rating in ((7, first), (8, second)):
            judge(store, rater, item, {"ratings": {"accurate": rating, "fluent": 4, "considerate": 2}}, (0,))
    accurate, fluent, _ = overview(store)["aspects"]
    assert (accurate["count"], accurate["mean"], fluent["mean"], fluent["alpha"]) == (4, 2.5, 4.0, None)
    # By hand: observed (2 x 4 + 0) / 4, expected over all ordered pairs of 5 3 1 1: 88 / 12
    assert accurate["alpha"] == pytest.approx(1 - 2 / (88 / 12))

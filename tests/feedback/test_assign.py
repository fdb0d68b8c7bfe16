"""Who gets which item: no two by accident, the order by strategy, checks, leases; and whole answers."""

import math

import numpy as np
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.assign import CHECK, Assigner, disagreement, expected_information
from mmrlhf_jax.feedback.store import Judged, Lease
from mmrlhf_jax.feedback.tasks import Item, attention_check, check_answer, preferred


def pair(wanted: int = 1, priority: float = 0.0) -> Item:
    return Item("compare", "", ("x", "y"), wanted=wanted, priority=priority)


def assigner(items, **options) -> Assigner:
    return Assigner(dict(enumerate(items, start=1)), **{"check_every": 0, **options})


def run_through(desk: Assigner, rater: int, now: float = 0.0) -> list[int]:
    found = []
    while (lease := desk.next(rater, now)) is not None:
        found.append(lease.item)
        desk.judged(rater, lease.item)
    return found


def test_raters_share_the_items_and_get_none_twice():
    desk = assigner([pair(wanted=1 + (i < 3)) for i in range(10)])
    first = [desk.next(1, 0.0).item, desk.next(2, 0.0).item]
    got = {1: run_through(desk, 1), 2: run_through(desk, 2)}
    assert len(set(first)) == 2 or first[0] <= 3  # at once the same one only where two are wanted
    for numbers in got.values():
        assert len(set(numbers)) == len(numbers)
    counts = np.bincount(got[1] + got[2], minlength=11)[1:]
    np.testing.assert_array_equal(counts, [2, 2, 2, 1, 1, 1, 1, 1, 1, 1])


def test_what_is_in_hand_comes_again_in_the_same_order():
    desk = assigner([Item("list", "", tuple("abcdefgh"))] * 4)
    lease = desk.next(1, 0.0)
    assert desk.next(1, 5.0)._replace(until=0) == lease._replace(until=0)
    other = desk.next(1, 5.0, besides=[lease.item])
    assert other.item != lease.item and sorted(other.shown) == list(range(8))
    assert desk.open_for(1) == 4 and desk.open_for(2) == 2


def test_a_lease_ends_and_its_item_goes_to_others():
    desk = assigner([pair()], lease_seconds=10.0)
    lease = desk.next(1, 0.0)
    assert desk.next(2, 9.0) is None
    assert desk.next(1, 9.0).until == 19.0  # renewed
    assert desk.next(2, 18.0) is None
    assert desk.next(2, 19.5).item == lease.item
    assert desk.next(1, 20.0) is None
    assert desk.next(1, 40.0).shown == lease.shown  # back again, and the order is still the first one's


def test_skipped_items_go_to_others_and_undone_ones_come_back():
    desk = assigner([pair()])
    desk.judged(1, desk.next(1, 0.0).item, skipped=True)
    assert desk.next(1, 1.0) is None
    desk.judged(2, desk.next(2, 1.0).item)
    assert desk.next(3, 2.0) is None and desk.done_by(2) == 1
    assert desk.undone(2, 1, 2.0).item == 1
    assert desk.next(2, 3.0).item == 1 and desk.next(3, 3.0) is None and desk.done_by(2) == 0


def test_priorities_order_what_comes_and_random_ignores_them():
    items = [pair(priority=p) for p in (0.1, 0.9, 0.5, 0.9)]
    order = run_through(assigner(items, strategy="disagreement", seed=3), 1)
    assert order[2:] == [3, 1] and set(order[:2]) == {2, 4}
    many = [pair(priority=float(i)) for i in range(30)]
    orders = [run_through(assigner(many, seed=seed), 1) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and orders[0] != sorted(orders[0], reverse=True)


def test_checks_come_regularly_once_each_and_are_called_so():
    desk = assigner([pair() for _ in range(12)] + [attention_check(0), attention_check(1)], check_every=4)
    order = []
    while (lease := desk.next(1, 0.0)) is not None:
        order.append(lease.strategy == CHECK)
        desk.judged(1, lease.item)
    assert [i for i, check in enumerate(order) if check] == [4, 9] and len(order) == 14
    assert desk.open_for(1) == 0


def test_the_store_rebuilds_it():
    items = [pair() for _ in range(4)]
    leases = [
        Lease(1, 1, (1, 0), "random", 5.0),
        Lease(2, 1, (0, 1), "random", 50.0),
        Lease(3, 2, (0, 1), "r", 50.0),
    ]
    judged = [Judged(1, "k", 2, 3, {"choice": "a"}, (0, 1), "r", 1.0, 0.0)]
    judged.append(Judged(2, "l", 2, 4, {"choice": "skip"}, (0, 1), "r", 1.0, 0.0))
    desk = assigner(items)
    desk.restore(leases, judged, now=10.0)
    assert desk.next(1, 10.0).item == 2  # in hand; the lease of item 1 has ended
    assert {desk.next(2, 10.0).item} == {1}  # 2 is another's, 3 is judged, 4 was skipped
    assert desk.next(1, 10.0, besides=[2]).item == 4


def test_disagreement_and_information():
    margins = np.array([[2.0, 0.0, 3.0, 1.0], [2.0, 0.0, -3.0, 0.0]])
    np.testing.assert_allclose(disagreement(margins), [0, 0, 3, 0.5])
    information = expected_information(margins)
    p = 1 / (1 + math.exp(-3))
    certain = -p * math.log(p) - (1 - p) * math.log(1 - p)
    np.testing.assert_allclose(information[:3], [0, 0, math.log(2) - certain], atol=1e-12)
    assert 0 < information[3] < information[2]
    assert expected_information(np.array([[800.0], [-800.0]]))[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("options", [{"strategy": "best"}, {"lease_seconds": 0}, {"check_every": -1}])
def test_senseless_settings_are_told(options):
    with pytest.raises(UserError):
        assigner([pair()], **options)


RATINGS = {"accurate": 5, "fluent": 1, "considerate": 3}
KINDS = {
    "compare": Item("compare", "", ("x", "y")),
    "rate": Item("rate", "", ("x",)),
    "list": Item("list", "", ("x", "y", "z")),
    "correct": Item("correct", "", ("x",)),
}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("compare", {"choice": "both_bad"}),
        ("rate", {"ratings": RATINGS}),
        ("list", {"clicks": [2, 0], "dwell_seconds": [1.0, 0.0, 2.5]}),
        ("correct", {"text": "better"}),
        *((kind, {"choice": "skip"}) for kind in KINDS),
    ],
)
def test_whole_answers_pass(kind, answer):
    assert check_answer(KINDS[kind], answer) == answer


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("compare", {}),
        ("compare", {"choice": "A"}),
        ("compare", {"choice": ["a"]}),
        ("compare", {"choice": "a", "more": 1}),
        ("rate", {"choice": "a"}),
        ("rate", {"ratings": {**RATINGS, "fluent": 6}}),
        ("rate", {"ratings": {**RATINGS, "fluent": True}}),
        ("rate", {"ratings": {**RATINGS, "fluent": 2.0}}),
        ("rate", {"ratings": {"accurate": 1}}),
        ("list", {"clicks": [3], "dwell_seconds": [0, 0, 0]}),
        ("list", {"clicks": [1, 1], "dwell_seconds": [0, 0, 0]}),
        ("list", {"clicks": [], "dwell_seconds": [0, 0]}),
        ("list", {"clicks": [], "dwell_seconds": [0, 0, -1]}),
        ("list", {"clicks": [], "dwell_seconds": [0, 0, float("nan")]}),
        ("correct", {"text": " x "}),
        ("correct", {"text": " "}),
        ("correct", {"text": "y" * 20_001}),
        ("correct", {"text": 5}),
        ("correct", {"text": "\ud800"}),
    ],
)
def test_broken_answers_are_refused(kind, answer):
    with pytest.raises(UserError):
        check_answer(KINDS[kind], answer)


def test_what_an_answer_prefers():
    assert preferred(KINDS["compare"], {"choice": "b"}, (1, 0)) == [("y", "x")]
    assert preferred(KINDS["compare"], {"choice": "tie"}, (1, 0)) == []
    assert preferred(KINDS["correct"], {"text": "better"}, (0,)) == [("better", "x")]
    # shown z, y, x; y was clicked: it beats z above it, and says nothing of x below
    assert preferred(KINDS["list"], {"clicks": [1], "dwell_seconds": [0, 0, 0]}, (2, 1, 0)) == [("y", "z")]
    assert preferred(KINDS["rate"], {"ratings": RATINGS}, (0,)) == []
    assert all(preferred(item, {"choice": "skip"}, (0,)) == [] for item in KINDS.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "compare", "answers": ("x",)},
        {"kind": "rate", "answers": ("x", "y")},
        {"kind": "list", "answers": tuple("x" * 27)},
        {"kind": "rank", "answers": ("x", "y")},
        {"kind": "rate", "answers": ("x",), "expected": "a"},
        {"kind": "rate", "answers": ("x",), "wanted": 0},
    ],
)
def test_senseless_items_are_told(fields):
    with pytest.raises(UserError):
        Item(prompt="", **fields)

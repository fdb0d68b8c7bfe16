import numpy as np
import pytest

from mmrlhf_jax.evaluate.retrieval import recall_at_k

SIMILARITY = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.8], [0.7, 0.6, 0.1]])
DIAGONAL = np.eye(3, dtype=bool)


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 1.0)])
def test_recall_counts_the_rank_of_the_relevant_item(k, expected):
    assert recall_at_k(SIMILARITY, DIAGONAL, k) == pytest.approx(expected)


def test_any_relevant_item_is_a_hit_and_others_do_not_compete():
    relevant = np.array([[False, True, True, False]])
    assert recall_at_k(np.array([[0.1, 0.9, 0.9, 0.8]]), relevant, 1) == 1.0


def test_ties_count_against_the_query():
    collapsed = np.ones((4, 4))
    assert recall_at_k(collapsed, np.eye(4, dtype=bool), 3) == 0.0
    assert recall_at_k(collapsed, np.eye(4, dtype=bool), 4) == 1.0


def test_nan_counts_against_the_query():
    assert recall_at_k(np.array([[0.9, np.nan]]), np.array([[True, False]]), 1) == 0.0
    assert recall_at_k(np.array([[np.nan, -5.0]]), np.array([[True, False]]), 1) == 0.0


def test_rectangular_in_both_directions():
    # Two names of one picture: by picture either name will do, by name there is one picture.
    similarity = np.array([[0.1, 0.9, 0.3], [0.2, 0.8, 0.4]])
    relevant = np.array([[True, True, False], [False, False, True]])
    assert recall_at_k(similarity, relevant, 1) == pytest.approx(0.5)
    assert recall_at_k(similarity.T, relevant.T, 1) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("similarity", "relevant", "k", "message"),
    [
        (SIMILARITY, DIAGONAL[:2], 1, "must be one QxN"),
        (np.zeros((0, 3)), np.zeros((0, 3)), 1, "Q >= 1"),
        (SIMILARITY, DIAGONAL, 0, "k must"),
        (SIMILARITY, np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]]), 1, "query 1 has no"),
    ],
)
def test_bad_input_is_told(similarity, relevant, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(similarity, relevant, k)

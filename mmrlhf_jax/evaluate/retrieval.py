"""Retrieval between pictures and captions."""

import numpy as np


def recall_at_k(similarity_QxN: np.ndarray, relevant_QxN: np.ndarray, k: int) -> float:
    """Share of queries with a relevant item among their k most similar ones.

    Ties count against the query: an irrelevant item as similar as the best relevant one is ranked before it,
    so that a collapsed encoder scores 0 and not by the order of the items. NaN counts against it likewise.

    Args:
      similarity_QxN: float, the higher the more similar.
      relevant_QxN: bool, at least one True in each row.
      k: 1 or more. All relevant items count as one hit.

    Raises:
      ValueError: shapes that differ, no query, k < 1, or a query without a relevant item.
    """
    relevant_QxN = np.asarray(relevant_QxN, dtype=bool)
    similarity_QxN = np.asarray(similarity_QxN, dtype=np.float64)
    if similarity_QxN.ndim != 2 or similarity_QxN.shape != relevant_QxN.shape or len(similarity_QxN) == 0:
        raise ValueError(
            f"similarity {similarity_QxN.shape} and relevant {relevant_QxN.shape} must be one QxN, Q >= 1"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not relevant_QxN.any(axis=1).all():
        raise ValueError(f"query {int(np.argmin(relevant_QxN.any(axis=1)))} has no relevant item")
    best_Q = np.where(relevant_QxN & ~np.isnan(similarity_QxN), similarity_QxN, -np.inf).max(axis=1)
    # Not "less than" is "at least, or NaN".
    before_QxN = ~relevant_QxN & ~(similarity_QxN < best_Q[:, None])
    return float(np.mean(before_QxN.sum(axis=1) < k))

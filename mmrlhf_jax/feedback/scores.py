"""Bradley-Terry: how strong competitors are, from who beat whom."""

import numpy as np

PRIOR = 0.1  # wins and losses against everybody that are added to all, so that nobody's strength is infinite


def bradley_terry(wins_MxM: np.ndarray, *, prior: float = PRIOR, steps: int = 2000) -> np.ndarray:
    """Strengths of M competitors as log-odds with mean 0, (M,): P(i beats j) = sigmoid(s_i - s_j).

    Args:
      wins_MxM: how often i beat j; a tie is half a win for each.
      prior: see PRIOR; 0 gives the likelihood's maximum, where it exists.

    Source: Hunter, "MM algorithms for generalized Bradley-Terry models" (2004), eq. 3.
    """
    wins = _with_prior(wins_MxM, prior)
    games = wins + wins.T
    strength = np.ones(len(wins))
    for _ in range(steps):
        strength = wins.sum(axis=1) / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        strength /= np.exp(np.mean(np.log(strength)))
    return np.log(strength)


def bradley_terry_errors(wins_MxM: np.ndarray, *, prior: float = PRIOR) -> np.ndarray:
    """Standard errors of `bradley_terry`, (M,): from the Fisher information, with the mean held at 0."""
    wins = _with_prior(wins_MxM, prior)
    s = bradley_terry(wins_MxM, prior=prior)
    p = 1 / (1 + np.exp(s[None, :] - s[:, None]))
    information = -(wins + wins.T) * p * (1 - p)
    np.fill_diagonal(information, 0.0)
    np.fill_diagonal(information, -information.sum(axis=1))
    return np.sqrt(np.diag(np.linalg.pinv(information)))


def _with_prior(wins_MxM: np.ndarray, prior: float) -> np.ndarray:
    wins = np.asarray(wins_MxM, dtype=np.float64) + prior
    np.fill_diagonal(wins, 0.0)
    return wins

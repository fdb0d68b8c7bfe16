"""The interval of a mean of few values, by Student's t."""

import numpy as np

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (Fisher and Yates 1938, table III).
_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond 30 degrees by Cornish and Fisher's expansion, to 0.001."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: one at least is needed")
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def mean_interval(values_KxS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends (S,) of the 95 % interval of the mean over K independent values, such as seeds.

    mean -+ t(K - 1) std / sqrt(K). With two or three seeds it is wide: so little is known then.

    Raises:
      ValueError: fewer than two values.
    """
    values_KxS = np.asarray(values_KxS, np.float64)
    count = len(values_KxS)
    half_S = t_quantile(count - 1) * values_KxS.std(axis=0, ddof=1) / np.sqrt(count)
    mean_S = values_KxS.mean(axis=0)
    return mean_S - half_S, mean_S + half_S

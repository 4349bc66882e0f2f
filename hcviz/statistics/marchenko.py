"""The Marchenko-Pastur law: the singular values of a random matrix, as a baseline for a weight's.

For independent entries of mean 0 and variance v, an m x n matrix has its singular values between
sqrt(v) |sqrt(m) - sqrt(n)| and sqrt(v) (sqrt(m) + sqrt(n)). The two edges say all of the law.

Source: V. Marchenko, L. Pastur, "Distribution of eigenvalues for some sets of random matrices",
1967; the largest one: I. Johnstone, "On the distribution of the largest eigenvalue in principal
components analysis", 2001.
"""

import math
from typing import Any

import numpy as np

_TRACY_WIDOM_99 = 2.0234  # what 99 % of the largest eigenvalues of real matrices stay under


def edges(shape: tuple[int, int], variance: float) -> tuple[float, float]:
    """Return the lowest and highest singular value of a large random matrix.

    Args:
        shape: (rows, columns).
        variance: Of the entries.

    Example:
        >>> edges((4, 9), 1.0)
        (1.0, 5.0)
    """
    a, b = math.sqrt(variance * shape[0]), math.sqrt(variance * shape[1])
    return abs(a - b), a + b


def density(values: Any, low: float, high: float) -> np.ndarray:
    """Return the density of the singular values between the :func:`edges`, 0 outside.

    Example:
        >>> density([0.5, 3.0], 1.0, 5.0).round(3).tolist()
        [0.0, 0.3]
    """
    x = np.asarray(values, dtype=float)
    inside = np.clip((high**2 - x**2) * (x**2 - low**2), 0, None)
    return np.sqrt(inside) / (np.pi * np.maximum(x, 1e-300) * ((high - low) / 2) ** 2)


def expected(count: int, low: float, high: float) -> np.ndarray:
    """Return the expected ``count`` singular values, largest first: the quantiles of the law.

    Example:
        >>> expected(3, 1.0, 5.0).round(2).tolist()
        [3.96, 2.77, 1.7]
    """
    # x = middle + half * sin(t) puts the points where the density is steep: at both edges.
    x = (low + high) / 2 + (high - low) / 2 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 4001))
    steps = (density(x, low, high)[1:] + density(x, low, high)[:-1]) / 2 * np.diff(x)
    below = np.concatenate([[0], np.cumsum(steps)])
    return np.interp(1 - (np.arange(count) + 0.5) / count, below / below[-1], x)


def highest(shape: tuple[int, int], variance: float) -> float:
    """Return what the largest singular value of 99 in 100 random matrices stays under (Johnstone).

    Example:
        >>> round(highest((100, 400), 1.0), 2)
        30.51
    """
    a, b = math.sqrt(max(shape) - 1), math.sqrt(min(shape))
    spread = (a + b) * (1 / a + 1 / b) ** (1 / 3) if a else 0.0
    return math.sqrt(variance * ((a + b) ** 2 + _TRACY_WIDOM_99 * spread))

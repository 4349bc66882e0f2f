"""Metrics of tails: which singular values a random matrix could not have, and how they fall off."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy import stats

from hcviz.architecture.axes import TensorAxes
from hcviz.metrics._registry import Row, metric
from hcviz.metrics._spectra import singular_values, tolerance
from hcviz.statistics import marchenko

FEWEST, CUTS = 50, 100
"""Least values in the tail of a power law, and at most how many tails are tried."""


@metric("marchenko_pastur", needs_clone=False)
def marchenko_pastur(
    weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]
) -> Iterator[Row]:
    """Singular values above what a random matrix of this shape and mean square has (``outliers``).

    The rows ``low`` and ``high`` are the edges of the Marchenko-Pastur law; an outlier is above
    what 99 in 100 such matrices stay under.
    """
    if weight.dim() != 2 or not weight.isfinite().all():
        return
    values, shape = singular_values(weight), tuple(weight.shape)
    variance = values.square().sum().item() / weight.numel()
    low, high = marchenko.edges(shape, variance)
    outliers = (values > marchenko.highest(shape, variance)).sum().item()
    for axis, value in (("low", low), ("high", high), ("outliers", outliers)):
        yield {"axis": axis, "value": value}


@metric("power_law", needs_clone=False)
def power_law(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Exponent a of the tail p(s^2) ~ (s^2)^-a; NaN under 50 values, which tell no exponent.

    Maximum likelihood for every tail, of which the one nearest to its fit is taken (Clauset et al.
    2009). Further rows, by axis: standard ``error``, size of the ``tail``, Kolmogorov-Smirnov
    ``distance`` of the tail to the fit.
    """
    if weight.dim() != 2:
        return
    values = singular_values(weight)
    squares = values[values > tolerance(weight)].square().numpy()  # largest first
    best = (math.inf, math.nan, 0)
    for size in np.unique(np.linspace(FEWEST, len(squares), CUTS, dtype=int)):
        tail = squares[:size]
        if FEWEST <= len(tail) and tail[0] > tail[-1]:
            shape, _, cut = stats.pareto.fit(tail, floc=0, fscale=tail[-1])
            fit = stats.ks_1samp(tail, stats.pareto.cdf, args=(shape, 0, cut), method="asymp")
            best = min(best, (fit.statistic, shape + 1, len(tail)))
    distance, exponent, size = best
    yield {"value": exponent}
    if size:
        error = (exponent - 1) / math.sqrt(size)
        for axis, value in (("error", error), ("tail", size), ("distance", distance)):
            yield {"axis": axis, "value": value}

"""Metrics of tails: which singular values a random matrix could not have, and how they fall off."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.metrics._registry import Row, exact_pieces, metric
from hcviz.metrics._spectra import matrices_of, singular_values, tolerance
from hcviz.statistics import marchenko

FEWEST, CUTS = 50, 100
"""Least values in the tail of a power law, and at most how many tails are tried."""


@metric("marchenko_pastur", needs_clone=False)
def marchenko_pastur(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Singular values above what a random matrix of this shape and mean square has (``outliers``).

    The rows ``low`` and ``high`` are the edges of the Marchenko-Pastur law; an outlier is above
    what 99 in 100 such matrices stay under.
    """
    for where, matrix in matrices_of(weight, axes) if weight.isfinite().all() else ():
        values, shape = singular_values(matrix), tuple(matrix.shape)
        variance = values.square().sum().item() / matrix.numel()
        low, high = marchenko.edges(shape, variance)
        outliers = (values > marchenko.highest(shape, variance)).sum().item()
        for axis, value in (("low", low), ("high", high), ("outliers", outliers)):
            yield where | {"axis": axis, "value": value}


@metric("power_law", needs_clone=False)
def power_law(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Exponent a of the tail p(s^2) ~ (s^2)^-a; NaN under 50 values, which tell no exponent.

    Maximum likelihood for every tail, of which the one nearest to its fit is taken (Clauset et al.
    2009). Further rows, by axis: standard ``error``, size of the ``tail``, Kolmogorov-Smirnov
    ``distance`` of the tail to the fit.
    """
    for where, matrix in matrices_of(weight, axes):
        values = singular_values(matrix)
        squares = values[values > tolerance(matrix)].square().numpy()  # largest first
        distance, exponent, size = _tail(squares)
        yield where | {"value": exponent}
        if size:
            error = (exponent - 1) / math.sqrt(size)
            for axis, value in (("error", error), ("tail", size), ("distance", distance)):
                yield where | {"axis": axis, "value": value}


@metric("power_law.source", needs=("start",))
def power_law_source(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors, *, start: torch.Tensor
) -> Iterator[Row]:
    """The exponent of the source's weight: of the symmetric part of the run's first snapshot."""
    for blocks in exact_pieces(start, axes, factors) if len(axes) == 2 else ():
        if blocks.copy_axes:
            source = blocks.grid().mean((0, 1)).to(start.dtype)
            yield {"part": blocks.part, "value": next(power_law(source, (), {}))["value"]}


def _tail(squares: np.ndarray) -> tuple[float, float, int]:
    """Return distance, exponent and size of the tail that is nearest to its fit."""
    best = (math.inf, math.nan, 0)
    for size in np.unique(np.linspace(FEWEST, len(squares), CUTS, dtype=int)):
        tail = squares[:size]
        if FEWEST <= len(tail) and tail[0] > tail[-1]:
            shape, _, cut = stats.pareto.fit(tail, floc=0, fscale=tail[-1])
            fit = stats.ks_1samp(tail, stats.pareto.cdf, args=(shape, 0, cut), method="asymp")
            best = min(best, (fit.statistic, shape + 1, len(tail)))
    return best

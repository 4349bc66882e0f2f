"""Whether copies that look apart are only rearranged: their units reordered, or rotated, to fit."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from hcviz.architecture.axes import SYMMETRY, Factors, TensorAxes
from hcviz.metrics._copies import mean_cosine, units_of
from hcviz.metrics._registry import Row, exact_pieces, metric

Likeness = Callable[[np.ndarray, np.ndarray], float]
"""Of two copies, ``[units, entries]`` each; 1 for equal ones."""


def plain(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean cosine of every unit with its copy."""
    return float(mean_cosine(np.stack([a, b]), [0]).mean())


def matched(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest mean cosine over all ways to pair the units (Hungarian method).

    Example:
        >>> a = np.random.default_rng(0).normal(size=(5, 9))
        >>> matched(a, a[::-1])
        1.0
    """
    table = _unit_rows(a) @ _unit_rows(b).T
    return plain(a, b[linear_sum_assignment(table, maximize=True)[1]])


def procrustes(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest cosine of a and Qb over all orthogonal Q: ||a b'||_* / (||a|| ||b||).

    Example:
        >>> a = np.random.default_rng(0).normal(size=(2, 9))
        >>> round(procrustes(a, [[0.6, -0.8], [0.8, 0.6]] @ a), 12)
        1.0
    """
    sizes = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.linalg.svd(a @ b.T, compute_uv=False).sum() / sizes) if sizes else 0.0


def _unit_rows(a: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1, keepdims=True)
    return a / np.where(norms, norms, 1.0)


def _register(name: str, likeness: Likeness) -> None:
    """Register a likeness of copies, and beside it what it gives for random ones."""

    def rows(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
        for part, letter, copies in _copies(weight, axes, factors):
            values = [likeness(a, b) for a, b in itertools.combinations(copies, 2)]
            yield {"part": part, "axis": letter, "value": float(np.mean(values))}

    @functools.lru_cache
    def unrelated(shape: tuple[int, int]) -> float:
        return likeness(*np.random.default_rng(0).standard_normal((2, *shape)))

    def level(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
        for part, letter, copies in _copies(weight, axes, factors):
            yield {"part": part, "axis": letter, "value": unrelated(copies.shape[1:])}

    rows.__doc__ = f"{HELP[name]}; per axis R, H, N."
    level.__doc__ = f"What ``{name}`` gives for two copies of random entries, of this shape."
    metric(name)(rows)
    metric(f"{name}.baseline")(level)


def _copies(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the part, the axis and the copies ``[n, units, entries]`` of each axis of a matrix."""
    for blocks in exact_pieces(weight, axes, factors) if len(axes) == 2 else ():
        written = {SYMMETRY[axis] for axis in blocks.copy_axes[: len(blocks.write_copies)]}
        read = {SYMMETRY[axis] for axis in blocks.copy_axes[len(blocks.write_copies) :]}
        for letter in sorted(written ^ read):  # units that are both cannot be reordered on one side
            axes_of = [axis for axis in SYMMETRY if SYMMETRY[axis] == letter]
            yield blocks.part, letter, units_of(blocks, axes_of)


HELP = {
    "cosine.units": "Mean cosine of every unit with its copies, of all that the weight holds of it",
    "matched": "The same with the units of one copy paired anew with those of the other, at best",
    "procrustes": "Cosine of two copies after the rotation of one's units that fits best",
}
for _name, _likeness in zip(HELP, (plain, matched, procrustes), strict=True):
    _register(_name, _likeness)

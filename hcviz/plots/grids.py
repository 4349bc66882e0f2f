"""A weight's grid of blocks as a picture: laid flat, what sets its copies apart, its colours."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from hcviz.plots import _axes

CORNER = 24
"""Rows and columns of each block that are drawn: a whole one is finer than a page's pixels."""


def flat(grid: np.ndarray) -> np.ndarray:
    """Return the matrix whose blocks ``[n_written, n_read, rows, columns]`` are given."""
    written, read, rows, columns = grid.shape
    return grid.transpose(0, 2, 1, 3).reshape(written * rows, read * columns)


def apart(grid: np.ndarray, along: str) -> np.ndarray:
    """Return every block minus the mean of its copies along one side, ``read`` or ``written``."""
    return grid - grid.mean(axis=1 if along == "read" else 0, keepdims=True)


def reach(grids: Iterable[np.ndarray]) -> float:
    """Return the end of the colour scale: a few outliers must not grey the rest out."""
    sizes = np.abs(np.concatenate([grid.ravel() for grid in grids]))
    return float(np.quantile(sizes, 0.98)) or float(sizes.max()) or 1.0


def show(ax: Axes, grid: np.ndarray, most: float) -> AxesImage:
    """Draw the blocks with lines between them, in colours from -most to most."""
    written, read, rows, columns = grid.shape
    image = _axes.heatmap(ax, flat(grid), Normalize(-most, most))
    for edge in range(1, written):
        ax.axhline(edge * rows - 0.5, color="white", linewidth=2.2, label="_block")
    for edge in range(1, read):
        ax.axvline(edge * columns - 0.5, color="white", linewidth=2.2, label="_block")
    return image

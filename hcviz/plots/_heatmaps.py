"""Heat maps of a weight: its block grid over steps, and what sets its copies apart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme
from hcviz.plots.grids import CORNER, apart, reach, show

TIMES = "\N{MULTIPLICATION SIGN}"


@theme.themed
def blocks(
    matrix: Any,
    n_written: int | None = None,
    n_read: int | None = None,
    *,
    steps: Iterable[int] | None = None,
    corner: int | None = CORNER,
    name: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw a weight as a heat map with its block grid, at one or several steps, on one scale.

    Blocks of hundreds of rows are finer than a page's pixels, and averaging would hide whether the
    copies are equal. So only the same corner of every block is drawn, and the figure says so.

    Args:
        matrix: [rows, columns], or [n_written, n_read, rows, columns] as ``Run.blocks`` gives, or
            step -> such.
        n_written: Copies along the rows; not needed for a 4-d ``matrix``.
        n_read: Copies along the columns; likewise.
        steps: Those to draw, on the scale of all; None draws all.
        corner: Rows and columns of each block to draw; None draws all.
        name: The tensor's name, for the title.
        ax: As many axes as steps; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, one per step.

    Raises:
        HcvizError: If the matrix is not whole blocks, or shapes differ between steps.

    Example:
        >>> w = np.arange(16.0).reshape(4, 4)
        >>> blocks({0: np.tile(w, (2, 2))}, 2, 2)[0].get_title(loc="left")
        'step 0'
    """
    grids, note = _grids(matrix, n_written, n_read, corner)
    what = _frames.short(name) if name else "the block grid"
    head = title or f"A weight and its copies: {what}"
    return _maps(grids, steps, ax, head, note, "weight")


@theme.themed
def antisymmetric(
    matrix: Any,
    n_written: int | None = None,
    n_read: int | None = None,
    *,
    along: str = "read",
    steps: Iterable[int] | None = None,
    corner: int | None = CORNER,
    name: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw what sets the copies apart: every block minus the mean of its copies, on its own scale.

    How much finer the scale is than that of :func:`blocks` is written under the figure.

    Args:
        matrix: As in :func:`blocks`.
        n_written: As in :func:`blocks`.
        n_read: As in :func:`blocks`.
        along: ``read`` (copies side by side) or ``written`` (copies one below the other).
        steps: As in :func:`blocks`.
        corner: As in :func:`blocks`.
        name: The tensor's name, for the title.
        ax: As many axes as steps; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, one per step.

    Raises:
        HcvizError: As in :func:`blocks`; also if there is only one copy along that side.

    Example:
        >>> float(antisymmetric(np.ones((2, 4)), 1, 2)[0].images[0].get_array().max())
        0.0
    """
    grids, note = _grids(matrix, n_written, n_read, corner)
    parts = _apart(grids, along)
    finer = "All exactly 0: locked."
    if any(part.any() for part in parts.values()):
        times = reach(grids.values()) / reach(parts.values())
        finer = f"The colour scale is {times:,.1f} times finer than the weight's."
    what = f": {_frames.short(name)}" if name else ""
    head = title or f"What sets the {along} copies apart{what}"
    label = f"block minus mean of {along} copies"
    return _maps(parts, steps, ax, head, f"{finer} {note}", label)


def matrix_frame(
    matrix: Any,
    n_written: int | None = None,
    n_read: int | None = None,
    *,
    corner: int | None = CORNER,
    along: str | None = None,
) -> pd.DataFrame:
    """Return what :func:`blocks` draws as a tidy frame, for ``save(data=...)``.

    With ``along`` it is what :func:`antisymmetric` draws.

    Returns:
        Columns step, written, read (copy, from 0), row, col (inside the block), value.

    Raises:
        HcvizError: As in :func:`blocks`.

    Example:
        >>> matrix_frame(np.ones((2, 2)), 1, 2).shape
        (4, 6)
    """
    grids, _ = _grids(matrix, n_written, n_read, corner)
    grids = grids if along is None else _apart(grids, along)
    frames = []
    for step, grid in grids.items():
        index = dict(zip(("written", "read", "row", "col"), np.indices(grid.shape), strict=True))
        columns = {key: values.ravel() for key, values in index.items()}
        frames.append(pd.DataFrame({"step": step, **columns, "value": grid.ravel()}))
    return pd.concat(frames, ignore_index=True)


def _apart(grids: Mapping[Any, np.ndarray], along: str) -> dict[Any, np.ndarray]:
    """Return every block minus the mean of its copies along one side."""
    if along not in ("read", "written"):
        raise HcvizError(f"along={along!r} is no side of a matrix; choose 'read' or 'written'.")
    side = 1 if along == "read" else 0
    shape = next(iter(grids.values())).shape
    if shape[side] < 2:
        raise HcvizError(
            f"A grid of {shape[0]} x {shape[1]} blocks has one copy along the {along} side, so "
            f"there is nothing to tell apart; try along={'written' if side else 'read'!r}."
        )
    return {step: apart(grid, along) for step, grid in grids.items()}


def _grids(
    matrix: Any, n_written: int | None, n_read: int | None, corner: int | None
) -> tuple[dict[int | None, np.ndarray], str]:
    """Return step -> [n_written, n_read, rows, columns], cut to the corner, and a note."""
    steps = dict(matrix) if isinstance(matrix, Mapping) else {None: matrix}
    if not steps:
        raise HcvizError("The dict of matrices is empty; give step -> matrix.")
    grids = {step: _grid(np.asarray(one), n_written, n_read) for step, one in steps.items()}
    shapes = {grid.shape for grid in grids.values()}
    if len(shapes) > 1:
        raise HcvizError(
            f"The steps differ in shape: {', '.join(map(str, shapes))}; draw one tensor."
        )
    rows, columns = shapes.pop()[2:]
    if corner is None or max(rows, columns) <= corner:
        return grids, ""
    shown = f"{min(rows, corner)} {TIMES} {min(columns, corner)}"
    note = f"Drawn: the top left {shown} weights of each block of {rows} {TIMES} {columns}."
    return {step: grid[:, :, :corner, :corner] for step, grid in grids.items()}, note


def _grid(one: np.ndarray, n_written: int | None, n_read: int | None) -> np.ndarray:
    if one.ndim == 4:
        if (n_written or one.shape[0], n_read or one.shape[1]) != one.shape[:2]:
            raise HcvizError(f"The blocks are {one.shape[:2]}, not {n_written} x {n_read}.")
        return one.astype(np.float64)
    whole = one.ndim == 2 and n_written and n_read
    if not whole or one.shape[0] % n_written or one.shape[1] % n_read:
        raise HcvizError(
            f"An array of shape {one.shape} is not a grid of {n_written} x {n_read} blocks. Give a "
            "2-d matrix with n_written and n_read that divide it, or 4-d Run.blocks(name, step)."
        )
    grid = one.reshape(n_written, one.shape[0] // n_written, n_read, one.shape[1] // n_read)
    return grid.transpose(0, 2, 1, 3).astype(np.float64)


def _maps(
    grids: Mapping, steps: Iterable | None, ax: Any, title: str, note: str, label: str
) -> np.ndarray:
    """Draw one heat map per step, on one symmetric colour scale, with lines between the blocks."""
    n_written, n_read, rows, columns = next(iter(grids.values())).shape
    tall = n_written * rows / (n_read * columns)
    line = plt.rcParams["font.size"] / 72
    shown = _frames.choose(grids, steps, "step")
    axes = _axes.panels(len(shown), ax, columns=5, tall=tall, side=6 * line, lines=4.5, rigid=True)
    most = reach(grids.values())
    for step, panel in zip(shown, axes, strict=True):
        image = show(panel, grids[step], most)
        across = (np.arange(n_read) + 0.5) * columns - 0.5
        panel.set_xticks(across, _copies(n_read, len(axes)))
        named = panel is axes[0] or ax is not None
        names = _copies(n_written, len(axes)) if named else [""] * n_written
        middles = (np.arange(n_written) + 0.5) * rows - 0.5
        panel.set_yticks(middles, names, rotation=90, va="center")
        panel.set_title("weight" if step is None else f"step {step:,}")
        panel.set_xlabel("inputs read")
    axes[0].set_ylabel("outputs written")
    clipped = any(np.abs(grid).max() > most for grid in grids.values())
    _axes.colorbar(image, axes, label, extend="both" if clipped else "neither")
    _axes.titles(axes, title, note.strip(), own=ax is None)
    return axes


def _copies(count: int, panels: int) -> list[str]:
    """Name the copies along one side, shortly where there is little room."""
    word = "copy " if count * min(panels, 5) <= 10 else ""
    return [f"{word}{i + 1}" for i in range(count)]

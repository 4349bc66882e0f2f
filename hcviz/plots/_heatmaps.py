"""Heat maps: every pair of blocks, a weight with its block grid, and what sets its copies apart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from hcviz import theme
from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames


@theme.themed
def pairs(
    frame: pd.DataFrame,
    *,
    tensor: str | None = None,
    runs: Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    shape: tuple[int, int] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the cosine of every pair of blocks: a row of panels per arm, a column per step.

    Args:
        frame: Rows of the metric ``pairs``: run, step, tensor, row, col (flat block indices), metric, value.
        tensor: A weight by name, or a kind (then the mean over its weights); None if there is but one kind.
        runs: Arms to draw; None draws all.
        steps: Steps to draw; None draws up to five, evenly on a log scale.
        shape: (n_written, n_read); None takes a square grid when the number of blocks is a square.
        ax: As many axes as arms times steps; None makes a figure.
        title: Title of the figure; None writes one.

    Returns:
        The axes, [arms, steps].

    Raises:
        HcvizError: If columns, rows, arms or steps are missing, or the frame mixes kinds of weights.

    Example:
        >>> frame = pd.DataFrame({"run": "a", "step": 0, "tensor": "fc1", "row": [0, 0, 1, 1], "col": [0, 1, 0, 1],
        ...                       "metric": "pairs", "value": 1.0})
        >>> pairs(frame).shape
        (1, 1)
    """
    rows = _frames.matching(_frames.metric(frame, "pairs", ["run", "row", "col"]), tensor)
    if rows["kind"].nunique() > 1:
        raise HcvizError(
            f"The frame mixes {', '.join(rows['kind'].unique())}; choose one: plots.pairs(frame, tensor=...)."
        )
    rows = rows.astype({"row": int, "col": int, "run": str})
    names = theme.arm_order(_frames.choose(rows["run"], runs, "run"))
    rows = rows[rows["run"].isin(names)]
    steps = (
        _frames.spread(rows["step"])
        if steps is None
        else _frames.choose(rows["step"], steps, "step")
    )
    blocks = int(max(rows["row"].max(), rows["col"].max())) + 1
    weights = rows["tensor"].nunique()
    axes = _axes.panels(len(names) * len(steps), ax, columns=len(steps), tall=1.08)
    grid = axes.reshape(len(names), len(steps))
    labels = _block_labels(blocks, shape)
    norm = Normalize(-1, 1)
    for name, line in zip(names, grid, strict=True):
        for step, panel in zip(steps, line, strict=True):
            here = rows[(rows["run"] == name) & (rows["step"] == step)]
            square = here.pivot_table(index="row", columns="col", values="value", aggfunc="mean")
            image = _image(
                panel, square.reindex(index=range(blocks), columns=range(blocks)).to_numpy(), norm
            )
            if blocks <= 6:
                _numbers(panel, image.get_array().data, norm, len(steps))
            panel.set_xticks(range(blocks), labels)
            panel.set_yticks(range(blocks), labels if panel is line[0] else [""] * blocks)
            panel.set_xticks(np.arange(blocks + 1) - 0.5, minor=True)
            panel.set_yticks(np.arange(blocks + 1) - 0.5, minor=True)
            panel.grid(which="minor", color="white", linewidth=0.8)
            if line is grid[0]:
                panel.set_title(f"step {step:,}")
        line[0].set_ylabel(name, fontweight="bold")
    bar = axes[0].figure.colorbar(
        image, ax=list(axes), shrink=0.9 if len(names) == 1 else 0.6, pad=0.02, aspect=25
    )
    bar.set_label("cosine of two blocks")
    bar.outline.set_visible(False)
    what = rows["tensor"].iloc[0] if weights == 1 else f"{rows['kind'].iloc[0]}, mean of {weights}"
    what = _frames.short(what) if weights == 1 else what
    _axes.titles(
        axes,
        title or f"Which copies stay alike? Cosine of every pair of blocks: {what}",
        own=ax is None,
    )
    return grid


def _block_labels(blocks: int, shape: tuple[int, int] | None) -> list[str]:
    """Name flat block indices by written and read copy: 1→2 reads copy 1 and writes copy 2."""
    root = round(blocks**0.5)
    written, read = shape or ((root, root) if root * root == blocks and blocks > 1 else (blocks, 1))
    if written * read != blocks:
        raise HcvizError(f"shape={shape} does not give the {blocks} blocks of the frame.")
    if written == 1 or read == 1:
        return [str(i + 1) for i in range(blocks)]
    return [f"{r + 1}→{w + 1}" for w in range(written) for r in range(read)]


def _image(ax: Axes, values: np.ndarray, norm: Normalize) -> Any:
    image = ax.imshow(
        values, cmap=theme.diverging(), norm=norm, interpolation="nearest", aspect="auto"
    )
    ax.set_box_aspect(values.shape[0] / values.shape[1])
    ax.grid(visible=False)
    ax.tick_params(length=0, which="both")
    ax.spines[:].set_visible(False)
    return image


def _numbers(ax: Axes, values: np.ndarray, norm: Normalize, columns: int) -> None:
    """Write each value into its cell, dark on light and light on dark."""
    size = plt.rcParams["font.size"] * min(1.0, 3.4 / columns)
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if theme.lightness(theme.diverging()(norm(value))[:3]) < 60 else "black"
            text = "1" if value == 1 else f"{value:.2f}".replace("-", "−").replace("0.", ".")
            ax.text(col, row, text, ha="center", va="center", color=ink, fontsize=size)


@theme.themed
def blocks(
    matrix: Any,
    n_written: int | None = None,
    n_read: int | None = None,
    *,
    corner: int | None = 24,
    name: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw a weight as a heat map with its block grid, at one or several steps on one colour scale.

    Blocks of hundreds of rows are finer than a page's pixels, and averaging would hide that copies are
    equal. So only the same top left corner of every block is drawn, and the figure says so.

    Args:
        matrix: [rows, columns], or [n_written, n_read, rows, columns] as ``Run.blocks`` gives, or a dict step -> such.
        n_written: Copies along the rows; not needed for a 4-d ``matrix``.
        n_read: Copies along the columns; likewise.
        corner: Rows and columns of each block to draw; None draws all.
        name: The tensor's name, for the title.
        ax: As many axes as steps; None makes a figure.
        title: Title of the figure; None writes one.

    Returns:
        The axes, one per step.

    Raises:
        HcvizError: If the matrix is not whole blocks, or shapes differ between steps.

    Example:
        >>> w = np.arange(16.0).reshape(4, 4)
        >>> blocks(np.tile(w, (2, 2)), 2, 2)[0].get_title()
        'weight'
    """
    grids, cut = _grids(matrix, n_written, n_read, corner)
    title = (
        title or f"A weight and its copies: {_frames.short(name) if name else 'block grid'}{cut}"
    )
    return _maps(grids, ax, title, "weight")


@theme.themed
def antisymmetric(
    matrix: Any,
    n_written: int | None = None,
    n_read: int | None = None,
    *,
    along: str = "read",
    corner: int | None = 24,
    name: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw what sets the copies apart: every block minus the mean of its copies, on its own scale.

    Args:
        matrix: As in :func:`blocks`.
        n_written: As in :func:`blocks`.
        n_read: As in :func:`blocks`.
        along: ``read`` (copies side by side) or ``written`` (copies one below the other).
        corner: As in :func:`blocks`.
        name: The tensor's name, for the title.
        ax: As many axes as steps; None makes a figure.
        title: Title of the figure; None writes one.

    Returns:
        The axes, one per step.

    Raises:
        HcvizError: As in :func:`blocks`; also if there is one copy only along that side.

    Example:
        >>> antisymmetric(np.ones((2, 4)), 1, 2)[0].images[0].get_array().max()
        0.0
    """
    if along not in ("read", "written"):
        raise HcvizError(f"along={along!r} is not a side of a matrix; choose 'read' or 'written'.")
    grids, cut = _grids(matrix, n_written, n_read, corner)
    side = 1 if along == "read" else 0
    copies = next(iter(grids.values())).shape[side]
    if copies < 2:
        raise HcvizError(
            f"There is one copy along the {along} side, so nothing to tell apart; try along= the other."
        )
    parts = {step: grid - grid.mean(axis=side, keepdims=True) for step, grid in grids.items()}
    most, whole = (max(np.abs(g).max() for g in many.values()) for many in (parts, grids))
    note = f", {whole / most:,.0f}x finer scale" if most > 0 else ", all exactly 0: locked"
    head = (
        f"What sets the {along} copies apart{': ' + _frames.short(name) if name else ''}{note}{cut}"
    )
    return _maps(parts, ax, title or head, f"block − mean of its {along} copies")


def matrix_frame(
    matrix: Any, n_written: int | None = None, n_read: int | None = None, *, corner: int | None = 24
) -> pd.DataFrame:
    """Return what :func:`blocks` draws as a tidy frame, for ``save(data=...)``.

    Returns:
        Columns step, written, read (copy, from 0), row, col (inside the block), value.

    Example:
        >>> matrix_frame(np.ones((2, 2)), 1, 2).shape
        (4, 6)
    """
    grids, _ = _grids(matrix, n_written, n_read, corner)
    frames = []
    for step, grid in grids.items():
        written, read, row, col = (i.ravel() for i in np.indices(grid.shape))
        columns = {
            "step": step,
            "written": written,
            "read": read,
            "row": row,
            "col": col,
            "value": grid.ravel(),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _grids(
    matrix: Any, n_written: int | None, n_read: int | None, corner: int | None
) -> tuple[dict, str]:
    """Return step -> [n_written, n_read, rows, columns], cut to the corner, and a note about the cut."""
    steps = dict(matrix) if isinstance(matrix, Mapping) else {None: matrix}
    if not steps:
        raise HcvizError("There is no step in the dict of matrices; give step -> matrix.")
    grids = {step: _grid(np.asarray(one), n_written, n_read) for step, one in steps.items()}
    shapes = {grid.shape for grid in grids.values()}
    if len(shapes) > 1:
        raise HcvizError(
            f"The steps have different shapes ({', '.join(map(str, shapes))}); draw one tensor at a time."
        )
    rows, columns = shapes.pop()[2:]
    if corner is None or max(rows, columns) <= corner:
        return grids, ""
    note = f"\n(the top left {min(rows, corner)} × {min(columns, corner)} of each {rows} × {columns} block)"
    return {step: grid[:, :, :corner, :corner] for step, grid in grids.items()}, note


def _grid(one: np.ndarray, n_written: int | None, n_read: int | None) -> np.ndarray:
    if one.ndim == 4:
        if (n_written or one.shape[0], n_read or one.shape[1]) != one.shape[:2]:
            raise HcvizError(
                f"The blocks are {one.shape[:2]}, and {n_written} x {n_read} were asked for."
            )
        return one.astype(np.float64)
    fits = (
        one.ndim == 2
        and n_written
        and n_read
        and one.shape[0] % n_written == 0
        and one.shape[1] % n_read == 0
    )
    if not fits:
        raise HcvizError(
            f"An array of shape {one.shape} is not a grid of {n_written} x {n_read} blocks. Give a 2-d matrix with "
            "n_written and n_read that divide it, or the 4-d blocks of Run.blocks(name, step)."
        )
    grid = one.reshape(n_written, one.shape[0] // n_written, n_read, one.shape[1] // n_read)
    return grid.transpose(0, 2, 1, 3).astype(np.float64)


def _maps(grids: dict, ax: Any, title: str, label: str) -> np.ndarray:
    """Draw one heat map per step, on one symmetric colour scale, with lines between the blocks."""
    first = next(iter(grids.values()))
    n_written, n_read, rows, columns = first.shape
    tall = n_written * rows / (n_read * columns)
    axes = _axes.panels(len(grids), ax, columns=min(4, len(grids)), tall=min(1.06 * tall, 1.5))
    sizes = np.abs(np.concatenate([grid.ravel() for grid in grids.values()]))
    # A few outliers must not grey the rest out; the colour bar's points say that they are clipped.
    most = float(np.quantile(sizes, 0.995)) or float(sizes.max()) or 1.0
    for (step, grid), panel in zip(grids.items(), axes, strict=True):
        whole = grid.transpose(0, 2, 1, 3).reshape(n_written * rows, n_read * columns)
        image = _image(panel, whole, Normalize(-most, most))
        for i in range(1, n_written):
            panel.axhline(i * rows - 0.5, color="white", linewidth=2.2, label="_block")
        for j in range(1, n_read):
            panel.axvline(j * columns - 0.5, color="white", linewidth=2.2, label="_block")
        panel.set_xticks(
            [(j + 0.5) * columns - 0.5 for j in range(n_read)],
            [f"copy {j + 1}" for j in range(n_read)],
        )
        panel.set_yticks([(i + 0.5) * rows - 0.5 for i in range(n_written)], [f"copy {i + 1}" for i in range(n_written)],
                         rotation=90, va="center")  # fmt: skip
        panel.set_title("weight" if step is None else f"step {step:,}")
        panel.set_xlabel("inputs read")
    axes[0].set_ylabel("outputs written")
    extend = "both" if sizes.max() > most else "neither"
    bar = axes[0].figure.colorbar(
        image, ax=list(axes), shrink=0.85, pad=0.02, aspect=25, extend=extend
    )
    bar.set_label(label)
    bar.outline.set_visible(False)
    _axes.titles(axes, title, own=ax is None)
    return axes

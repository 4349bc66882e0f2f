"""The cosine of every pair of blocks of a weight, over steps."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme

ARROW, MINUS = "\N{RIGHTWARDS ARROW}", "\N{MINUS SIGN}"


@theme.themed
def pairs(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensor: str | None = None,
    runs: Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    shape: tuple[int, int] | None = None,
    baseline: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the cosine of every pair of blocks: a row of panels per arm, a column per step.

    Up to six blocks carry their numbers; a plain 1 is 1 to twelve digits, 1.00 only nearly so.

    Args:
        frame: Rows of the metric ``pairs``: ``hue``, step, tensor, row, col, metric, value; row and
            col are flat block indices, written copy first.
        hue: Column that tells the arms.
        tensor: A weight by name, or a kind (then the mean over its weights); None if there is but
            one kind.
        runs: Arms to draw; None draws all.
        steps: Steps to draw; None draws up to five, evenly on a log scale.
        shape: (n_written, n_read); None takes a square grid if the number of blocks is a square.
        baseline: How far from zero unrelated blocks reach, for the note.
        ax: As many axes as arms times steps; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, [arms, steps].

    Raises:
        HcvizError: If columns, rows, arms or steps are missing, if the frame mixes kinds of
            weights, or if ``shape`` does not fit.

    Example:
        >>> rows = {"run": "a", "step": 0, "tensor": "fc1", "metric": "pairs", "value": 1.0}
        >>> pairs(pd.DataFrame(rows | {"row": [0, 0, 1, 1], "col": [0, 1, 0, 1]})).shape
        (1, 1)
    """
    rows = _frames.matching(_frames.metric(frame, "pairs", ["row", "col"], hue), tensor)
    kinds = rows["kind"].unique()
    if len(kinds) > 1:
        raise HcvizError(f"The frame mixes {', '.join(kinds)}; choose one with tensor=.")
    rows = rows.astype({"row": int, "col": int, hue: str})
    names = theme.arm_order(_frames.choose(rows[hue], runs, "run"))
    rows = rows[rows[hue].isin(names)]
    steps = _frames.spread(rows["step"]) if steps is None else steps
    steps = _frames.choose(rows["step"], steps, "step")
    blocks = int(max(rows["row"].max(), rows["col"].max())) + 1
    labels = _labels(blocks, shape)
    line = plt.rcParams["font.size"] / 72
    count, size = len(names) * len(steps), {"tall": 1.0, "side": 6 * line, "lines": 6}
    axes = _axes.panels(count, ax, columns=len(steps), between=0.3, rigid=True, **size)
    grid = axes.reshape(len(names), len(steps))
    norm = Normalize(-1, 1)
    for (i, j), panel in np.ndenumerate(grid):
        here = rows[(rows[hue] == names[i]) & (rows["step"] == steps[j])]
        square = here.pivot_table(index="row", columns="col", values="value", aggfunc="mean")
        square = square.reindex(index=range(blocks), columns=range(blocks)).to_numpy()
        image = _axes.heatmap(panel, square, norm)
        if blocks <= 6:
            _numbers(panel, square, norm, blocks * len(steps))
        few, last = blocks * len(steps) <= 30, i == len(names) - 1
        panel.set_xticks(range(blocks) if few else [], labels if few and last else None)
        panel.set_yticks(range(blocks) if few else [], labels if few and j == 0 else None)
        panel.tick_params(labelbottom=last, labelleft=j == 0)
        panel.set_xticks(np.arange(1, blocks) - 0.5, minor=True)
        panel.set_yticks(np.arange(1, blocks) - 0.5, minor=True)
        panel.grid(which="minor", axis="both", color="white", linewidth=0.8)
        if i == 0:
            panel.set_title(f"step {steps[j]:,}")
        if j == 0:
            panel.set_ylabel(names[i], fontweight="bold")
    _axes.colorbar(image, axes, "cosine of two blocks")
    many = rows["weight"].nunique()
    one = _frames.short(rows["weight"].iloc[0])
    what = one if many == 1 else f"{kinds[0]}, mean of {many} weights"
    note = ""
    if few and any(ARROW in label for label in labels):
        note = f"Block a{ARROW}b reads copy a of the input and writes copy b of the output."
    if baseline is not None:
        note += f" Unrelated blocks: within {baseline:.2g} of zero."
    title = title or f"Which copies stay alike? {what[0].upper()}{what[1:]}"
    _axes.titles(axes, title, note.strip(), own=ax is None)
    return grid


def _labels(blocks: int, shape: tuple[int, int] | None) -> list[str]:
    """Name flat block indices by the copies they read and write."""
    root = round(blocks**0.5)
    written, read = shape or ((root, root) if root * root == blocks else (blocks, 1))
    if written * read != blocks:
        raise HcvizError(f"shape={shape} does not give the {blocks} blocks of the frame.")
    if 1 in (written, read):
        return [str(i + 1) for i in range(blocks)]
    return [f"{r + 1}{ARROW}{w + 1}" for w in range(written) for r in range(read)]


def _numbers(ax: Axes, values: np.ndarray, norm: Normalize, across: int) -> None:
    """Write each value into its cell, dark on light and light on dark."""
    size = plt.rcParams["font.size"] * min(1.0, 15 / across)
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = theme.lightness(theme.diverging()(norm(value))[:3]) < 55
            text = f"{value:.2f}"
            if across > 8 and value <= 0.995:
                text = text.replace("0.", ".").replace("-.00", ".00")
            text = "1" if abs(value - 1) < 1e-12 else text.replace("-", MINUS)
            look = {"fontsize": size, "color": "white" if dark else "black"}
            ax.text(col, row, text, ha="center", va="center", **look)

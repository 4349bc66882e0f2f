"""The symmetry ledger: a log figure whose zeros have a place of their own."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hcviz.errors import HcvizError
from hcviz.io.files import natural
from hcviz.plots import _axes, _frames, _lines, theme
from hcviz.plots._strip import Strip

AXES = {"R": "R: residual stream", "H": "H: attention heads", "N": "N: FFN neurons"}


@theme.themed
def ledger(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    metric: str = "ledger",
    col: str | None = None,
    tensors: str | Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Who leaves the clone, and along which axis?",
) -> np.ndarray:
    """Draw the share of each weight outside its symmetric part, per axis, zeros in a strip.

    Thin lines are the weights, thick ones their mean. So an arm rests in the strip only while every
    weight of it is, bit for bit, a clone along that axis. Each arm has its own lane there.

    Args:
        frame: Rows of the metric ``ledger``: ``hue``, step, tensor, axis, metric, value (0 to 1).
        hue: Column that tells the arms.
        metric: The ledger to draw; for example ``update.ledger``.
        col: A column (``layer``) whose values get panels of their own, one row of them per axis.
        tensors: Names or kinds of weights to draw; None draws all matrices (no gains, no biases).
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, in the order R, H, N; with ``col`` all panels of R first.

    Raises:
        HcvizError: If columns or rows are missing, or a share is outside 0 to 1.

    Example:
        >>> rows = {"run": "symmetric", "step": [0, 9], "tensor": "fc1", "axis": "N"}
        >>> frame = pd.DataFrame(rows | {"metric": "ledger", "value": 0.0})
        >>> ledger(frame)[0].get_title(loc="left")
        'N: FFN neurons'
    """
    columns = ["axis", *([col] if col else [])]
    rows = _frames.matching(_frames.metric(frame, metric, columns, hue), tensors)
    rows = _frames.matrices(rows) if tensors is None else rows
    letters = [letter for letter in AXES if (rows["axis"] == letter).any()]
    letters += [letter for letter in rows["axis"].dropna().unique() if letter not in AXES]
    groups = sorted(rows[col].dropna().unique(), key=natural) if col else []
    panels = {AXES.get(letter, letter): rows["axis"] == letter for letter in letters}
    if col:
        panels = {
            f"{letter}, {col} {group}": (rows["axis"] == letter) & (rows[col] == group)
            for letter in letters
            for group in groups
        }
    axes = shares(rows, panels, hue=hue, ax=ax, columns=len(groups) or 4, tall=1.4 if col else 1.1)
    for panel in axes[: -len(groups)] if col else []:
        panel.set_xlabel("")
    whose = f" ({metric.removesuffix('.ledger')})" if "." in metric else ""
    for panel in axes[:: len(groups) or len(axes)]:
        panel.set_ylabel(f"share of squared norm{whose}\noutside the symmetric part")
    _axes.titles(axes, title, own=ax is None)
    return axes


def shares(
    rows: pd.DataFrame,
    panels: dict[str, pd.Series],
    *,
    hue: str,
    ax: Axes | Sequence[Axes] | None,
    columns: int = 4,
    tall: float = 1.1,
) -> np.ndarray:
    """Draw shares of squared norm over steps on log axes, zeros in a strip, one panel per title.

    Args:
        rows: Rows of one metric, as ``_frames.metric`` gives them.
        panels: Title -> which of the rows.
        hue: Column that tells the arms.
        ax: As many axes as panels; None makes a figure.
        columns: Most panels in a row.
        tall: Height of a panel over its width.

    Raises:
        HcvizError: If a share is outside 0 to 1.
    """
    low, high = rows["value"].min(), rows["value"].max()
    if low < 0 or high > 1 + 1e-9:
        raise HcvizError(f"A share lies between 0 and 1; the frame holds {low:g} to {high:g}.")
    looks = theme.arms(theme.arm_order(rows[hue]))
    axes = _axes.panels(len(panels), ax, columns=columns, sharey=ax is None, tall=tall, lines=5)
    cells = {title: _lines.by_arm(rows[inside], hue, looks) for title, inside in panels.items()}
    reach = _lines.reach(cells.values())
    for panel, title in zip(axes, panels, strict=True):
        _axes.step_axis(panel, rows["step"])
        strip = Strip(panel, reach, rows["value"])
        _lines.draw(panel, cells[title], looks, strip)
        strip.finish("locked (exactly 0)")
        panel.set_title(title)
    _axes.legend(axes, looks, own=ax is None)
    return axes

"""The symmetry ledger: a log figure whose zeros have a place of their own."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hcviz.errors import HcvizError
from hcviz.io.files import natural
from hcviz.plots import _frames, _lines, theme

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
    names = {letter: AXES.get(letter, letter) for letter in letters}
    rows, groups = rows.assign(place=rows["axis"]), []
    if col:
        groups = sorted(rows[col].dropna().unique(), key=natural)
        rows = rows.assign(place=rows["axis"] + f", {col} " + rows[col].astype(str))
        names = {p: p for p in (f"{letter}, {col} {one}" for letter in letters for one in groups)}
    whose = f" ({metric.removesuffix('.ledger')})" if "." in metric else ""
    label = f"share of squared norm{whose}\noutside the symmetric part"
    wide = {"columns": len(groups), "tall": 1.4} if col else {}
    axes = shares(rows, "place", names, hue, ax, title, label, **wide)
    for panel in axes[: -len(groups)] if col else []:
        panel.set_xlabel("")
    for panel in axes[:: len(groups)] if col else []:
        panel.set_ylabel(label)
    return axes


def shares(
    rows: pd.DataFrame, by: str, names: dict[str, str], hue: str, ax: Any, title: str, label: str,
    *, columns: int = 4, tall: float = 1.1,
) -> np.ndarray:  # fmt: skip
    """Draw shares of squared norm as :func:`hcviz.plots._lines.panels` does, zeros in a strip.

    Raises:
        HcvizError: If a share is outside 0 to 1.
    """
    low, high = rows["value"].min(), rows["value"].max()
    if low < 0 or high > 1 + 1e-9:
        raise HcvizError(f"A share lies between 0 and 1; the frame holds {low:g} to {high:g}.")
    return _lines.panels(
        rows, by, names, hue, "step", ax, title, label,
        zeros="locked (exactly 0)", columns=columns, tall=tall,
    )  # fmt: skip

"""What copies share however one looks: the cloning R2, and copies reordered or rotated to fit."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from hcviz.plots import _axes, _frames, _lines, theme
from hcviz.plots._symmetry import AXES

KINDS = {
    "cosine.units": "as they are",
    "matched": "reordered to fit",
    "procrustes": "rotated to fit",
}
"""The likenesses of copies that :func:`matched` draws."""


@theme.themed
def cloning_r2(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    log: bool = False,
    ax: _axes.Given = None,
    title: str = "Cloning R\N{SUPERSCRIPT TWO}: how much of the units' variance do copies share?",
) -> np.ndarray:
    """Draw the cloning R2, panels for each axis: activations above, gradients below.

    Thin lines are the layers, thick ones their mean.

    Args:
        frame: Rows of the metric ``cloning_r2``: ``hue``, step, layer, axis, part, metric, value.
        hue: Column that tells the arms.
        x: ``step``, or ``layer`` for each arm's last step layer by layer.
        log: Draw 1 - R2 on a log axis; copies that are equal rest in a strip at its foot.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes: forward R, H, N, then backward.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "h.0", "layer": 0, "axis": "R"}
        >>> rows |= {"part": "backward", "metric": "cloning_r2", "value": 1.0}
        >>> cloning_r2(pd.DataFrame(rows))[0].get_title(loc="left")
        'backward, R: residual stream'
    """
    rows = _frames.metric(frame, "cloning_r2", ["layer", "part", "axis"], hue)
    rows = rows.assign(place=rows["part"] + " " + rows["axis"])
    names = {
        f"{part} {axis}": f"{part}, {words}"
        for part in ("forward", "backward")
        for axis, words in AXES.items()
        if (rows["place"] == f"{part} {axis}").any()
    }
    columns = max(1, rows["axis"].nunique())
    return _lines.panels(
        rows, "place", names, hue, x, ax, title, "R\N{SUPERSCRIPT TWO}", log=log, columns=columns
    )


@theme.themed
def matched(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    ax: _axes.Given = None,
    title: str = "Have copies parted, or are they only rearranged?",
) -> np.ndarray:
    """Draw how alike units and their copies are: as they are, reordered, and rotated to fit best.

    Thin lines are the weights, thick ones their mean. The dashed level is what the same gives for
    random weights of these shapes: a curve that stays above it is still a rearranged copy.

    Args:
        frame: Rows of the metrics ``cosine.units``, ``matched``, ``procrustes`` and their
            ``.baseline``: ``hue``, step, tensor, axis, metric, value.
        hue: Column that tells the arms.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes: of R all three, then of H and N.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "fc1", "axis": "N", "metric": "matched"}
        >>> matched(pd.DataFrame(rows | {"value": 1.0}))[0].get_title(loc="left")
        'N, reordered to fit'
    """
    kinds = [kind for kind in KINDS if (frame["metric"] == kind).any()] or [*KINDS][:1]
    found = [_frames.metric(frame, kind, ["axis"], hue) for kind in kinds]
    rows = pd.concat(found, ignore_index=True)
    rows = rows.assign(place=rows["axis"] + " " + rows["metric"].map(KINDS))
    every = [f"{axis} {KINDS[kind]}" for axis in AXES for kind in kinds]
    every = [place for place in every if (rows["place"] == place).any()]
    names = {place: place.replace(" ", ", ", 1) for place in every}
    levels = frame[frame["metric"].isin([f"{kind}.baseline" for kind in kinds])]
    places = levels["axis"] + " " + levels["metric"].str.removesuffix(".baseline").map(KINDS)
    levels = levels["value"].groupby(places).mean()
    note = [Line2D([], [], label="unrelated weights", **_axes.LEVEL)] if len(levels) else []
    axes = _lines.panels(
        rows, "place", names, hue, "step", ax, title, "likeness of copies", columns=len(kinds),
        extra=note,
    )  # fmt: skip
    for panel, place in zip(axes, names, strict=True):
        if place in levels.index:
            panel.axhline(levels[place], label="_unrelated", **_axes.LEVEL)
    return axes

"""A thin line for every weight and a thick one for their mean, arm by arm."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hcviz.errors import HcvizError
from hcviz.plots import _axes, theme
from hcviz.plots._strip import Strip
from hcviz.plots.theme import Arm

FLOOR = 1e-9
"""A correlation or agreement nearer to 1 than this is 1: what float32 leaves is under 1e-12."""
UNTRAINED = theme.Arm(theme.MUTED, (0, (1, 1.5)), "+")

Arms = dict[str, pd.DataFrame]


def by_arm(rows: pd.DataFrame, hue: str, names: Iterable[str]) -> Arms:
    """Return the rows of each arm."""
    return {name: rows[rows[hue].astype(str) == name] for name in names}


def reach(panels: Iterable[Arms], x: str = "step") -> dict[str, np.ndarray]:
    """Return every arm's means in all panels, which a strip for zeros must have room for."""
    found: dict[str, list] = {}
    for arms in panels:
        for name, rows in arms.items():
            found.setdefault(name, []).append(_mean(rows, x))
    return {name: np.concatenate(means) for name, means in found.items()}


def draw(
    ax: Axes,
    arms: Arms,
    looks: Mapping[str, Arm],
    strip: Strip | None = None,
    *,
    x: str = "step",
    most: float = np.inf,
    turns: int = 0,
) -> None:
    """Draw every arm: over steps a thin line for each weight, mean over seeds, and all their mean.

    Args:
        ax: The axes.
        arms: The rows of each arm.
        looks: Name -> look.
        strip: Where the means that are zero go; thin lines end above it, so that they do not
            thicken their arm's lane.
        x: ``step``, or ``layer`` for the means alone.
        most: More lines than these are a shade, in which the middle nine in ten lie.
        turns: How many arms take turns with their markers, so that equal lines do not hide each
            other.
    """
    for number, (name, look) in enumerate(looks.items()):
        rows, mean = arms[name], _mean(arms[name], x)
        if mean.empty:
            continue
        keys = ["weight", *(key for key in ("row", "col") if key in rows)]
        lines = rows.groupby(keys, dropna=False) if x == "step" else ()
        if len(lines) > most:
            steps = rows.groupby("step")["value"]
            low, high = steps.quantile(0.05), steps.quantile(0.95)
            ax.fill_between(low.index, low, high, color=look.color, alpha=0.2, linewidth=0)
        for _, line in lines if 1 < len(lines) <= most else ():
            shown = _mean(line, "step")
            shown = shown[shown > strip.floor] if strip else shown
            if len(shown):
                ax.plot(shown, color=look.color, linewidth=0.5, alpha=0.45, label="_thin")
        y = strip.place(mean, name) if strip else mean.to_numpy(float)
        marks = (number % turns, turns) if 0 < turns < len(mean) else 1
        marked = {"markevery": marks} if turns else {}
        _axes.draw(ax, mean.index.to_numpy(), y, look, label=name, zorder=3, **marked)


def panels(
    rows: pd.DataFrame,
    by: str,
    names: dict[Any, str],
    hue: str,
    x: str,
    ax: Axes | Sequence[Axes] | None,
    title: str,
    label: str,
    *,
    log: bool = False,
    zeros: str = "",
    sharey: bool = True,
    columns: int = 4,
    tall: float | None = None,
    most: float = np.inf,
    extra: Sequence[Any] = (),
    **strip: float,
) -> np.ndarray:
    """Draw every arm in a panel for each name: the mean of its weights, and each of them thin.

    Args:
        rows: Rows of one metric, as ``_frames.metric`` gives them.
        by: Column that tells the panels.
        names: Its values, in order, and the titles of their panels.
        hue: Column that tells the arms.
        x: ``step``, or ``layer`` for each arm's last step layer by layer.
        ax: The caller's axes, or None.
        title: Title of the figure.
        label: Of the y axis.
        log: Draw 1 - value on a log axis, with a strip for what is 1.
        zeros: What a strip for zeros is called, on a log axis; "" makes none.
        sharey: Whether panels share the y axis, and its name.
        columns: Most panels in a row.
        tall: Height of a panel over its width; None: as usual.
        most: As in :func:`draw`.
        extra: Further handles of the legend.
        **strip: Options of the strip.
    """
    if x not in ("step", "layer"):
        raise HcvizError(f"x={x!r}: these figures are drawn over 'step' or 'layer'.")
    looks = theme.arms(theme.arm_order(rows[hue]))
    looks |= {name: UNTRAINED for name in looks if name == "source, untrained"}
    if log:
        apart = 1 - rows["value"]
        label, zeros = f"1 \N{MINUS SIGN} {label}", "equal"
        rows = rows.assign(value=apart.where(apart > FLOOR, 0.0))
    arms = by_arm(rows, hue, looks)
    if x == "layer":
        arms = {name: arm[arm["step"] == arm["step"].max()] for name, arm in arms.items()}
    tall = tall or (1.0 if len(names) > 1 else 0.55)
    shared = {"sharey": sharey and ax is None}
    axes = _axes.panels(len(names), ax, columns=columns, lines=5, tall=tall, **shared)
    cells = {key: {n: arm[arm[by] == key] for n, arm in arms.items()} for key in names}
    found = reach(cells.values(), x)
    for panel, key in zip(axes, names, strict=True):
        lanes = Strip(panel, found, rows["value"], **strip) if zeros else None
        draw(panel, cells[key], looks, lanes, x=x, most=most)
        if lanes:
            lanes.finish(zeros)
        if x == "step":
            _axes.step_axis(panel, rows["step"])
        else:
            panel.set_xlabel("layer")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(names[key])
    for panel in axes if not sharey else axes[:1]:
        panel.set_ylabel(label)
    return _axes.finish(axes, title, looks, extra, own=ax is None)


def _mean(rows: pd.DataFrame, x: str) -> pd.Series:
    return _axes.means(rows, x)["mean"]

"""Ends of runs: paired differences with their intervals, and losses over the learning rate."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from hcviz.plots import _axes, _frames, theme


@theme.themed
def differences(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    against: str = "symmetric",
    unit: str = "nats per token",
    level: float = 0.95,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw for each arm its differences from another, seed by seed, and the mean's interval.

    Args:
        frame: Rows with ``hue`` and value, one for each seed.
        hue: Column that tells the arms.
        against: The arm they are compared with, for the labels.
        unit: Of the values.
        level: Of Student's interval; one seed has none.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes; arms from the lowest mean, on top, to the highest.

    Raises:
        HcvizError: If columns are missing.

    Example:
        >>> rows = {"run": ["a", "a", "b"], "value": [-0.1, -0.2, 0.1]}
        >>> [text.get_text() for text in differences(pd.DataFrame(rows)).get_yticklabels()]
        ['a', 'b']
    """
    _frames.need(frame, [hue, "value"], "The figure of differences")
    order = frame.groupby(hue)["value"].mean().sort_values().index
    looks = theme.arms(list(order))
    [axes] = _axes.panels(1, ax, tall=0.16 + 0.05 * len(order))
    for place, name in enumerate(order):
        values = frame.loc[frame[hue] == name, "value"].to_numpy()
        look = looks[name]
        dots = {"color": look.color, "markersize": 7, "alpha": 0.6}
        axes.plot(values, np.full(len(values), place), look.marker, **dots)
        if len(values) > 1:
            half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
            axes.errorbar(values.mean(), place, xerr=half, color=look.color, capsize=3)
    axes.axvline(0, color=theme.MUTED, linewidth=0.8)
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference from {against} ({unit}; left is better)")
    _axes.titles([axes], title or f"Where each arm ends, minus {against}", own=ax is None)
    return axes


@theme.themed
def rates(
    frame: pd.DataFrame, *, hue: str = "run", ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the loss at the end over the learning rate, a line for each arm, its best marked.

    Args:
        frame: Rows with ``hue``, lr and loss, one for each run.
        hue: Column that tells the arms.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns are missing.

    Example:
        >>> rows = {"run": ["a", "a"], "lr": [1e-3, 2e-3], "loss": [3.2, 3.1]}
        >>> rates(pd.DataFrame(rows)).get_xscale()
        'log'
    """
    _frames.need(frame, [hue, "lr", "loss"], "The figure of rates")
    looks = theme.arms(theme.arm_order(frame[hue]))
    [axes] = _axes.panels(1, ax, tall=0.9)
    for name, look in looks.items():
        rows = frame[frame[hue] == name].dropna(subset=["loss"])
        means = _axes.means(rows, "lr", "loss")["mean"]
        _axes.draw(axes, means.index.to_numpy(), means.to_numpy(), look, label=name)
        ring = {"markersize": 9, "fillstyle": "none", "color": look.color}
        axes.plot(means.idxmin(), means.min(), "o", **ring)
    axes.set_xscale("log")
    ticks = sorted(frame["lr"].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("peak learning rate (ring: the best)")
    axes.set_ylabel("held-out loss at the end (nats per token)")
    title = title or "Each arm at several learning rates"
    return _axes.finish([axes], title, looks, own=ax is None)[0]

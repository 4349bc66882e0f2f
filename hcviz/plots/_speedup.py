"""How much sooner each arm gets where another ends, with its interval over seeds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme


@theme.themed
def speedup(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    what: str = "tokens",
    ax: Axes | None = None,
    title: str = "How many times sooner is the other arm's final loss reached?",
) -> Axes:
    """Draw the speed-up of every arm on a log axis, its interval over seeds, and both in words.

    Arms that start below the target stand at the right edge, those that never reach it at the left.

    Args:
        frame: What :func:`hcviz.speedup` returns.
        hue: Column that tells the arms.
        what: What is saved, for the axis: tokens, FLOPs.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns are missing or there is no row.

    Example:
        >>> rows = {"run": ["random init", "symmetric"], "seeds": 3, "ratio": [1.0, 2.2]}
        >>> ax = speedup(pd.DataFrame(rows | {"low": [1.0, 1.9], "high": [1.0, 2.6]}))
        >>> ax.get_xscale()
        'log'
    """
    _frames.need(frame, [hue, "seeds", "ratio", "low", "high"], "The speedup figure")
    if frame.empty:
        raise HcvizError("The speedup figure got a frame without rows.")
    looks = theme.arms(theme.arm_order(frame[hue]))
    rows = frame.set_index(frame[hue].astype(str)).loc[list(looks)]
    drawn = rows[["ratio", "low", "high"]].to_numpy(float)
    reach = [1.0, *drawn[np.isfinite(drawn) & (drawn > 0)]]
    edges = min(reach) / 1.5, max(reach) * 1.5
    panel = _axes.panels(1, ax, tall=0.07 + 0.055 * len(rows))[0]
    panel.set_xscale("log")
    panel.set_xlim(*edges)
    panel.axvline(1, color=theme.MUTED, linewidth=0.8, linestyle=(0, (6, 3)), label="_one")
    for place, (name, row) in enumerate(rows.iterrows()):
        if np.isfinite(row["low"]):
            ends = [row["low"], row["high"]]
            panel.plot(ends, [place] * 2, color=looks[name].color, label="_range")
        at = np.clip(row["ratio"], *edges)
        _axes.draw(panel, [at], [place], looks[name], label=name, clip_on=False, zorder=3)
        panel.annotate(
            _words(row), xy=(1, place), xycoords=("axes fraction", "data"), xytext=(9, 0),
            textcoords="offset points", va="center", annotation_clip=False,
        )  # fmt: skip
    panel.set_yticks(range(len(rows)), list(rows.index))
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    steps = [m * 10.0**k for k in range(-3, 5) for m in (1, 2, 5)]
    panel.xaxis.set_major_locator(FixedLocator([t for t in steps if edges[0] <= t <= edges[1]]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(visible=True, axis="x")
    panel.grid(visible=False, axis="y")
    panel.set_xlabel(f"{what} of the other arm / own {what} to the same loss")
    _axes.titles([panel], title, own=ax is None)
    return panel


def _words(row: pd.Series) -> str:
    """Say a ratio and how sure it is."""
    if np.isnan(row["ratio"]):
        return "the other gains nothing"
    if np.isinf(row["ratio"]):
        return "starts below it"
    if row["ratio"] == 0:
        return "never reaches it"
    if np.isfinite(row["low"]):
        return f"{row['ratio']:.2g}x ({row['low']:.2g} to {row['high']:.2g})"
    return f"{row['ratio']:.2g}x, " + ("one seed" if row["seeds"] == 1 else "no interval")

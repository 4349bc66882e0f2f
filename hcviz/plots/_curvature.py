"""How the loss curves along the copies, and the rate this foretells beside the measured one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hcviz.plots import _axes, _frames, theme
from hcviz.plots._symmetry import AXES

_SECTORS = {"symmetric": theme.ARMS["source"]._replace(marker="x")} | dict(
    zip("RHN", theme.arms(["symmetric", "noisy 10 dB", "dropout 0.1"]).values(), strict=True)
)
_TITLES = {"curvature": "plain gradient", "curvature.adam": "as Adam sees it"}


@theme.themed
def curvature(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "How does the loss curve along the copies?",
) -> np.ndarray:
    """Draw the smallest and the largest eigenvalue of the Hessian over steps, by sector.

    A panel for each arm and metric, a line for each sector at either end; the bars are the bounds
    of the error. Below zero the loss falls to both sides, and copies that differ leave.

    Args:
        frame: Rows of ``curvature``, ``curvature.adam`` or both: ``hue``, step, axis, part, metric,
            value.
        hue: Column that tells the arms.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "model", "axis": "R", "value": [-1, -2]}
        >>> rows |= {"part": "smallest", "metric": "curvature"}
        >>> curvature(pd.DataFrame(rows))[0].get_title(loc="left")
        'a: plain gradient'
    """
    _frames.need(frame, ["metric"], "The curvature figure")
    names = [name for name in _TITLES if (frame["metric"] == name).any()] or ["curvature"]
    rows = pd.concat([_frames.metric(frame, n, ["axis", "part"], hue) for n in names])
    rows = rows[rows["tensor"] == "model"]
    arms = theme.arm_order(rows[hue])
    axes = _axes.panels(len(arms) * len(names), ax, tall=0.9, lines=5)
    looks = {sector: look for sector, look in _SECTORS.items() if (rows["axis"] == sector).any()}
    places = [(arm, name) for arm in arms for name in names]
    for panel, (arm, name) in zip(axes, places, strict=True):
        here = rows[(rows[hue].astype(str) == arm) & (rows["metric"] == name)]
        for sector, look in looks.items():
            mine = here[here["axis"] == sector]
            table = mine.pivot_table(index="step", columns="part", values="value")
            for end in ("smallest", "largest"):
                if end in table:
                    _axes.draw(panel, table.index, table[end], look, label=f"{sector}, {end}")
                    bound = table.get(f"{end} error")
                    panel.errorbar(table.index, table[end], bound, color=look.color, fmt="none")
        _axes.step_axis(panel, here["step"])
        panel.axhline(0, color=theme.MUTED, linewidth=0.8, zorder=1)
        panel.set_yscale("asinh", linear_width=0.1 if name == "curvature" else 10)
        panel.set_title(f"{arm}: {_TITLES[name]}")
    axes[0].set_ylabel("smallest and largest eigenvalue")
    return _axes.finish(axes, title, looks, own=ax is None)


@theme.themed
def foretold(
    frame: pd.DataFrame,
    *,
    hue: str = "axis",
    ax: Axes | None = None,
    title: str = "Does the curvature foretell how fast copies part?",
) -> Axes:
    """Draw the measured rate over the foretold one; on the dashed line they are the same.

    Args:
        frame: A row for each run and axis: ``hue``, foretold, rate, and where known low and high.
        hue: Column that tells the colours: axis R, H, N.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes; rates under a 200th of the largest are at the foot, as triangles that point down.

    Raises:
        HcvizError: If columns are missing.

    Example:
        >>> rows = {"axis": ["R", "H"], "foretold": [0.1, 0.3], "rate": [0.01, 0.05]}
        >>> foretold(pd.DataFrame(rows)).get_xscale()
        'log'
    """
    _frames.need(frame, [hue, "foretold", "rate"], "The figure of foretold rates")
    [axes] = _axes.panels(1, ax, tall=0.7)
    looks = {name: _SECTORS.get(name, look) for name, look in theme.arms(frame[hue]).items()}
    floor = frame["rate"].max() / 200
    for name, look in looks.items():
        rows = frame[frame[hue].astype(str) == name]
        low = rows["rate"] < floor
        dots = {"linestyle": "none", "markevery": 1, "label": AXES.get(name, name)}
        _axes.draw(axes, rows["foretold"][~low], rows["rate"][~low], look, **dots)
        foot = [1.2 * floor] * low.sum()
        axes.plot(rows["foretold"][low], foot, "v", color=look.color, label="_under")
    both = frame[["foretold", "rate"]]
    ends = np.array([both.clip(lower=floor).min().min(), 2 * both.max().max()])
    same = {"color": theme.MUTED, "linewidth": 0.8, "linestyle": (0, (6, 3))}
    axes.plot(ends, ends, **same, label="_same")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.set_xlabel("rate that the curvature foretells (per step)")
    axes.set_ylabel("rate that was measured (per step)")
    handles = [Line2D([], [], **same, label="the same")]
    named = {AXES.get(name, name): look for name, look in looks.items()}
    return _axes.finish([axes], title, named, handles, own=ax is None)[0]

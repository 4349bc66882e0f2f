"""Growth of the antisymmetric part: the fitted rate with its interval, and the time to leave."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hcviz.plots import _axes, _frames, theme
from hcviz.plots._symmetry import AXES
from hcviz.statistics.escape import escape as fit


@theme.themed
def escape(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    threshold: float = 0.01,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "How fast do copies part? Growth of the antisymmetric part",
    **fitting: Any,
) -> np.ndarray:
    """Draw amplitudes over steps on a log axis, where exponential growth is a straight line.

    The line through an arm is the fit of :func:`hcviz.escape`, the shade its interval; the vertical
    line is where the share of squared norm first exceeds the threshold. Each arm's end says its
    rate per step, or that it is locked.

    Args:
        frame: Rows of the metric ``ledger``: ``hue``, step, tensor, axis, metric, value (0 to 1).
        hue: Column that tells the arms.
        tensors: Names or kinds of weights; None takes all matrices (no gains, no biases).
        threshold: Share of squared norm above which the copies have left.
        ax: As many axes as there are axes in the frame; None makes a figure.
        title: Title of the figure, where ``ax`` is None.
        **fitting: Further arguments of :func:`hcviz.escape`: ``between``, ``confidence``,
            ``metric``.

    Returns:
        The axes, in the order R, H, N.

    Raises:
        HcvizError: If columns or rows are missing.
    """
    rows = _frames.metric(frame, fitting.get("metric", "ledger"), ["axis"], hue)
    rows = _frames.matching(rows, tensors)
    rows = _frames.matrices(rows) if tensors is None else rows
    found = fit(rows, by=[hue, "axis"], threshold=threshold, **fitting)
    letters = sorted(found["axis"].unique(), key=lambda a: (*AXES, a).index(a))
    looks = theme.arms(theme.arm_order(rows[hue]))
    axes = _axes.panels(len(letters), ax, sharey=ax is None, tall=1.1, lines=10)
    first = rows["step"].min()
    means = rows.groupby([hue, "axis", "step"])["value"].mean() ** 0.5
    level = _axes.LEVEL | {"linewidth": 0.8}
    level["label"] = f"left: over {100 * threshold:g} % of squared norm"
    for panel, letter in zip(axes, letters, strict=True):
        for one in found[found["axis"] == letter].itertuples(index=False):
            name = getattr(one, hue)
            mean, look = means[name, letter], looks[str(name)]
            mean = mean[mean > 0]
            if len(mean):
                _axes.draw(panel, mean.index, mean, look, linestyle="", label=str(name), zorder=3)
            if np.isfinite(one.rate):
                x = np.linspace(one.first, one.last, 50)
                line, low, high = (
                    one.level * np.exp(rate * (x - one.pivot))
                    for rate in (one.rate, one.low, one.high)
                )
                panel.plot(x, line, color=look.color, label="_fit")
                panel.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)
        _departures(panel, found[(found["axis"] == letter) & (found["leaves"] > first)], hue, looks)
        panel.set_yscale("log")
        panel.set_ylim(top=2.0)
        panel.axhline(threshold**0.5, **level)
        panel.set_title(AXES.get(letter, str(letter)))
        said = [_said(one, hue) for one in found.itertuples() if one.axis == letter]
        said = ["training step", "growth of the amplitude, % a step:", *said]
        panel.set_xlabel("\n".join(said), loc="left")
    axes[0].set_ylabel("antisymmetric amplitude\n(root of the share of squared norm)")
    return _axes.finish(axes, title, looks, [Line2D([], [], **level)], own=ax is None)


def _departures(panel: Axes, found: pd.DataFrame, hue: str, looks: dict[str, theme.Arm]) -> None:
    """Mark where each arm leaves, the names of the steps in stairs at the bottom."""
    left, dots = found.sort_values("leaves", ascending=False), (0, (2, 2))
    for row, (name, step) in enumerate(zip(left[hue], left["leaves"], strict=True)):
        color = looks[str(name)].color
        panel.axvline(step, color=color, linewidth=0.8, linestyle=dots, label="_leaves")
        late = step > np.mean(panel.get_xlim())
        panel.annotate(
            f"left at {step:,.0f}", xy=(step, 0.02), xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 11 * row), textcoords="offset points",
            ha="right" if late else "left", color=_axes.readable(color), zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )  # fmt: skip


def _said(one: Any, hue: str) -> str:
    """Say in words what was found for one arm."""
    if one.state == "locked":
        return f"{getattr(one, hue)}: locked (exactly 0)"
    said = "none to fit"
    if np.isfinite(one.rate):
        found = 100 * np.array([one.rate, one.low, one.high])
        said = "{:.2f} [{:.2f}, {:.2f}]".format(*found)
    return f"{getattr(one, hue)}: {said}".replace("-", "\N{MINUS SIGN}")

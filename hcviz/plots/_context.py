"""The loss by position in the context, and what reading more of it is worth over training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from hcviz.plots import _axes, _frames, _lines, theme

BINS = 10
"""Bins of positions, of equal width on the log axis; one position alone is too noisy to draw."""


@theme.themed
def in_context(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    step: int | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "What is reading more of the context worth?",
) -> np.ndarray:
    """Draw the loss by position at one step, and the in-context score over all of them.

    Thin lines are each arm's first step, as far as they are in reach. Positions are put together
    in bins.

    Args:
        frame: Rows of the metric ``in_context``: ``hue``, step, part, row, metric, value. Without
            a score there is one panel.
        hue: Column that tells the arms.
        step: Step of the left panel; None takes each arm's last.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes: loss by position, in-context score.

    Raises:
        HcvizError: If columns, rows or the step are missing.

    Example:
        >>> rows = {"run": "a", "step": 9, "tensor": "logits", "part": "loss", "row": [1, 2]}
        >>> frame = pd.DataFrame(rows | {"metric": "in_context", "value": [5.0, 4.0]})
        >>> in_context(frame)[0].get_xlabel()
        'tokens read'
    """
    rows = _frames.metric(frame, "in_context", ["part", "row"], hue)
    scores, rows = rows[rows["part"] == "score"], rows[rows["part"] == "loss"]
    looks = theme.arms(theme.arm_order(rows[hue]))
    axes = _axes.panels(1 + (len(scores) > 0), ax, columns=2, lines=5, tall=0.75)
    edges = np.geomspace(1, rows["row"].max() + 1, BINS + 1)
    arms, shown = _lines.by_arm(rows, hue, looks), []
    for name, look in looks.items():
        arm = arms[name]
        last = arm["step"].max() if step is None else _frames.choose(arm["step"], [step], "step")[0]
        for at in dict.fromkeys((arm["step"].min(), last)):
            one = arm[arm["step"] == at]
            bins = one.groupby(np.searchsorted(edges, one["row"].to_numpy(int), side="right"))
            x, y = (bins[key].mean().to_numpy(float) for key in ("row", "value"))
            if at == last:
                _axes.draw(axes[0], x, y, look, label=name, zorder=3)
                shown += y.tolist()
            else:
                axes[0].plot(x, y, color=look.color, linewidth=0.5, alpha=0.6, label="_thin")
    room = 0.25 * (max(shown) - min(shown)) or 1.0
    axes[0].set_ylim(min(shown) - room, max(shown) + room)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].set_xlabel("tokens read")
    axes[0].set_ylabel("loss of the next token (nats)")
    axes[0].set_title("last step" if step is None else f"step {step:,}")
    if len(scores):
        _lines.draw(axes[1], _lines.by_arm(scores, hue, looks), looks)
        _axes.step_axis(axes[1], scores["step"])
        axes[1].set_ylabel("late loss \N{MINUS SIGN} early loss (nats)")
        axes[1].set_title("in-context score")
    return _axes.finish(axes, title, looks, own=ax is None)

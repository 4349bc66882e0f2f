"""Histograms of weights over training, as ridges over the steps."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hcviz.plots import _axes, _frames, theme

_TALL = 0.88  # of the highest ridge, where ridges are 1 apart


@theme.themed
def histograms(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Where do the weights lie?",
) -> np.ndarray:
    """Draw the logarithm of the distribution of entries at several steps, and the start's outline.

    What training changes are mostly the tails, which only a logarithm shows.

    Args:
        frame: Rows of the metric ``histogram``: ``hue``, step, tensor, axis, row, metric, value.
        hue: Column that tells the arms.
        tensors: Names or kinds of weights, a panel for each and each arm (all layers: a kind).
            None takes one up-projection, or the first weight there is.
        steps: Steps to draw; None draws up to six, evenly on a log scale.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per arm and weight.

    Raises:
        HcvizError: If columns, rows, tensors or steps are missing.

    Example:
        >>> rows = {"run": "a", "step": 0, "tensor": "fc1", "metric": "histogram"}
        >>> rows |= {"row": [0, 1, None, None], "axis": [None, None, "low", "high"]}
        >>> len(histograms(pd.DataFrame(rows | {"value": [0.5, 0.5, -1.0, 1.0]})))
        1
    """
    rows = _frames.matching(_frames.metric(frame, "histogram", ["axis", "row"], hue), tensors)
    if tensors is None:
        ups = rows[rows["kind"] == "up-projection"]
        rows = rows[rows["weight"] == (rows if ups.empty else ups)["weight"].iloc[0]]
    shown = _frames.spread(rows["step"], 6)
    shown = shown if steps is None else _frames.choose(sorted(rows["step"].unique()), steps, "step")
    looks = theme.arms(theme.arm_order(rows[hue]))
    weights = list(rows["weight"].unique())
    arms = rows[hue].astype(str)
    cells = [(arms == name) & (rows["weight"] == weight) for weight in weights for name in looks]
    groups = [rows[cell] for cell in cells if cell.any()]
    columns = len(looks) if 1 < len(looks) < 6 else 4
    axes = _axes.panels(len(groups), ax, columns=columns, tall=1.3, lines=4)
    beyond = 0.0
    for panel, group in zip(axes, groups, strict=True):
        arm, weight = str(group[hue].iloc[0]), group["weight"].iloc[0]
        beyond = max(beyond, _ridges(panel, group, shown, looks[arm].color))
        several = [arm] * (len(looks) > 1) + [_frames.short(weight)] * (len(weights) > 1)
        panel.set_title("\n".join(several) or _frames.short(weight))
        panel.set_xlabel("weight")
    axes[0].set_ylabel("training step")
    short = _frames.short(weights[0])
    what = "" if len(weights) > 1 else f" {short[0].upper()}{short[1:]}"
    note = f"Log scale; line: the start. Beyond the bins: {beyond:.2g} of the entries at most."
    _axes.titles(axes, title + what, note, own=ax is None)
    return axes


def _ridges(ax: Axes, rows: pd.DataFrame, steps: Sequence[int], color: str) -> float:
    """Draw one ridge per step, the first on top; return the largest share beyond the bins."""
    bins = rows[rows["axis"].isna()].pivot_table(index="step", columns="row", values="value")
    rest = rows.pivot_table(index="step", columns="axis", values="value")
    edges = np.linspace(rest["low"].iloc[0], rest["high"].iloc[0], bins.shape[1] + 1)
    floor = bins.to_numpy()[bins.to_numpy() > 0].min() / 2
    heights = np.log(bins.clip(lower=floor) / floor)
    heights *= _TALL / heights.to_numpy().max()
    steps = [step for step in steps if step in bins.index]
    for i, step in enumerate(steps):
        ax.stairs(heights.loc[step] - i, edges, baseline=-i, fill=True, color=color, alpha=0.75,
                  zorder=2, label=f"_{step}")  # fmt: skip
        ax.stairs(heights.iloc[0] - i, edges, baseline=None, color=theme.INK, linewidth=0.6,
                  zorder=3, label="_start")  # fmt: skip
    ax.set_yticks([-i for i in range(len(steps))], [f"{step:,}" for step in steps])
    ax.set_ylim(0.9 - len(steps), 1)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return float(rest.reindex(columns=["under", "over"]).sum(axis=1).max())

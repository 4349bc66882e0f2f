"""Cosine of the cloned halves over training, as the paper's figure 5 defines it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hcviz import theme
from hcviz.plots import _axes, _frames
from hcviz.plots._strip import Strip

_BAND = "#c9c9cf"
_EQUAL = 1e-12


@theme.themed
def cosine(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    by: str = "tensor-kind",
    kinds: Sequence[str] | None = None,
    log: bool = False,
    baseline: tuple[float, float] | Mapping[Any, tuple[float, float]] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Do the copies part? Cosine of the cloned halves over training",
) -> np.ndarray:
    """Draw the mean cosine of cloned halves over steps: a thin line per weight, and their mean.

    A short run moves copies by a hundredth, which no linear axis shows: ``log=True`` draws
    1 - cosine on a log axis, with a strip for halves that are equal (to twelve digits).

    Args:
        frame: Rows of the metric ``cosine``: ``hue``, step, tensor, metric, value.
        hue: Column that tells the arms.
        by: One panel per ``tensor-kind``, or per value of another column (``layer``, ``tensor``).
        kinds: Kinds to draw; None draws up-projections, QKV and the unembedding (or the embedding,
            where the two are tied), or all there are where none of these is.
        log: Draw 1 - cosine on a log axis.
        baseline: Lowest and highest cosine of unrelated rows, drawn as a band; or panel -> such.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per panel.

    Raises:
        HcvizError: If columns, rows or kinds are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "layers.0.fc1", "metric": "cosine"}
        >>> cosine(pd.DataFrame(rows | {"value": [1.0, 0.9]}))[0].get_title(loc="left")
        'up-projection'
    """
    by = "kind" if by == "tensor-kind" else by
    rows = _frames.metric(frame, "cosine", [by], hue)
    kinds = _frames.choose(rows["kind"], _usual(rows) if kinds is None else kinds, "kind")
    rows = rows[rows["kind"].isin(kinds)]
    if log:
        rows = rows.assign(value=1 - rows["value"])
    groups = kinds if by == "kind" else sorted(rows[by].dropna().unique())
    looks = theme.arms(theme.arm_order(rows[hue]))
    cells = {
        (group, name): rows[(rows[by] == group) & (rows[hue].astype(str) == name)]
        for group in groups
        for name in looks
    }
    means = {cell: _axes.means(arm, "step")["mean"] for cell, arm in cells.items()}
    reach = {name: np.concatenate([means[group, name] for group in groups]) for name in looks}
    axes = _axes.panels(len(groups), ax, sharey=ax is None, tall=1.0, lines=5)
    bands = baseline if isinstance(baseline, Mapping) else dict.fromkeys(groups, baseline)
    bands = {group: band for group, band in bands.items() if band is not None}
    for panel, group in zip(axes, groups, strict=True):
        _axes.step_axis(panel, rows["step"])
        top = max(1.0, rows["value"].max())
        strip = Strip(panel, reach, rows["value"], floor=_EQUAL, top=top) if log else None
        if group in bands:
            _draw_band(panel, bands[group], log=log)
        for name, look in looks.items():
            lines = _axes.split(cells[group, name])
            for line in lines if len(lines) > 1 else []:
                inside = line[line["value"] > _EQUAL] if log else line
                panel.plot(inside["step"], inside["value"], **_axes.thin(look))
            mean = means[group, name]
            if len(mean):
                y = strip.place(mean, name) if strip else mean.to_numpy()
                _axes.draw(panel, mean.index.to_numpy(), y, look, label=name, zorder=3)
        if strip:
            strip.finish("equal (to 1e-12)")
        panel.set_title(f"layer {group:g}" if by == "layer" else str(group))
    low = min([rows["value"].min(), 0.9, *(band[0] for band in bands.values())])
    for panel in axes if not log else []:
        panel.set_ylim(low - 0.06 * (1 - low), 1 + 0.06 * (1 - low))
    axes[0].set_ylabel(f"{'1 - ' if log else ''}cosine of the two halves\n(mean over rows)")
    extra = [Patch(facecolor=_BAND, label="unrelated rows")] if bands else []
    _axes.legend(axes, looks, extra, own=ax is None)
    _axes.titles(axes, title, own=ax is None)
    return axes


def _draw_band(ax: Axes, band: tuple[float, float], *, log: bool) -> None:
    """Draw the range of unrelated rows; a thinner band than a line would not be seen."""
    low, high = (1 - band[1], 1 - band[0]) if log else band
    pad = max(0.0, 0.012 - (high - low)) / 2
    ax.axhspan(low - pad, high + pad, facecolor=_BAND, edgecolor="none", zorder=0.5, label="_band")


def _usual(rows: pd.DataFrame) -> list[str] | None:
    """Return the kinds of the paper's figure that are there, with a tied head as its embedding."""
    there = set(rows["kind"])
    head = "unembedding" if "unembedding" in there else "embedding"
    return [kind for kind in ("up-projection", "QKV", head) if kind in there] or None

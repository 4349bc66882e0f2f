"""Cosine of the cloned halves over training, as the paper's figure 5 defines it, and its kin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hcviz.errors import HcvizError
from hcviz.io.files import natural
from hcviz.plots import _frames, _lines, theme

_BAND = "#c9c9cf"
_EQUAL = 1e-12
# Metric -> name of the y axis, and what the title says of it.
_WHAT = {
    "cosine": ("cosine of the two halves\n(mean over rows)", "Cosine of the cloned halves"),
    "cosine.rows": (
        "cosine of the two halves\n(shade: nine rows in ten)",
        "Cosine of the halves of each row",
    ),
    "cosine.heads": ("cosine of copied heads\n(thin: heads)", "Cosine of the copies of each head"),
    "angle": ("angle (degrees)\n(thin: blocks)", "Angle to the source's weight"),
}


@theme.themed
def cosine(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    metric: str = "cosine",
    col: str = "kind",
    kinds: Sequence[str] | None = None,
    log: bool = False,
    baseline: tuple[float, float] | Mapping[Any, tuple[float, float]] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the mean cosine of cloned halves over steps: a thin line per weight, and their mean.

    A short run moves copies by a hundredth, which no linear axis shows: ``log=True`` draws
    1 - cosine on a log axis, with a strip for halves that are equal (to twelve digits).

    Args:
        frame: Rows of the metric: ``hue``, step, tensor, metric, value. Where it holds
            ``cosine.baseline`` too, the range of unrelated weights is drawn as a band.
        hue: Column that tells the arms.
        metric: ``cosine``, ``cosine.rows``, ``cosine.heads`` or ``angle``, or one of an update,
            gradient or moment: ``update.cosine``. Thin lines are then heads, blocks or rows; of
            many, a shade shows the middle nine in ten.
        col: One panel per ``kind`` of weight, or per value of another column (``layer``,
            ``tensor``).
        kinds: Kinds to draw; None draws up-projections, QKV and the unembedding (or the embedding,
            where the two are tied), or all there are where none of these is.
        log: Draw 1 - cosine on a log axis.
        baseline: Lowest and highest value of unrelated weights, drawn as a band; or panel -> such.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, one per panel.

    Raises:
        HcvizError: If columns, rows or kinds are missing, or an angle is asked for as 1 - cosine.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "layers.0.fc1", "metric": "cosine"}
        >>> cosine(pd.DataFrame(rows | {"value": [1.0, 0.9]}))[0].get_title(loc="left")
        'up-projection'
    """
    plain = metric.rpartition("angle")[1] or metric[metric.find("cosine") :]
    if log and plain == "angle":
        raise HcvizError("log=True draws 1 - cosine; an angle needs no log. Leave it out.")
    rows = _frames.metric(frame, metric, [col], hue)
    kinds = _frames.choose(rows["kind"], _usual(rows) if kinds is None else kinds, "kind")
    rows = rows[rows["kind"].isin(kinds)]
    if log:
        rows = rows.assign(value=1 - rows["value"])
    groups = kinds if col == "kind" else sorted(rows[col].dropna().unique(), key=natural)
    bands = baseline if isinstance(baseline, Mapping) else dict.fromkeys(groups, baseline)
    bands = {group: band for group, band in bands.items() if band is not None}
    if baseline is None and (frame["metric"] == f"{metric}.baseline").any():
        spread = _frames.metric(frame, f"{metric}.baseline", [col]).groupby(col)["value"].max()
        bands = {group: (-spread[group], spread[group]) for group in groups if group in spread}
    names = {group: f"layer {group:g}" if col == "layer" else str(group) for group in groups}
    label, what = _WHAT.get(plain, (plain, plain))
    subject = metric.removesuffix(plain).rstrip(".")
    title = title or f"Do the copies part? {what}{subject and f' ({subject})'} over training"
    strip = {"floor": _EQUAL, "top": max(1.0, rows["value"].max())}
    axes = _lines.panels(
        rows, col, names, hue, "step", ax, title, f"{'1 - ' if log else ''}{label}",
        zeros="equal (to 1e-12)" if log else "", tall=1.0, most=64,
        extra=[Patch(facecolor=_BAND, label="unrelated weights")] if bands else [], **strip,
    )  # fmt: skip
    for panel, group in zip(axes, groups, strict=True):
        if group in bands:
            _draw_band(panel, bands[group], log=log)
    low = min([rows["value"].min(), 0.9, *(band[0] for band in bands.values())])
    for panel in axes if not log and plain != "angle" else []:
        panel.set_ylim(low - 0.06 * (1 - low), 1 + 0.06 * (1 - low))
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

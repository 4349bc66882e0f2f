"""One number of every weight over training: its rank, its norm, how far it has moved."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hcviz.errors import HcvizError
from hcviz.io.files import natural
from hcviz.plots import _axes, _frames, _lines, theme

_RANKS = {
    "effective_rank": ("effective rank", "dimensions (entropy)"),
    "participation": ("participation ratio", "dimensions"),
    "stable_rank": ("stable rank", "squared norm / largest\u00b2"),
    "rank": ("numerical rank", "dimensions above rounding"),
}
_LABELS = {
    "norm": ("norm", "Frobenius norm"),
    "distance": ("distance from the start", "share of the norm at the start"),
    "turn:start": ("angle to the start", "degrees"),
    "turn:previous": ("turn since the snapshot before", "degrees"),
    "update": ("update / weight", "ratio of norms, per step"),
    "flips": ("signs flipped since the start", "share of entries"),
    **_RANKS,
    "marchenko_pastur:outliers": ("above the random law", "singular values"),
    "power_law": ("power-law exponent", "exponent of squared values"),
}
"""Metric, with its axis where it has some -> title and unit."""
_EXPERTS = {
    "experts:load": ("load (mean: even)", "share of the choices"),
    "experts:balance": ("evenness of loads", "entropy / ln experts"),
    "experts:entropy": ("router's doubt", "entropy / ln experts"),
    "experts.cosine": ("likeness of experts", "cosine of their weights"),
}


@theme.themed
def evolution(
    frame: pd.DataFrame,
    *,
    metrics: str | Iterable[str] | None = None,
    hue: str = "run",
    by: str = "metric",
    tensors: str | Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "How far do the weights move?",
) -> np.ndarray:
    """Draw numbers of single weights over steps: a thin line per weight, and the mean of each arm.

    Args:
        frame: Rows of such metrics: ``hue``, step, tensor, metric, value. Ranks, norm, distance,
            turn, update, flips, power_law, and the outliers of marchenko_pastur.
        metrics: Those to draw; None draws all that the frame holds.
        hue: Column that tells the arms.
        by: One panel per ``metric``; or, of a single one, per ``tensor-kind``, ``layer`` or value
            of another column.
        tensors: Names or kinds of weights to draw; None draws all matrices (no gains, no biases).
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per panel.

    Raises:
        HcvizError: If columns, rows or metrics are missing, or several are asked per layer.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "fc1", "metric": "norm"}
        >>> evolution(pd.DataFrame(rows | {"value": [2.0, 2.5]}))[0].get_ylabel()
        'Frobenius norm'
    """
    return _draw(frame, _LABELS, metrics, hue, by, tensors, ax, title)


@theme.themed
def rank(
    frame: pd.DataFrame,
    *,
    metrics: str | Iterable[str] | None = None,
    hue: str = "run",
    by: str = "metric",
    tensors: str | Iterable[str] | None = "up-projection",
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "How many dimensions does a weight use?",
) -> np.ndarray:
    """Draw the kinds of rank over steps: effective, participation, stable, numerical.

    Args:
        frame: As in :func:`evolution`, of one of these metrics or more.
        metrics: As in :func:`evolution`.
        hue: As in :func:`evolution`.
        by: As in :func:`evolution`.
        tensors: As in :func:`evolution`; matrices of several sizes have no common scale.
        ax: As in :func:`evolution`.
        title: As in :func:`evolution`.

    Returns:
        The axes, one per panel.

    Raises:
        HcvizError: As in :func:`evolution`.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "fc1", "metric": "rank"}
        >>> rank(pd.DataFrame(rows | {"value": [4, 8]}))[0].get_title(loc="left")
        'numerical rank'
    """
    return _draw(frame, _RANKS, metrics, hue, by, tensors, ax, title)


@theme.themed
def power_law(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    ax: Axes | None = None,
    title: str = "How does the tail fall off, and is it still the source's?",
) -> Axes:
    """Draw the power-law exponent over steps, and the source's as a dashed level.

    Args:
        frame: Rows of the metrics ``power_law`` and, for the level, ``power_law.source``.
        hue: As in :func:`evolution`.
        tensors: As in :func:`evolution`.
        ax: Axes to draw in; None makes a figure.
        title: As in :func:`evolution`.

    Returns:
        The axes.

    Raises:
        HcvizError: As in :func:`evolution`.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "fc1", "metric": "power_law"}
        >>> power_law(pd.DataFrame(rows | {"value": [2.0, 2.5]})).get_ylabel()
        'exponent of squared values'
    """
    labels = {"power_law": ("", _LABELS["power_law"][1])}
    (panel,) = _draw(frame, labels, None, hue, "metric", tensors, ax, title)
    if (frame["metric"] == "power_law.source").any():
        source = _frames.matching(_frames.metric(frame, "power_law.source"), tensors)
        panel.axhline(source["value"].mean(), label="_source", **_axes.LEVEL)
        panel.annotate(
            "the source's", (0, source["value"].mean()), xytext=(14, 3), va="bottom",
            xycoords=("axes fraction", "data"), textcoords="offset points", color=theme.MUTED,
        )  # fmt: skip
    return panel


@theme.themed
def experts(
    frame: pd.DataFrame,
    *,
    metrics: str | Iterable[str] | None = None,
    hue: str = "run",
    by: str = "metric",
    tensors: str | Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Who is asked in a mixture of experts?",
) -> np.ndarray:
    """Draw the load of every expert, how even loads are, how sure the router is, cosines.

    Args:
        frame: As in :func:`evolution`, of the metrics ``experts`` and ``experts.cosine``.
        metrics: As in :func:`evolution`.
        hue: As in :func:`evolution`.
        by: As in :func:`evolution`.
        tensors: As in :func:`evolution`.
        ax: As in :func:`evolution`.
        title: As in :func:`evolution`.

    Returns:
        The axes, one per panel.

    Raises:
        HcvizError: As in :func:`evolution`.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "gate", "metric": "experts"}
        >>> experts(pd.DataFrame(rows | {"axis": "balance", "value": 0.9}))[0].get_ylabel()
        'entropy / ln experts'
    """
    return _draw(frame, _EXPERTS, metrics, hue, by, tensors, ax, title)


def _draw(frame, labels, metrics, hue, by, tensors, ax, title) -> np.ndarray:
    """Draw the metrics of ``labels`` that are asked for, or are there."""
    _frames.need(frame, ["metric"], "This figure")
    known = list(dict.fromkeys(key.partition(":")[0] for key in labels))
    there = [name for name in known if (frame["metric"] == name).any()]
    if not there:
        raise HcvizError(
            f"The frame holds none of {', '.join(known)}. "
            f"Ask for them: hcviz.measure(run, metrics={known[:2]!r})."
        )
    asked = _frames.choose(there, metrics, "metric")
    rows = pd.concat([_frames.metric(frame, name, hue=hue) for name in asked], ignore_index=True)
    axis = rows["axis"].fillna("") if "axis" in rows else pd.Series("", index=rows.index)
    rows["key"] = (rows["metric"] + ":" + axis.astype(str)).str.removesuffix(":")
    rows = rows[rows["key"].isin(labels)]
    rows = _frames.matrices(rows) if tensors is None else _frames.matching(rows, tensors)
    keys = [key for key in labels if (rows["key"] == key).any()]
    column = {"metric": "key", "tensor-kind": "kind"}.get(by, by)
    if column != "key" and len(keys) > 1:
        raise HcvizError(f"Panels by {by!r} need one metric; choose of {', '.join(asked)}.")
    groups = keys if column == "key" else sorted(rows[column].dropna().unique(), key=natural)
    looks = theme.arms(theme.arm_order(rows[hue]))
    columns = 3 if len(groups) in (3, 5, 6) else 4
    axes = _axes.panels(len(groups), ax, columns=columns, tall=0.9, lines=5, between=3.6)
    for panel, group in zip(axes, groups, strict=True):
        here = rows[rows[column] == group]
        name, unit = labels[here["key"].iloc[0]]
        _axes.step_axis(panel, here["step"])
        _lines.draw(panel, _lines.by_arm(here, hue, looks), looks, turns=4)
        if here["key"].iloc[0] == "update":
            panel.set_yscale("log", nonpositive="mask")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
        heads = {"key": name, "layer": f"layer {group}"}
        panel.set_title(heads.get(column, str(group)))
        panel.set_ylabel(unit)
    _axes.titles(axes, title, own=ax is None)
    if len(axes) > 1 or len(looks) > 6:
        _axes.legend(axes, looks, own=ax is None)
        return axes
    axes[0].figure.draw_without_rendering()  # settles limits and heights, for the end labels
    drawn = {line.get_label(): line for line in axes[0].lines}
    ends = {arm: (*drawn[arm].get_xydata()[-1], arm) for arm in looks if arm in drawn}
    _axes.end_labels(axes[0], ends, looks)
    return axes

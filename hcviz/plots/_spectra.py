"""Singular values before and after training, on a log axis with a place for zeros."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hcviz.plots import _axes, _frames, theme
from hcviz.plots._strip import Strip
from hcviz.statistics import marchenko

BEFORE = {"linewidth": 0.8, "alpha": 0.8, "marker": "", "zorder": 2}
_DOTTED = (0, (1, 1.6))


@theme.themed
def spectrum(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    steps: tuple[int, int] | None = None,
    floor: float = 1e-6,
    random: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Does training fill the empty half? Singular values before and after",
) -> np.ndarray:
    """Draw singular values, largest = 1, against index / size: thin before, thick after.

    Values at or under ``floor`` rest in a strip of their own, under a dashed line; the part of the
    index that is there before training, in any arm, is shaded and named. The axis has room for
    every step of the frame, so that it stays the same from one pair of steps to another.

    Args:
        frame: Rows of the metric ``spectrum``: ``hue``, step, tensor, row, metric, value.
        hue: Column that tells the arms.
        tensors: Names or kinds of weights, one panel per weight. None takes the first of each of
            three kinds at most, QKV and the feed-forward ones before others.
        steps: The step before and the step after; None takes each arm's first and last.
        floor: At or under this share of the largest is zero (float32 leaves about 1e-7).
        random: An arm. A dotted line shows what random entries of its weight's shape and mean
            square would give after training, by rows of the metric ``marchenko_pastur``.
        ax: As many axes as there are weights; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per weight.

    Raises:
        HcvizError: If columns, rows, tensors, steps or the arm ``random`` are missing.

    Example:
        >>> rows = {"run": "a", "step": 0, "tensor": "fc1", "row": [0, 1], "metric": "spectrum"}
        >>> len(spectrum(pd.DataFrame(rows | {"value": [2.0, 0.0]})))
        1
    """
    rows = _frames.matching(_frames.metric(frame, "spectrum", ["row"], hue), tensors)
    if tensors is None:
        first = rows.drop_duplicates("kind").set_index("kind")["weight"]
        wanted = ("up-projection", "QKV", "down-projection", *_frames.KINDS, "other")
        kept = [first[kind] for kind in dict.fromkeys(wanted) if kind in first.index][:3]
        rows = rows[rows["weight"].isin(kept)]
    if steps is not None:
        _frames.choose(rows["step"], steps, "step")
    law = None
    if random is not None:
        _frames.choose(rows[hue].astype(str), random, "arm")
        law = _frames.metric(frame, "marchenko_pastur", ["axis"], hue)
        law = law[law[hue].astype(str) == random]
    largest = rows.groupby([hue, "weight", "step"])["value"].transform("max").to_numpy(float)
    rows = rows.assign(largest=largest, share=rows["value"] / np.where(largest > 0, largest, 1.0))
    weights = list(rows["weight"].unique())
    looks = theme.arms(theme.arm_order(rows[hue]))
    arms = {name: rows[rows[hue].astype(str) == name] for name in looks}
    reach = {name: arm["share"].to_numpy(float) for name, arm in arms.items()}
    axes = _axes.panels(len(weights), ax, columns=3, sharey=ax is None, tall=1.0, lines=6)
    for panel, weight in zip(axes, weights, strict=True):
        strip = Strip(panel, reach, floor=floor)
        empty = 1.0
        for name, arm in arms.items():
            curves = _curves(arm[arm["weight"] == weight], steps)
            for side, (at, values, _, _) in curves.items():
                options = BEFORE if side == "before" else {"zorder": 3}
                y = strip.place(values, name)
                _axes.draw(panel, at, y, looks[name], label=f"{name}, {side}", **options)
                if side == "before" and values[-1] <= floor:
                    empty = min(empty, at[np.argmax(values <= floor)])
            if law is not None and name == random and curves:
                at, _, step, top = curves["after" if "after" in curves else "before"]
                here = law[(law["weight"] == weight) & (law["step"] == step)]
                edge = here.set_index("axis")["value"]
                y = marchenko.expected(len(at), edge["low"], edge["high"]) / top
                panel.plot(at, y, color=theme.INK, linestyle=_DOTTED, label="_random", zorder=4)
        strip.finish(headroom=0.16)
        next(line for line in panel.lines if line.get_label() == "_edge").set_linestyle((0, (5, 3)))
        if empty < 1.0:
            _mark_empty(panel, empty)
        panel.set_xlim(-0.02, 1.02)
        panel.set_xlabel("index / size")
        panel.set_title(_frames.short(weight))
    axes[0].set_ylabel("singular value / largest")
    when = [f"step {step:,}" for step in steps or ()] or ["before training", "after training"]
    extra = [
        Line2D([], [], color=theme.MUTED, linestyle="-", linewidth=width, label=label)
        for width, label in zip((0.8, 2.0), ("thin: " + when[0], "thick: " + when[1]), strict=True)
    ]
    if random is not None:
        label = f"random entries, as large as {random}'s"
        extra.append(Line2D([], [], color=theme.INK, linestyle=_DOTTED, label=label))
    return _axes.finish(axes, title, looks, extra, own=ax is None)


def _mark_empty(ax: Axes, start: float) -> None:
    """Shade and name the part of the index whose singular values are zero before training."""
    ax.axvspan(start, 1.02, facecolor="#eef3fa", edgecolor="none", zorder=-1, label="_empty")
    line = {"color": theme.MUTED, "linewidth": 0.8, "linestyle": (0, (2, 2)), "zorder": 1.5}
    ax.axvline(start, **line, label="_half")
    ax.annotate(
        "starts at zero", xy=((start + 1.02) / 2, 1.0), xycoords=("data", "axes fraction"),
        xytext=(0, -2), textcoords="offset points", ha="center", va="top", color=theme.MUTED,
        fontstyle="italic",
    )  # fmt: skip


def _curves(rows: pd.DataFrame, steps: tuple[int, int] | None) -> dict[str, tuple]:
    """Return before/after -> (index / size, descending shares, step, largest value) of one arm."""
    curves = {}
    first, last = steps or (rows["step"].min(), rows["step"].max())
    for when, step in (("before", first), ("after", last))[: 1 + (first != last)]:
        here = rows[rows["step"] == step]
        if len(here) and here["largest"].iloc[0] > 0:
            values = np.sort(here["share"].to_numpy(float))[::-1]
            at = np.arange(len(values)) / len(values)
            curves[when] = (at, values, step, here["largest"].iloc[0])
    return curves

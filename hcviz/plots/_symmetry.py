"""The symmetry ledger and the spectra: log figures whose zeros have a place of their own."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hcviz import theme
from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames
from hcviz.plots._strip import Strip

AXES = {"R": "R: residual stream", "H": "H: attention heads", "N": "N: FFN neurons"}


@theme.themed
def ledger(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    metric: str = "ledger",
    col: str | None = None,
    tensors: str | Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Who leaves the clone, and along which axis?",
) -> np.ndarray:
    """Draw the share of each weight outside its symmetric part, per axis, zeros in a strip.

    Thin lines are the weights, thick ones their mean. So an arm rests in the strip only while every
    weight of it is, bit for bit, a clone along that axis. Each arm has its own lane there.

    Args:
        frame: Rows of the metric ``ledger``: ``hue``, step, tensor, axis, metric, value (0 to 1).
        hue: Column that tells the arms.
        metric: The ledger to draw; for example ``update.ledger``.
        col: A column (``layer``) whose values get panels of their own, one row of them per axis.
        tensors: Names or kinds of weights to draw; None draws all matrices (no gains, no biases).
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, in the order R, H, N; with ``col`` all panels of R first.

    Raises:
        HcvizError: If columns or rows are missing, or a share is outside 0 to 1.

    Example:
        >>> rows = {"run": "symmetric", "step": [0, 9], "tensor": "fc1", "axis": "N"}
        >>> frame = pd.DataFrame(rows | {"metric": "ledger", "value": 0.0})
        >>> ledger(frame)[0].get_title(loc="left")
        'N: FFN neurons'
    """
    columns = ["axis", *([col] if col else [])]
    rows = _frames.matching(_frames.metric(frame, metric, columns, hue), tensors)
    rows = _frames.matrices(rows) if tensors is None else rows
    letters = [letter for letter in AXES if (rows["axis"] == letter).any()]
    letters += [letter for letter in rows["axis"].dropna().unique() if letter not in AXES]
    groups = sorted(rows[col].dropna().unique()) if col else []
    panels = {AXES.get(letter, letter): rows["axis"] == letter for letter in letters}
    if col:
        panels = {
            f"{letter}, {col} {group}": (rows["axis"] == letter) & (rows[col] == group)
            for letter in letters
            for group in groups
        }
    axes = shares(rows, panels, hue=hue, ax=ax, columns=len(groups) or 4, tall=1.4 if col else 1.1)
    for panel in axes[: -len(groups)] if col else []:
        panel.set_xlabel("")
    whose = f" ({metric.removesuffix('.ledger')})" if "." in metric else ""
    for panel in axes[:: len(groups) or len(axes)]:
        panel.set_ylabel(f"share of squared norm{whose}\noutside the symmetric part")
    _axes.titles(axes, title, own=ax is None)
    return axes


def shares(
    rows: pd.DataFrame,
    panels: dict[str, pd.Series],
    *,
    hue: str,
    ax: Axes | Sequence[Axes] | None,
    columns: int = 4,
    tall: float = 1.1,
) -> np.ndarray:
    """Draw shares of squared norm over steps on log axes, zeros in a strip, one panel per title.

    Args:
        rows: Rows of one metric, as ``_frames.metric`` gives them.
        panels: Title -> which of the rows.
        hue: Column that tells the arms.
        ax: As many axes as panels; None makes a figure.
        columns: Most panels in a row.
        tall: Height of a panel over its width.

    Raises:
        HcvizError: If a share is outside 0 to 1.
    """
    low, high = rows["value"].min(), rows["value"].max()
    if low < 0 or high > 1 + 1e-9:
        raise HcvizError(f"A share lies between 0 and 1; the frame holds {low:g} to {high:g}.")
    looks = theme.arms(theme.arm_order(rows[hue]))
    axes = _axes.panels(len(panels), ax, columns=columns, sharey=ax is None, tall=tall, lines=5)
    arms = {name: rows[hue].astype(str) == name for name in looks}
    cells = {(name, title): rows[arms[name] & panels[title]] for name in looks for title in panels}
    means = {cell: _axes.means(arm, "step")["mean"] for cell, arm in cells.items()}
    reach = {name: np.concatenate([means[name, title] for title in panels]) for name in looks}
    for panel, title in zip(axes, panels, strict=True):
        _axes.step_axis(panel, rows["step"])
        strip = Strip(panel, reach, rows["value"])
        for name, look in looks.items():
            lines = _axes.split(cells[name, title])
            # A weight that stays at zero would only thicken its arm's lane.
            for line in (line for line in lines if len(lines) > 1 and line["value"].any()):
                inside = line[line["value"] > 0]
                panel.plot(inside["step"], inside["value"], **_axes.thin(look))
            mean = means[name, title]
            if len(mean):
                y = strip.place(mean, name)
                _axes.draw(panel, mean.index.to_numpy(), y, look, label=name, zorder=3)
        strip.finish("locked (exactly 0)")
        panel.set_title(title)
    _axes.legend(axes, looks, own=ax is None)
    return axes


@theme.themed
def spectrum(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    steps: tuple[int, int] | None = None,
    floor: float = 1e-6,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Does training fill the empty half? Singular values before and after",
) -> np.ndarray:
    """Draw singular values, largest = 1, against index / size: thin before, thick after.

    Values at or under ``floor`` rest in a strip of their own; the part of the index that is there
    before training, in any arm, is shaded and named.

    Args:
        frame: Rows of the metric ``spectrum``: ``hue``, step, tensor, row, metric, value.
        hue: Column that tells the arms.
        tensors: Names or kinds of weights, one panel per weight. None takes the first of each of
            three kinds at most, QKV and the feed-forward ones before others.
        steps: The step before and the step after; None takes each arm's first and last.
        floor: At or under this share of the largest is zero (float32 leaves about 1e-7).
        ax: As many axes as there are weights; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per weight.

    Raises:
        HcvizError: If columns, rows, tensors or steps are missing.

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
    weights = list(rows["weight"].unique())
    looks = theme.arms(theme.arm_order(rows[hue]))
    axes = _axes.panels(len(weights), ax, columns=3, sharey=ax is None, tall=1.0, lines=6)
    curves = {w: _spectra(rows[rows["weight"] == w], hue, steps) for w in weights}
    reach = {
        name: [
            value
            for c in curves.values()
            for (n, _), (_, y) in c.items()
            if n == name
            for value in y
        ]
        for name in looks
    }
    for panel, weight in zip(axes, weights, strict=True):
        strip = Strip(panel, reach, floor=floor)
        empty = 1.0
        for (name, when), (at, values) in curves[weight].items():
            before = {"linewidth": 0.8, "alpha": 0.8, "marker": "", "zorder": 2}
            options = before if when == "before" else {"zorder": 3}
            y = strip.place(values, name)
            _axes.draw(panel, at, y, looks[name], label=f"{name}, {when}", **options)
            if when == "before" and values[-1] <= floor:
                empty = min(empty, at[np.argmax(values <= floor)])
        strip.finish(f"zero (under {floor:.0e})".replace("e-0", "e-"), headroom=0.16)
        if empty < 1.0:
            _mark_empty(panel, empty)
        panel.set_xlim(-0.02, 1.02)
        panel.set_xlabel("index / size")
        panel.set_title(_frames.short(weight))
    axes[0].set_ylabel("singular value / largest")
    extra = [
        Line2D([], [], color=theme.MUTED, linestyle="-", linewidth=width, label=label)
        for width, label in ((0.8, "thin: before training"), (2.0, "thick: after training"))
    ]
    _axes.legend(axes, looks, extra, own=ax is None)
    _axes.titles(axes, title, own=ax is None)
    return axes


def _mark_empty(ax: Axes, start: float) -> None:
    """Shade and name the part of the index whose singular values are zero before training."""
    ax.axvspan(start, 1.02, facecolor="#eef3fa", edgecolor="none", zorder=-1, label="_empty")
    ax.axvline(
        start, color=theme.MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1.5, label="_half"
    )
    ax.annotate(
        "starts at zero", xy=((start + 1.02) / 2, 1.0), xycoords=("data", "axes fraction"),
        xytext=(0, -2), textcoords="offset points", ha="center", va="top", color=theme.MUTED,
        fontstyle="italic",
    )  # fmt: skip


def _spectra(rows: pd.DataFrame, hue: str, steps: tuple[int, int] | None) -> dict:
    """Return (arm, before/after) -> (index / size, descending values over the largest)."""
    curves = {}
    for name in theme.arm_order(rows[hue]):
        arm = rows[rows[hue].astype(str) == name]
        first, last = steps or (arm["step"].min(), arm["step"].max())
        for when, step in (("before", first), ("after", last))[: 1 + (first != last)]:
            values = np.sort(arm.loc[arm["step"] == step, "value"].to_numpy(dtype=float))[::-1]
            if len(values) and values[0] > 0:
                curves[name, when] = (np.arange(len(values)) / len(values), values / values[0])
    return curves

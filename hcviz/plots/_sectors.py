"""The split of weights over their copies: shares and singular values of every sector."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hcviz.plots import _axes, _frames, theme
from hcviz.plots._spectra import BEFORE
from hcviz.plots._strip import Strip
from hcviz.plots._symmetry import AXES, shares


@theme.themed
def sectors(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensors: str | Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "What sets copies apart? Share of every antisymmetric sector",
) -> np.ndarray:
    """Draw the share of squared norm in every antisymmetric sector over steps, zeros in a strip.

    A panel per set of axes along which copies differ: R, H, N alone or together (HR: both change
    sign). Sectors of one panel are added up; the dashed level is that of unrelated copies.

    Args:
        frame: Rows of the metric ``sectors``: ``hue``, step, tensor, axis, row, col, value.
        hue: Column that tells the arms.
        tensors: Names or kinds of weights to draw; None draws all matrices (no gains, no biases).
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": 0, "tensor": "fc1", "axis": ["symmetric", "R"], "row": 0}
        >>> frame = pd.DataFrame(rows | {"col": [0, 1], "metric": "sectors", "value": [0.9, 0.1]})
        >>> sectors(frame)[0].get_title(loc="left")
        'R: residual stream'
    """
    rows = _frames.matching(_frames.metric(frame, "sectors", ["axis", "row", "col"], hue), tensors)
    rows = _frames.matrices(rows) if tensors is None else rows
    each = [hue, "step", "kind", "weight"]
    rows["level"] = 1 / rows.groupby(each)["value"].transform("size")
    rows = rows.groupby([*each, "axis"], as_index=False)[["value", "level"]].sum()
    sets = sorted(set(rows["axis"]) - {"symmetric"}, key=lambda a: (len(a), "RHN".find(a[0]), a))
    names = {a: AXES.get(a, " and ".join(a)) for a in sets}
    label = "share of squared norm\nin the sector"
    axes = shares(rows, "axis", names, hue, ax, title, label)
    for panel, axis in zip(axes, names, strict=True):
        level = rows.loc[rows["axis"] == axis, "level"].mean()
        panel.axhline(level, **_axes.LEVEL | {"linewidth": 0.8}, label="_unrelated")
        panel.annotate(
            "unrelated copies", xy=(0.02, level), xycoords=("axes fraction", "data"),
            xytext=(0, 2), textcoords="offset points", va="bottom", color=theme.MUTED,
            fontstyle="italic",
        )  # fmt: skip
    return axes


@theme.themed
def sector_spectra(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    tensor: str | None = None,
    floor: float = 1e-6,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the singular values of every sector of one weight, thin at the first step, thick after.

    Values are over the largest of all sectors; those at or under ``floor`` rest in a strip.

    Args:
        frame: Rows of the metric ``sectors.spectrum``: ``hue``, step, tensor, axis, row, col,
            value.
        hue: Column that tells the arms, one panel each.
        tensor: A weight by name or kind; of several the first is drawn.
        floor: At or under this share of the largest is zero (float32 leaves about 1e-7).
        ax: As many axes as arms; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, one per arm.

    Raises:
        HcvizError: If columns or rows are missing.
    """
    rows = _frames.metric(frame, "sectors.spectrum", ["axis", "row", "col"], hue)
    rows = _frames.matching(rows, tensor)
    weight = rows["weight"].iloc[0]
    rows = rows[rows["weight"] == weight].sort_values("row")
    names = rows.drop_duplicates("col").sort_values("col").set_index("col")["axis"]
    several = names.value_counts()
    names = {c: f"{a} sector{f' {c}' if several[a] > 1 else ''}" for c, a in names.items()}
    looks = theme.arms(names.values())
    looks[names[min(names)]] = theme.ARMS["source"]._replace(marker="o")
    arms = theme.arm_order(rows[hue])
    axes = _axes.panels(len(arms), ax, sharey=ax is None, tall=1.0, lines=6)
    curves = {}
    for arm in arms:
        mine = rows[rows[hue].astype(str) == arm]
        for step in sorted({mine["step"].min(), mine["step"].max()}):
            now = mine[mine["step"] == step]
            for number, line in now.groupby("col"):
                curves[arm, step, names[number]] = line["value"].to_numpy() / now["value"].max()
    reach = {
        name: np.concatenate([v for (_, _, n), v in curves.items() if n == name]) for name in looks
    }
    for panel, arm in zip(axes, arms, strict=True):
        strip = Strip(panel, reach, floor=floor)
        steps = sorted({step for a, step, _ in curves if a == arm})
        for (_, step, name), values in ((key, v) for key, v in curves.items() if key[0] == arm):
            options = BEFORE if step == steps[0] != steps[-1] else {"zorder": 3}
            at, y = np.arange(len(values)) / len(values), strip.place(values, name)
            _axes.draw(panel, at, y, looks[name], label=f"{name}, step {step}", **options)
        strip.finish()
        panel.set_xlim(-0.02, 1.02)
        panel.set_xlabel("index / size")
        panel.set_title(arm)
    axes[0].set_ylabel("singular value / largest")
    extra = [
        Line2D([], [], color=theme.MUTED, linewidth=width, label=label)
        for width, label in ((0.8, "thin: first step"), (2.0, "thick: last"))
    ]
    title = title or f"How rich is what sets copies apart? Sectors of the {_frames.short(weight)}"
    return _axes.finish(axes, title, looks, extra, own=ax is None)

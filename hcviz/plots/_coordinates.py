"""The coordinate check: how far activations move in the first steps, width by width."""

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import NullLocator

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme

KINDS = {"R": "residual stream", "H": "attention", "N": "MLP", "": "logits"}


@theme.themed
def coordinates(
    frame: pd.DataFrame,
    *,
    hue: str | None = None,
    steps: Iterable[int] | None = None,
    ax: _axes.Given = None,
    title: str = "Does a learning rate carry over to wider models? Flat: yes",
) -> np.ndarray:
    """Draw how far activations have moved against the width, a line for each step.

    A panel for each kind of layer, a row of them for each family of runs that differ in width. Each
    says the slopes of straight lines through the logarithms, from lowest to highest of the steps.

    Args:
        frame: Rows of the metric ``coordinates`` of runs of several widths: run, step, tensor,
            axis, part, row (the width), metric, value.
        hue: Column that tells the families; None takes all runs for one.
        steps: Steps to draw; None draws up to five, evenly on a log scale.
        ax: As many axes as there are panels; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes: residual stream, attention, MLP, logits of each family.

    Raises:
        HcvizError: If columns, rows or steps are missing, or two runs of a family are equally wide.

    Example:
        >>> rows = {"run": ["a", "b"], "step": 1, "tensor": "logits", "axis": None}
        >>> rows |= {"metric": "coordinates", "part": "change", "row": [8, 16], "value": [1.0, 2.0]}
        >>> coordinates(pd.DataFrame(rows))[0].texts[0].get_text()
        'slope 1.00'
    """
    table = change_by_width(frame, hue)
    families, there, kinds = (table.index.unique(level) for level in ("family", "step", "axis"))
    shown = _frames.spread(there) if steps is None else _frames.choose(sorted(there), steps, "step")
    shades = colormaps["cividis_r"](np.linspace(0.25, 1, len(shown)))
    looks = {
        f"step {step:,}": theme.Arm(to_hex(shade), "-", marker)
        for step, shade, marker in zip(shown, shades, itertools.cycle("os^Dv"), strict=False)
    }
    kinds = [kind for kind in KINDS if kind in kinds]
    places = list(itertools.product(families, kinds))
    shared = {"sharex": True, "sharey": "col"} if ax is None else {}
    axes = _axes.panels(len(places), ax, columns=len(kinds), tall=0.9, lines=5, **shared)
    for number, (panel, place) in enumerate(zip(axes, places, strict=True)):
        lines = table.reindex([(*place, step) for step in shown])
        for (_, line), (label, look) in zip(lines.iterrows(), looks.items(), strict=True):
            moved = line.dropna()
            _axes.draw(panel, moved.index.to_numpy(), moved.to_numpy(), look, label=label)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.margins(0.1, 0.18)
        panel.set_xticks(table.columns, [f"{width:,}" for width in table.columns])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_title(KINDS[place[1]])
        panel.annotate(said(slopes(lines)), (0.03, 0.98), xycoords="axes fraction", va="top")
        if number % len(kinds) == 0:
            panel.set_ylabel("\n".join(filter(None, [place[0], "RMS change"])))
        if number >= len(places) - len(kinds):
            panel.set_xlabel("width")
    return _axes.finish(axes, title, looks, own=ax is None)


def change_by_width(frame: pd.DataFrame, hue: str | None = None) -> pd.DataFrame:
    """Return the mean change over the layers by family, axis and step (rows) and width (columns).

    Raises:
        HcvizError: If columns or rows are missing, or two runs of a family are equally wide.
    """
    columns = ["run", "axis", "part", "row"]
    rows = _frames.metric(frame, "coordinates", columns, hue)
    rows = rows[(rows["part"] == "change") & (rows["value"] > 0)]
    if rows.empty:
        raise HcvizError("None of these activations has moved. Measure steps after the first.")
    family = rows[hue].astype(str) if hue else ""
    rows = rows.assign(family=family, axis=rows["axis"].fillna(""), width=rows["row"].astype(int))
    runs = rows.groupby(["family", "width"])["run"].unique()
    for (_, width), names in runs[runs.str.len() > 1].items():
        raise HcvizError(
            f"The runs {' and '.join(names)} are both {width} wide, and a line has one run of each "
            "width. Draw them apart, or name the column that tells which belong together: hue=."
        )
    keys = {"index": ["family", "axis", "step"], "columns": "width", "values": "value"}
    return rows.pivot_table(**keys, sort=False).sort_index(axis=1)


def slopes(table: pd.DataFrame) -> list[float]:
    """Fit straight lines to logarithms: of each row's values over those of the columns.

    Example:
        >>> said(slopes(pd.DataFrame([[3.0, 6.0, 12.0]], columns=[32, 64, 128])))
        'slope 1.00'
    """
    lines = [line.dropna() for _, line in table.iterrows()]
    logs = [np.log([line.index.to_numpy(float), line]) for line in lines if len(line) > 1]
    return [float(np.polyfit(*log, 1)[0]) for log in logs]


def said(found: list[float]) -> str:
    """Say slopes in words: from the lowest to the highest.

    Example:
        >>> said([0.5, -1e-9, 1])
        'slope 0.00 to 1.00'
    """
    ends = dict.fromkeys(f"{value:z.2f}" for value in (min(found), max(found))) if found else ()
    return "slope " + " to ".join(ends) if ends else ""

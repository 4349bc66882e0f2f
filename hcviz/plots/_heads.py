"""What attention heads do on a text: how alike copies attend, and which are induction heads."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hcviz.plots import _axes, _frames, _lines, theme


@theme.themed
def heads(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    log: bool = False,
    ax: _axes.Given = None,
    title: str = "Do copied heads look at the same words?",
) -> np.ndarray:
    """Draw the agreement of the attention of copied heads over training, a panel per layer.

    Thin lines are the heads, thick ones their mean. The dashed level is how much different heads of
    that layer agree, mean over all arms and steps.

    Args:
        frame: Rows of the metric ``heads``: ``hue``, step, layer, part, row, metric, value.
        hue: Column that tells the arms.
        log: Draw the divergence, 1 - agreement, on a log axis with a strip for equal patterns.
        ax: As many axes as there are layers; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per layer.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "symmetric", "step": [0, 9], "tensor": "h.0", "layer": 0, "row": 0}
        >>> frame = pd.DataFrame(rows | {"part": "copies", "metric": "heads", "value": 1.0})
        >>> heads(frame)[0].get_title(loc="left")
        'layer 0'
    """
    rows = _frames.metric(frame, "heads", ["layer", "part", "row"], hue)
    others, rows = rows[rows["part"] == "others"], rows[rows["part"] == "copies"]
    rows = rows.assign(weight=rows["weight"] + " " + rows["row"].astype(str))
    names = {layer: f"layer {layer}" for layer in sorted(rows["layer"].unique())}
    levels = others.groupby("layer")["value"].mean()
    note = [Line2D([], [], label="different heads", **_axes.LEVEL)] if len(levels) else []
    label = "agreement of\nattention patterns"
    axes = _lines.panels(rows, "layer", names, hue, "step", ax, title, label, log=log, extra=note)
    for panel, layer in zip(axes, names, strict=True):
        if layer in levels.index:
            level = 1 - levels[layer] if log else levels[layer]
            panel.axhline(level, label="_others", **_axes.LEVEL)
    return axes


@theme.themed
def induction(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    step: int | None = None,
    ax: _axes.Given = None,
    title: str = "Which heads are induction heads, and are their copies too?",
) -> np.ndarray:
    """Draw the induction score of every head, copies joined by a line, a panel per layer.

    The dashed level is that of a head that looks at all positions alike.

    Args:
        frame: Rows of the metric ``induction``: ``hue``, step, layer, part, row, metric, value.
        hue: Column that tells the arms.
        step: The step; None takes each arm's last.
        ax: As many axes as there are layers; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per layer.

    Raises:
        HcvizError: If columns, rows or the step are missing.

    Example:
        >>> rows = {"run": "a", "step": 9, "tensor": "h.0", "layer": 0, "part": "heads", "row": 0}
        >>> frame = pd.DataFrame(rows | {"metric": "induction", "value": [0.2, 0.3]})
        >>> induction(frame)[0].get_xlabel()
        'head of the source'
    """
    rows = _frames.metric(frame, "induction", ["layer", "part", "row"], hue)
    if step is not None:
        rows = rows[rows["step"].isin(_frames.choose(rows["step"], [step], "step"))]
    uniform, rows = rows[rows["part"] == "uniform"], rows[rows["part"] == "heads"]
    rows = rows[rows["step"] == rows.groupby(hue)["step"].transform("max")]
    looks = theme.arms(theme.arm_order(rows[hue]))
    layers = sorted(rows["layer"].unique())
    axes = _axes.panels(len(layers), ax, columns=2, sharey=ax is None, lines=5, tall=0.5)
    beside = np.linspace(-0.3, 0.3, len(looks)) if len(looks) > 1 else [0.0]
    for panel, layer in zip(axes, layers, strict=True):
        for (name, look), shift in zip(looks.items(), beside, strict=True):
            here = rows[(rows["layer"] == layer) & (rows[hue].astype(str) == name)]
            for head, copies in here.groupby("row"):
                at = np.full(len(copies), head + shift)
                _axes.draw(panel, at, copies["value"], look._replace(linestyle="-"), label=name)
        for level in uniform.loc[uniform["layer"] == layer, "value"].unique()[:1]:
            panel.axhline(level, label="_uniform", **_axes.LEVEL)
        panel.set_title(f"layer {layer}")
        panel.set_xlabel("head of the source")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlim(rows["row"].min() - 0.5, rows["row"].max() + 0.5)
    for panel in axes:
        panel.set_ylim(bottom=0)
    for panel in axes[::2]:
        panel.set_ylabel("attention to what\nfollowed the same token")
    note = [Line2D([], [], label="looks everywhere", **_axes.LEVEL)] if len(uniform) else []
    return _axes.finish(axes, title, looks, note, own=ax is None)

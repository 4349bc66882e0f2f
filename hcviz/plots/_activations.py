"""What copies, heads, neurons and layers do on a text: twins, agreement, CKA, the logit lens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, _lines, theme
from hcviz.plots._strip import Strip
from hcviz.plots._symmetry import AXES

FLOOR = 1e-9
"""A correlation or agreement nearer to 1 than this is 1: what float32 leaves is under 1e-12."""
_UNTRAINED = theme.Arm(theme.MUTED, (0, (1, 1.5)), "+")
_OTHERS = {"color": theme.MUTED, "linewidth": 1.0, "linestyle": (0, (6, 3)), "zorder": 1}
Given = Axes | Sequence[Axes] | None


@theme.themed
def activations(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    log: bool = False,
    ax: Given = None,
    title: str = "Do copies still say the same? Correlation of twins on held-out text",
) -> np.ndarray:
    """Draw the twin correlation of copies, a panel each for residual stream, heads and neurons.

    Thin lines are the layers, thick ones their mean.

    Args:
        frame: Rows of the metric ``twins``: ``hue``, step, layer, axis, metric, value.
        hue: Column that tells the arms.
        x: ``step``, or ``layer`` for each arm's last step layer by layer.
        log: Draw 1 - correlation on a log axis; twins that are equal rest in a strip at its foot.
        ax: As many axes as there are axes in the frame; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, in the order R, H, N.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "symmetric", "step": [0, 9], "tensor": "h.0", "layer": 0, "axis": "R"}
        >>> activations(pd.DataFrame(rows | {"metric": "twins", "value": 1.0}))[0].get_xlabel()
        'training step'
    """
    rows = _frames.metric(frame, "twins", ["layer", "axis"], hue)
    names = {key: AXES[key] for key in AXES if (rows["axis"] == key).any()}
    label = "mean correlation with the copies"
    return _panels(rows, "axis", names, hue, x, ax, title, label, log=log)


@theme.themed
def heads(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    log: bool = False,
    ax: Given = None,
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
    note = [Line2D([], [], label="different heads", **_OTHERS)] if len(levels) else []
    label = "agreement of\nattention patterns"
    axes = _panels(rows, "layer", names, hue, "step", ax, title, label, log=log, extra=note)
    for panel, layer in zip(axes, names, strict=True):
        if layer in levels.index:
            level = 1 - levels[layer] if log else levels[layer]
            panel.axhline(level, label="_others", **_OTHERS)
    return axes


@theme.themed
def neurons(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    ax: Given = None,
    title: str = "How many neurons say something of their own?",
) -> np.ndarray:
    """Draw the shares of dead and duplicate neurons, and the effective number of distinct ones.

    Thin lines are the layers, thick ones their mean.

    Args:
        frame: Rows of the metric ``neurons``: ``hue``, step, layer, part, metric, value.
        hue: Column that tells the arms.
        x: ``step``, or ``layer`` for each arm's last step layer by layer.
        ax: Three axes, one for each part in the frame; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, in the order dead, duplicate, distinct.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "h.0", "layer": 0, "part": "dead"}
        >>> len(neurons(pd.DataFrame(rows | {"metric": "neurons", "value": 0.0})))
        1
    """
    rows = _frames.metric(frame, "neurons", ["layer", "part"], hue)
    every = {
        "dead": "dead",
        "duplicate": "with a duplicate",
        "distinct": "distinct (participation ratio)",
    }
    names = {part: text for part, text in every.items() if (rows["part"] == part).any()}
    axes = _panels(rows, "part", names, hue, x, ax, title, "share of neurons", sharey=False)
    for panel, part in zip(axes, names, strict=True):
        if part == "distinct":
            panel.set_ylabel("effective number")
            panel.set_ylim(bottom=0)
        else:
            panel.set_ylim(-0.03, 1.03)
    return axes


@theme.themed
def cka(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    ax: Axes | None = None,
    title: str = "How far is the residual stream from the source's? (blind to copies)",
) -> Axes:
    """Draw the linear CKA of the residual stream with the source's; thin lines are the layers.

    Args:
        frame: Rows of the metric ``cka``: ``hue``, step, layer, metric, value.
        hue: Column that tells the arms.
        x: ``step``, or ``layer`` for each arm's last step layer by layer.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "a", "step": [0, 9], "tensor": "h.0", "layer": 0, "metric": "cka"}
        >>> cka(pd.DataFrame(rows | {"value": [1.0, 0.9]})).get_ylabel()
        'linear CKA with the source'
    """
    rows = _frames.metric(frame, "cka", ["layer"], hue).assign(all="all")
    label = "linear CKA with the source"
    return _panels(rows, "all", {"all": ""}, hue, x, ax, title, label)[0]


@theme.themed
def lens(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    step: int | None = None,
    ax: Given = None,
    title: str = "Logit lens: what would each layer already say?",
) -> np.ndarray:
    """Draw loss and divergence from the model's own answer of every layer, beside the source's.

    Args:
        frame: Rows of the metric ``lens``: ``hue``, step, layer, part, metric, value.
        hue: Column that tells the arms.
        step: The step; None takes each arm's last.
        ax: Two axes; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes: loss, divergence.

    Raises:
        HcvizError: If columns, rows or the step are missing.

    Example:
        >>> rows = {"run": "a", "step": 0, "tensor": ["h.0", "h.1"], "layer": [0, 1]}
        >>> frame = pd.DataFrame(rows | {"part": "loss", "metric": "lens", "value": [5.0, 4.0]})
        >>> lens(frame)[0].get_xlabel()
        'layer'
    """
    rows = _frames.metric(frame, "lens", ["layer", "part"], hue)
    if step is not None:
        rows = rows[rows["step"].isin(_frames.choose(rows["step"], [step], "step"))]
    of_source = rows["part"].str.startswith("source ")
    first = rows[of_source].drop_duplicates(["part", "layer"]).assign(**{hue: "source, untrained"})
    rows = pd.concat([first, rows[~of_source]])
    rows["part"] = rows["part"].str.removeprefix("source ")
    every = {"loss": "loss of the next token", "kl": "divergence from the last layer"}
    names = {part: text for part, text in every.items() if (rows["part"] == part).any()}
    return _panels(
        rows, "part", names, hue, "layer", ax, title, "nats per token", columns=2, sharey=False
    )


def _panels(
    rows: pd.DataFrame,
    by: str,
    names: dict[Any, str],
    hue: str,
    x: str,
    ax: Given,
    title: str,
    label: str,
    *,
    log: bool = False,
    sharey: bool = True,
    columns: int = 4,
    extra: Sequence[Any] = (),
) -> np.ndarray:
    """Draw every arm in a panel for each name: the mean of its weights, and each of them thin."""
    if x not in ("step", "layer"):
        raise HcvizError(f"x={x!r}: these figures are drawn over 'step' or 'layer'.")
    looks = theme.arms(theme.arm_order(rows[hue]))
    looks |= {name: _UNTRAINED for name in looks if name == "source, untrained"}
    if log:
        apart = 1 - rows["value"]
        label = f"1 \N{MINUS SIGN} {label}"
        rows = rows.assign(value=apart.where(apart > FLOOR, 0.0))
    arms = _lines.by_arm(rows, hue, looks)
    if x == "layer":
        arms = {name: arm[arm["step"] == arm["step"].max()] for name, arm in arms.items()}
    axes = _axes.panels(
        len(names),
        ax,
        columns=columns,
        sharey=sharey and ax is None,
        lines=5,
        tall=1.0 if len(names) > 1 else 0.55,
    )
    cells = {key: {n: arm[arm[by] == key] for n, arm in arms.items()} for key in names}
    reach = _lines.reach(cells.values(), x)
    for panel, key in zip(axes, names, strict=True):
        strip = Strip(panel, reach, rows["value"]) if log else None
        _lines.draw(panel, cells[key], looks, strip, x=x)
        if strip:
            strip.finish("equal")
        if x == "step":
            _axes.step_axis(panel, rows["step"])
        else:
            panel.set_xlabel("layer")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(names[key])
    for panel in axes if not sharey else axes[:1]:
        panel.set_ylabel(label)
    _axes.legend(axes, looks, extra, own=ax is None)
    _axes.titles(axes, title, own=ax is None)
    return axes

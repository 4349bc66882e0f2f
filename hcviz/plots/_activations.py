"""What units, neurons and layers do on a text: twins, distinct neurons, CKA, the logit lens."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hcviz.plots import _axes, _frames, _lines, theme
from hcviz.plots._symmetry import AXES


@theme.themed
def activations(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    log: bool = False,
    ax: _axes.Given = None,
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
    return _lines.panels(rows, "axis", names, hue, x, ax, title, label, log=log)


@theme.themed
def neurons(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    ax: _axes.Given = None,
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
    axes = _lines.panels(rows, "part", names, hue, x, ax, title, "share of neurons", sharey=False)
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
    return _lines.panels(rows, "all", {"all": ""}, hue, x, ax, title, label)[0]


@theme.themed
def lens(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    step: int | None = None,
    ax: _axes.Given = None,
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
    return _lines.panels(
        rows, "part", names, hue, "layer", ax, title, "nats per token", columns=2, sharey=False
    )

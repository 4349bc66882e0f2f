"""The question in one picture: who ends lowest, and whether its copies have parted."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hcviz.plots import _axes, theme
from hcviz.plots._cosine import cosine
from hcviz.plots._loss import loss


@theme.themed
def headline(
    history: pd.DataFrame, frame: pd.DataFrame, *, title: str | None = None, since: float = 0.125
) -> np.ndarray:
    """Draw the end of the losses beside the cosine of the copies; a locked clone stays at 1.

    Args:
        history: Rows of ``Run.history``; seeds become a mean and a band.
        frame: Rows of :func:`hcviz.measure` with the metric ``cosine``.
        title: Title of the figure; None writes one.
        since: From which share of the steps on losses are drawn: a random start begins far above.

    Returns:
        The two axes.

    Raises:
        HcvizError: If columns or rows are missing.
    """
    width, line = plt.rcParams["figure.figsize"][0], plt.rcParams["font.size"] / 72
    size = (1.12 * width, 0.42 * width + 4 * line)
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    late = history[history["step"] >= since * history["step"].max()]
    loss(late, ax=axes[0], reference=None)
    cosine(frame[frame["metric"] == "cosine"], kinds=["up-projection"], ax=axes[1])
    axes[0].set_title("who ends lowest")
    axes[1].set_title("cosine of the copies")
    title = title or "A clone uses its new room once its copies part"
    _axes.titles(list(axes), title, own=True)
    figure.draw_without_rendering()
    return axes

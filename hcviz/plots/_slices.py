"""The loss in the plane of what copies share and what sets them apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter

from hcviz.plots import _axes, _frames, theme

LEVELS = 11


@theme.themed
def loss_slice(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    ax: Axes | Sequence[Axes] | None = None,
    title: str = "Is the way down the way apart? Loss around a clone and a later state",
) -> np.ndarray:
    """Draw the loss of `hcviz.loss_slice` as levels, a panel per arm, on one scale.

    The scale ends at the highest loss between the two states. The line leads from the clone
    (circle) to the later state (square). Of an arm that is locked the levels stand upright: the
    antisymmetric way is nothing.

    Args:
        frame: Columns ``hue``, step, symmetric, antisymmetric, loss.
        hue: Column that tells the arms.
        ax: As many axes as arms; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes, one per arm.

    Raises:
        HcvizError: If columns are missing.

    Example:
        >>> rows = [["a", 9, x, y, x * x + y] for x in (0.0, 1.0) for y in (0.0, 1.0)]
        >>> names = ["run", "step", "symmetric", "antisymmetric", "loss"]
        >>> loss_slice(pd.DataFrame(rows, columns=names))[0].get_title(loc="left")
        'a, step 9'
    """
    _frames.need(frame, [hue, "step", "symmetric", "antisymmetric", "loss"], "The loss slice")
    arms = theme.arm_order(frame[hue])
    axes = _axes.panels(len(arms), ax, columns=3, tall=1.0, side=0.6, sharey=ax is None, rigid=True)
    between = frame["symmetric"].between(0, 1) & frame["antisymmetric"].between(0, 1)
    low, high = frame["loss"].min(), frame.loc[between, "loss"].max()
    levels = np.linspace(low, high if high > low else low + 1, LEVELS)
    for panel, arm in zip(axes, arms, strict=True):
        rows = frame[frame[hue].astype(str) == arm]
        table = rows.pivot_table(index="antisymmetric", columns="symmetric", values="loss")
        grid = (table.columns, table.index, table.to_numpy())
        image = panel.contourf(*grid, levels=levels, cmap="cividis_r", extend="max")
        panel.contour(*grid, levels=levels, colors="white", linewidths=0.5)
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle="--", label="_way")
        for at, marker in ((0, "o"), (1, "s")):
            panel.plot(at, at, marker, color="white", markeredgecolor="black", label="_state")
        panel.grid(visible=False)
        panel.set_title(f"{arm}, step {rows['step'].iloc[0]:,}")
        panel.set_xlabel("share of the symmetric way")
    axes[0].set_ylabel("share of the antisymmetric way")
    _axes.colorbar(image, axes, "loss (nats)").formatter = FormatStrFormatter("%.2f")
    _axes.titles(axes, title, own=ax is None)
    return axes

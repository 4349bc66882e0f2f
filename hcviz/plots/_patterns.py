"""Where a head and its copy look in a text, side by side, and what their patterns differ by."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme


@theme.themed
def patterns(
    frame: pd.DataFrame,
    *,
    heads: Sequence[int] | None = None,
    most: int = 3,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the attention of heads and of their copies on a text, and the difference of the two.

    A row of three panels a head: the head, its copy, copy minus head; all on one scale, from -1 to
    1. Of more than two copies it is the one furthest from the first.

    Args:
        frame: Rows of `hcviz.metrics.patterns`: run, step, layer, head, copy, query, key, value,
            query_token.
        heads: Heads of the source; None takes those whose copies differ most.
        most: How many of them, at most.
        ax: Three axes a head; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, head by head.

    Raises:
        HcvizError: If columns, a head or a second copy are missing.

    Example:
        >>> rows = {"run": "a", "step": 9, "layer": 0, "head": 0, "copy": [0, 1], "query": 0}
        >>> frame = pd.DataFrame(rows | {"key": 0, "query_token": "the", "value": [1.0, 0.8]})
        >>> [panel.get_title(loc="left") for panel in patterns(frame)]
        ['head 0', 'its copy', 'copy \N{MINUS SIGN} head, up to 0.2']
    """
    need = ["run", "step", "layer", "head", "copy", "query", "key", "query_token", "value"]
    _frames.need(frame, need, "The patterns figure")
    shape = [frame[name].max() + 1 for name in ("copy", "head", "query", "key")]
    if shape[0] < 2:
        raise HcvizError("The heads of this frame have no copies. Clone with heads=2.")
    values = np.zeros(shape)
    values[tuple(frame[name] for name in ("copy", "head", "query", "key"))] = frame["value"]
    apart = np.abs(values - values[:1]).sum((2, 3))  # of every copy and head
    order = np.argsort(-apart.max(0), kind="stable")[:most]
    chosen = _frames.choose(range(shape[1]), order.tolist() if heads is None else heads, "head")
    words = frame.drop_duplicates("query").sort_values("query")["query_token"].str.strip()
    axes = _axes.panels(3 * len(chosen), ax, columns=3, tall=1.0, side=0.8, rigid=True)
    for number, head in enumerate(chosen):
        twin = int(apart[:, head].argmax()) or 1
        first, second = values[0, head], values[twin, head]
        name = "its copy" if shape[0] == 2 else f"its copy {twin + 1}"
        far = np.abs(second - first).max()
        said = "copy \N{MINUS SIGN} head, " + (f"up to {far:.1g}" if far else "equal")
        shown = {f"head {head}": first, name: second, said: second - first}
        row = axes[3 * number : 3 * number + 3]
        for panel, (text, part) in zip(row, shown.items(), strict=True):
            image = _axes.heatmap(panel, part, Normalize(-1, 1))
            panel.set_title(text)
            size = min(8.0, 150 / len(words))
            panel.set_xticks(range(len(words)), words, rotation=90, fontsize=size)
            panel.set_yticks(range(len(words)), words if panel is row[0] else [], fontsize=size)
        row[0].set_ylabel("reads at")
    _axes.colorbar(image, axes, "attention")
    run, layer, step = frame.iloc[0][["run", "layer", "step"]]
    title = title or f"Where copied heads look: {run}, layer {layer}, step {step:,}"
    _axes.titles(axes, title, own=ax is None)
    return axes

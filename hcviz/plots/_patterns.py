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

    A row of three panels a head and run: the head, its copy, copy minus head; all on one scale,
    from -1 to 1. Of more than two copies it is the one furthest from the first.

    Args:
        frame: Rows of `hcviz.metrics.patterns`: run, step, layer, head, copy, query, key, value,
            query_token; of several runs the same layer.
        heads: Heads of the source; None takes those whose copies differ most.
        most: How many of them, at most.
        ax: Three axes a head and run; None makes a figure.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes, head by head, and run by run of each.

    Raises:
        HcvizError: If columns, a head or a second copy are missing.

    Example:
        >>> rows = {"run": "a", "step": 9, "layer": 0, "head": 0, "copy": [0, 1], "query": 0}
        >>> frame = pd.DataFrame(rows | {"key": 0, "query_token": "the", "value": [1.0, 0.8]})
        >>> [panel.get_title(loc="left") for panel in patterns(frame)]
        ['head 0', 'its copy', 'copy \N{MINUS SIGN} head, up to 0.2']
    """
    shown = pattern_panels(frame, heads=heads, most=most)
    axes = _axes.panels(len(shown), ax, columns=3, tall=1.0, side=0.8, rigid=True)
    words = {
        run: rows.drop_duplicates("query").sort_values("query")["query_token"].str.strip()
        for run, rows in frame.groupby("run")
    }
    looks = theme.arms(frame["run"])
    for number, (panel, (run, text, part)) in enumerate(zip(axes, shown, strict=True)):
        _axes.heatmap(panel, part, Normalize(-1, 1))
        first = number % 3 == 0
        panel.set_title(text, color=looks[run].color if first and len(words) > 1 else theme.INK)
        size = min(8.0, 150 / len(words[run]))
        ticks = range(len(words[run]))
        panel.set_xticks(ticks, words[run], rotation=90, fontsize=size)
        panel.set_yticks(ticks, words[run] if first else [], fontsize=size)
        panel.set_ylabel("reads at" if first else "")
        panel.set_xlabel("looks at" if number >= len(axes) - 3 else "")
    _axes.colorbar(axes[0].images[0], axes, "attention")
    layers, steps = (map("{:,}".format, frame[name].unique()) for name in ("layer", "step"))
    whose = f"{run}, " if len(words) == 1 else ""
    head = f"Where copied heads look: {whose}layer {' or '.join(layers)}, step {' or '.join(steps)}"
    _axes.titles(axes, title or head, own=ax is None)
    return axes


def pattern_panels(
    frame: pd.DataFrame, *, heads: Sequence[int] | None = None, most: int = 3
) -> list[tuple[str, str, np.ndarray]]:
    """Return what `patterns` draws: of every panel its run, its title and its values.

    Args:
        frame: As for `patterns`.
        heads: Likewise.
        most: Likewise.

    Raises:
        HcvizError: If columns, a head or a second copy are missing.
    """
    need = ["run", "step", "layer", "head", "copy", "query", "key", "query_token", "value"]
    _frames.need(frame, need, "The patterns figure")
    tables, apart = {}, {}
    for run, rows in frame.groupby("run", sort=False):
        place = [rows[name] for name in ("copy", "head", "query", "key")]
        if rows.duplicated(["copy", "head", "query", "key"]).any():
            raise HcvizError(
                f"The patterns of {run!r} are there twice: of two runs of one name, or two steps "
                "or layers. Keep one, or rename the run's rows: frame.assign(run=...)."
            )
        values = np.zeros([one.max() + 1 for one in place])
        values[tuple(place)] = rows["value"]
        if len(values) < 2:
            raise HcvizError(f"The heads of {run} have no copies. Clone with heads=2.")
        tables[run] = values
        apart[run] = np.abs(values - values[:1]).sum((2, 3))  # of every copy and head
    far = np.max([one.max(0) for one in apart.values()], axis=0)
    order = np.argsort(-far, kind="stable")[:most].tolist()
    shown = []
    for head in _frames.choose(range(len(far)), order if heads is None else heads, "head"):
        for run, values in tables.items():
            twin = int(apart[run][:, head].argmax()) or 1
            first, second = values[0, head], values[twin, head]
            most_apart = np.abs(second - first).max()
            far_said = f"up to {most_apart:.2g}" if most_apart else "equal"
            shown += [
                (run, f"{run}: head {head}" if len(tables) > 1 else f"head {head}", first),
                (run, "its copy" if len(values) == 2 else f"its copy {twin + 1}", second),
                (run, f"copy \N{MINUS SIGN} head, {far_said}", second - first),
            ]
    return shown

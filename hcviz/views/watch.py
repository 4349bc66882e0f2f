"""watch(): a figure of runs in a notebook, drawn again while they train."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.views.figures import check_figure, figure


def watch(
    out: str | Path, name: str = "loss", *, tensors: Sequence[str] | None = None
) -> Callable[[dict], None]:
    """Return a listener that draws a figure in a notebook, and again while runs train.

    It draws all runs that it finds under ``out``, anew whenever one of them has a new snapshot, in
    the place of the figure before. What cannot be drawn yet, as a loss at step 0, comes later; the
    place says why until then.

    Args:
        out: The folder of one run, or of several.
        name: A figure of ``hcviz.plots``: loss, ledger, cosine, ...
        tensors: Regular expressions of the tensors; None as in :func:`figure`.

    Returns:
        A function for ``on_log=`` of :func:`hcviz.train` and :func:`hcviz.run_arms`.

    Raises:
        HcvizError: If there is no such figure.

    Example:
        >>> listener = watch("runs/live", "ledger")
        >>> hcviz.run_arms(out="runs/live", on_log=listener)  # doctest: +SKIP
    """
    check_figure(name)
    from IPython.display import Pretty, display

    shown: dict[str, Any] = {"snapshots": 0, "words": None}
    known: dict[Path, Run] = {}  # a run keeps what it has read of its architecture

    def listen(row: dict) -> None:
        for path in Path(out).rglob("checkpoint-*/config.json"):
            known[path.parents[1]] = known.get(path.parents[1]) or Run(path.parents[1])
        runs = sorted(known.values(), key=lambda run: run.info.get("started", ""))
        snapshots = sum(len(run.steps) for run in runs)
        if snapshots != shown["snapshots"]:
            try:
                axes, _ = figure(runs, name, tensors=tensors)
            except HcvizError as error:  # training goes on, and the next row tries again
                words = f"The figure {name!r} cannot be drawn now: {error}"
                if words != shown["words"]:
                    show(Pretty(words))
                    shown["words"] = words
                return
            picture = np.ravel(np.asarray(axes, dtype=object))[0].figure
            show(picture)
            plt.close(picture)
            shown.update(snapshots=snapshots, words=None)

    def show(thing: Any) -> None:
        if "place" in shown:
            shown["place"].update(thing)
        else:
            shown["place"] = display(thing, display_id=True)

    return listen

"""One figure of runs by its name: measured or read, and drawn; once, or while they train."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.metrics import measure
from hcviz.runs.run import Run
from hcviz.statistics.losses import speedup

FRAMES: dict[str, list[str]] = {
    "cosine": ["cosine"],
    "ledger": ["ledger"],
    "escape": ["ledger"],
    "sectors": ["sectors"],
    "sector_spectra": ["sectors.spectrum"],
    "pairs": ["pairs"],
    "spectrum": ["spectrum"],
    "rank": ["effective_rank", "participation", "stable_rank", "rank"],
    "evolution": ["distance", "turn", "update", "flips"],
    "histograms": ["histogram"],
    "activations": ["twins"],
    "heads": ["heads"],
    "neurons": ["neurons"],
    "cka": ["cka"],
    "lens": ["lens"],
}
"""The metrics of every figure that is drawn from a measured table."""
GRIDS, LOSSES = ("blocks", "antisymmetric"), ("loss", "speedup")
ONE = ("pairs", "spectrum", "rank", "histograms", "sector_spectra", *GRIDS)
"""Figures of one weight, an up-projection unless another is named."""


def figure_names() -> list[str]:
    """Return the names that :func:`figure` knows."""
    return [name for name in plots.__all__ if name in {*FRAMES, *GRIDS, *LOSSES}]


def figure(
    runs: Sequence[Run],
    name: str,
    *,
    tensors: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    progress: bool = False,
) -> tuple[Any, pd.DataFrame]:
    """Draw one figure of runs.

    Args:
        runs: The arms.
        name: A figure of ``hcviz.plots``. ``speedup`` is that over the arm ``random init``, or else
            the first that is no clone, or else the first.
        tensors: Regular expressions of the tensors; None: all, or for figures of one weight the
            up-projection of a middle layer.
        steps: Steps to show; None: all.
        progress: Show a progress bar.

    Returns:
        The axes, and the table that was drawn.

    Raises:
        HcvizError: If there is no such figure, or nothing to draw.

    Example:
        >>> axes, data = figure([Run("runs/demo/symmetric")], "ledger")  # doctest: +SKIP
    """
    if name not in figure_names():
        raise HcvizError(f"There is no figure {name!r}; there are {', '.join(figure_names())}.")
    draw = getattr(plots, name)
    if name in LOSSES:
        data = pd.concat([run.history for run in runs], ignore_index=True)
        data = speedup(data, against=_other(runs)) if name == "speedup" else data
        return draw(data), data
    if name in ONE and tensors is None:
        names = _names(runs[0], steps)
        ups = [one for one in names if plots.kind(one) == "up-projection"]
        tensors = [f"^{one}$" for one in (ups or names)[len(ups) // 2 :][:1]]
    if name in GRIDS:
        [run, *_], chosen = runs, _matching(runs[0], tensors, steps)
        there = [step for step in run.steps if steps is None or step in steps]
        there = [step for step in there if chosen in run.stored(step)]
        grids = {step: run.blocks(chosen, step).double().numpy() for step in there}
        if not grids:
            raise HcvizError(f"{run.name} has the steps {run.steps}, none of the asked {steps}.")
        along = {"along": "read"} if name == "antisymmetric" else {}
        return draw(grids, name=chosen, steps=_few(there)), plots.matrix_frame(grids, **along)
    options = {"metrics": FRAMES[name], "tensors": tensors, "steps": steps}
    data = measure(list(runs), progress=progress, **options)
    if data.empty:
        names = ", ".join(run.name for run in runs)
        raise HcvizError(
            f"Nothing of {names} is drawn by {name!r}: it needs the copies of a clone."
        )
    drawn = {"tensors": None} if name == "rank" else {}
    return draw(data, **drawn), data


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
    if name not in figure_names():
        raise HcvizError(f"There is no figure {name!r}; there are {', '.join(figure_names())}.")
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


def _other(runs: Sequence[Run]) -> str:
    """Return the arm with whose final loss the others are compared."""
    plain = [run.name for run in runs if not run.is_clone]
    names = [run.name for run in runs]
    return "random init" if "random init" in names else (plain or names)[0]


def _names(run: Run, steps: Sequence[int] | None) -> list[str]:
    """Return the tensors of the last step that is asked for, or of the run's last."""
    return run.names(max({*run.steps} & {*(steps or ())}, default=None))


def _matching(run: Run, tensors: Sequence[str], steps: Sequence[int] | None) -> str:
    """Return the first tensor that one of the expressions finds."""
    found = [name for name in _names(run, steps) if any(re.search(t, name) for t in tensors)]
    if not found:
        raise HcvizError(f"No tensor of {run.name} matches {list(tensors)!r}.")
    return found[0]


def _few(steps: Sequence[int]) -> list[int]:
    """Return the first, a middle and the last step."""
    return sorted({steps[0], steps[len(steps) // 2], steps[-1]})

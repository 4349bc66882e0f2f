"""The figures of runs: one by its name, or all of a comparison, with data and command."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.io.files import finder, natural, write_text
from hcviz.metrics import measure, patterns
from hcviz.metrics.slices import loss_slice
from hcviz.runs.run import Run
from hcviz.statistics.losses import speedup
from hcviz.views.arms import findings, history

FRAMES: dict[str, list[str]] = {
    "cosine": ["cosine"],
    "ledger": ["ledger"],
    "escape": ["ledger"],
    "sectors": ["sectors"],
    "sector_spectra": ["sectors.spectrum"],
    "pairs": ["pairs"],
    "spectrum": ["spectrum"],
    "rank": ["effective_rank", "participation", "stable_rank", "rank"],
    "power_law": ["power_law", "power_law.source"],
    "evolution": ["distance", "turn", "update", "flips"],
    "experts": ["experts", "experts.cosine"],
    "histograms": ["histogram"],
    "activations": ["twins"],
    "cloning_r2": ["cloning_r2"],
    "heads": ["heads"],
    "induction": ["induction"],
    "in_context": ["in_context"],
    "matched": [
        name + end
        for name in ("cosine.units", "matched", "procrustes")
        for end in ("", ".baseline")
    ],
    "neurons": ["neurons"],
    "cka": ["cka"],
    "coordinates": ["coordinates"],
    "lens": ["lens"],
    "curvature": ["curvature", "curvature.adam"],
}
"""The metrics of every figure that is drawn from a measured table."""
GRIDS, LOSSES = ("blocks", "antisymmetric"), ("loss", "speedup")
TEXT = "In the beginning God created the heaven and the earth."
"""What attention patterns are drawn on, unless another text is given."""
OTHERS = ("patterns", "loss_slice")
ONE = ("pairs", "spectrum", "rank", "power_law", "histograms", "sector_spectra", *GRIDS)
"""Figures of one weight, an up-projection unless another is named."""


def figure_names() -> list[str]:
    """Return the names that :func:`figure` knows."""
    return [name for name in plots.__all__ if name in {*FRAMES, *GRIDS, *LOSSES, *OTHERS}]


def check_figure(name: str) -> None:
    """Refuse the name of a figure that is not there.

    Raises:
        HcvizError: Naming those that are.
    """
    if name not in figure_names():
        raise HcvizError(f"There is no figure {name!r}; there are {', '.join(figure_names())}.")


def figure(
    runs: Sequence[Run],
    name: str,
    *,
    tensors: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    text: str | None = None,
    progress: bool = False,
) -> tuple[Any, pd.DataFrame]:
    """Draw one figure of runs.

    Args:
        runs: The arms.
        name: A figure of ``hcviz.plots``. ``speedup`` is that over the arm ``random init``, or else
            the first that is no clone, or else the first. ``loss_slice`` is that to the last step.
        tensors: Regular expressions of the tensors; None: all, or for figures of one weight the
            up-projection of a middle layer.
        steps: Steps to show; None: all. ``patterns`` shows the last of them.
        text: What ``patterns`` reads; the other figures take none.
        progress: Show a progress bar.

    Returns:
        The axes, and the table that was drawn.

    Raises:
        HcvizError: If there is no such figure, or nothing to draw.

    Example:
        >>> axes, data = figure([Run("runs/demo/symmetric")], "ledger")  # doctest: +SKIP
    """
    check_figure(name)
    draw = getattr(plots, name)
    if name == "patterns":
        step = max(steps) if steps else None
        asked = {"text": TEXT if text is None else text, "step": step, "tensors": tensors}
        clones = [run for run in runs if run.is_clone] or runs[:1]
        data = pd.concat([patterns(run, **asked) for run in clones], ignore_index=True)
        return draw(data), data
    if text is not None:
        raise HcvizError(f"The figure {name!r} reads no text; 'patterns' does.")
    if name in LOSSES:
        data = history(runs)
        data = speedup(data, against=_other(runs)) if name == "speedup" else data
        return draw(data), data
    if name == "loss_slice":
        clones, last = [run for run in runs if run.is_clone], max(steps) if steps else None
        data = pd.concat([loss_slice(run, step=last) for run in clones or runs])
        return draw(data), data
    if name in ONE and tensors is None:
        names = _names(runs[0], steps)
        tensors = _exactly([_middle(names, "up-projection") or names[0]])
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
        lacks = "experts" if name == "experts" else "the copies of a clone"
        raise HcvizError(f"Nothing of {names} is drawn by {name!r}: it needs {lacks}.")
    drawn = {"tensors": None} if name == "rank" else {}
    return draw(data, **drawn), data


@dataclass(frozen=True)
class Drawn:
    """What a comparison showed."""

    findings: list[str]
    """In words, with numbers of these runs."""
    frame: pd.DataFrame
    """Everything that was measured."""


def draw(
    runs: Sequence[Run],
    out: str | Path,
    *,
    command: str,
    notes: Sequence[str] = (),
    progress: bool = True,
) -> Drawn:
    """Measure runs, draw every figure that they allow, and say what was seen.

    Args:
        runs: The arms of a comparison; at least one must have started from a clone.
        out: Folder of the figures: NAME.png, NAME.svg, NAME.csv, NAME.json each, and findings.txt.
        command: The command that makes them again.
        notes: Lines to go into findings.txt after what was seen.
        progress: Show a progress bar.

    Raises:
        HcvizError: If none of the runs is a clone, or the folder cannot be written.
    """
    clones = [run for run in runs if run.is_clone]
    if not clones:
        names = ", ".join(run.name for run in runs)
        raise HcvizError(
            f"None of the runs ({names}) started from a clone, so there are no copies to draw."
        )
    out = Path(out)
    matrices = sorted(
        {name for run in clones for name in run.names() if len(run.layout[name]) == 2}, key=natural
    )
    frame = measure(
        clones, metrics=["cosine", "ledger"], tensors=_exactly(matrices), progress=progress
    )
    left = max(clones, key=lambda run: _last(frame, run))  # whose copies are furthest apart
    up, spectra = _tensors(left)
    ends = sorted({run.steps[0] for run in runs} | {run.steps[-1] for run in runs})
    cosines, ledger = (frame[frame["metric"] == name] for name in ("cosine", "ledger"))
    unrelated = measure(clones, metrics=["cosine.baseline"], steps=ends[:1])
    banded = pd.concat([cosines, unrelated], ignore_index=True)
    block = {"tensors": _exactly([up]), "steps": _few(left.steps)}
    curves, losses = figure(runs, "loss")
    drawn = {
        "headline": (plots.headline(losses, cosines), cosines),
        "loss": (curves, losses.drop(columns="seconds")),  # so that a rerun gives the same bytes
        "cosine": (plots.cosine(banded), banded),
        "cosine-log": (plots.cosine(cosines, log=True), cosines),
        "ledger": (plots.ledger(ledger), ledger),
        "pairs": figure(clones, "pairs", tensors=_exactly([up])),
        "spectrum": figure(runs, "spectrum", tensors=_exactly(spectra), steps=ends),
        "blocks": figure([left], "blocks", **block),
        "antisymmetric": figure([left], "antisymmetric", **block),
    }
    for name, (axes, data) in drawn.items():
        plots.save(axes, out / name, data=data, command=command)
    plt.close("all")
    spectrum = drawn["spectrum"][1]
    lines = [*findings(runs, pd.concat([frame, spectrum], ignore_index=True)), *notes]
    write_text(out / "findings.txt", "\n".join([*lines, f"Made by: {command}"]) + "\n")
    measured = [frame, drawn["pairs"][1], spectrum]
    return Drawn(lines, pd.concat(measured, ignore_index=True))


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
    found = list(filter(finder(tensors), _names(run, steps)))
    if not found:
        raise HcvizError(f"No tensor of {run.name} matches {list(tensors)!r}.")
    return found[0]


def _middle(names: Sequence[str], kind: str) -> str | None:
    """Return the weight of a kind in a middle layer; None if there is none."""
    found = [n for n in names if plots.kind(n) == kind and not n.endswith("bias")]
    return found[len(found) // 2] if found else None


def _exactly(names: Sequence[str]) -> list[str]:
    """Return the regular expressions that find these tensors and no others."""
    return [f"^{re.escape(name)}$" for name in names]


def _last(frame: pd.DataFrame, run: Run) -> float:
    """Return by how much the mean share outside the symmetric part grew over a run."""
    rows = frame[(frame["run"] == run.name) & (frame["metric"] == "ledger")]
    mean = rows.groupby("step")["value"].mean()
    return mean.iloc[-1] - mean.iloc[0]


def _few(steps: Sequence[int]) -> list[int]:
    """Return the first, a middle and the last step."""
    return sorted({steps[0], steps[len(steps) // 2], steps[-1]})


def _tensors(run: Run) -> tuple[str, list[str]]:
    """Choose an up-projection for the blocks, and three kinds of weights for the spectra."""
    names = [name for name in run.names() if name.endswith("weight")]
    chosen = [_middle(names, kind) for kind in ("up-projection", "QKV", "down-projection")]
    if not chosen[0]:
        raise HcvizError(
            f"{run.name} has no up-projection among {len(names)} weights; nothing to show."
        )
    return chosen[0], [name for name in chosen if name]

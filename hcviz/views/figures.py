"""Draw the figures of a comparison from its runs, each with its data and its command."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.io.files import natural, write_text
from hcviz.metrics import measure
from hcviz.runs.run import Run
from hcviz.views.arms import findings, history


@dataclass(frozen=True)
class Drawn:
    """What a comparison showed."""

    findings: list[str]
    """In words, with numbers of these runs."""
    frame: pd.DataFrame
    """Everything that was measured."""


def draw(runs: Sequence[Run], out: str | Path, *, command: str, progress: bool = True) -> Drawn:
    """Measure runs, draw every figure that they allow, and say what was seen.

    Args:
        runs: The arms of a comparison; at least one must have started from a clone.
        out: Folder of the figures: NAME.png, NAME.svg, NAME.csv, NAME.json each, and findings.txt.
        command: The command that makes them again.
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
    losses = history(runs)
    left = max(clones, key=lambda run: _last(frame, run))  # whose copies are furthest apart
    up, spectra = _tensors(left)
    ends = sorted({run.steps[0] for run in runs} | {run.steps[-1] for run in runs})
    pairs = measure(clones, metrics=["pairs"], tensors=_exactly([up]))
    values = measure(list(runs), metrics=["spectrum"], tensors=_exactly(spectra), steps=ends)
    grids = {step: left.blocks(up, step).double().numpy() for step in _few(left.steps)}
    unrelated = measure(clones, metrics=["cosine.baseline"], steps=ends[:1])
    cosines = frame[frame["metric"] == "cosine"]
    banded = pd.concat([cosines, unrelated], ignore_index=True)
    ledger = frame[frame["metric"] == "ledger"]
    figures = {
        "loss": (plots.loss(losses), losses),
        "cosine": (plots.cosine(banded), banded),
        "cosine-log": (plots.cosine(cosines, log=True), cosines),
        "ledger": (plots.ledger(ledger), ledger),
        "pairs": (plots.pairs(pairs), pairs),
        "spectrum": (plots.spectrum(values, tensors=spectra), values),
        "blocks": (plots.blocks(grids, name=up), plots.matrix_frame(grids)),
        "antisymmetric": (
            plots.antisymmetric(grids, name=up),
            plots.matrix_frame(grids, along="read"),
        ),
    }
    for name, (figure, data) in figures.items():
        plots.save(figure, out / name, data=data, command=command)
    plt.close("all")
    lines = findings(runs, ledger)
    write_text(out / "findings.txt", "\n".join([*lines, f"Made by: {command}"]) + "\n")
    return Drawn(lines, pd.concat([frame, pairs, values], ignore_index=True))


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
    wanted = ("up-projection", "QKV", "down-projection")
    kinds = {kind: [name for name in names if plots.kind(name) == kind] for kind in wanted}
    chosen = [found[len(found) // 2] for found in kinds.values() if found]
    if not kinds["up-projection"]:
        raise HcvizError(
            f"{run.name} has no up-projection among {len(names)} weights; nothing to show."
        )
    return chosen[0], chosen

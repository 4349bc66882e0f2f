"""Recorded comparisons: small copies of runs that a notebook opens in a second."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.checkpoint import KEPT
from hcviz.io.files import data_folder, fresh_folder
from hcviz.runs.rows import read_frame
from hcviz.runs.run import Run

AGAIN = "Record the comparison again, or fetch the recording anew."


class Note(TypedDict):
    """The form of ``recorded.json``."""

    __pydantic_config__ = forms.OPEN
    arms: Annotated[
        list[Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]], Field(min_length=1)
    ]
    """Folders beside it."""


@dataclass(frozen=True)
class Recorded:
    """A recorded comparison: its runs, with chosen tensors only, and what was measured."""

    path: Path

    @cached_property
    def runs(self) -> list[Run]:
        """The arms, in the order in which they were recorded."""
        return [Run(self.path / name) for name in self.info["arms"]]

    @cached_property
    def info(self) -> dict:
        """What was recorded: arms, tensors and the command."""
        return forms.read(self.path / "recorded.json", Note, AGAIN)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every metric of every arm at every step, as :func:`hcviz.measure` gives it."""
        return read_frame(self.path / "metrics.parquet", AGAIN)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The losses of all arms."""
        return pd.concat([run.history for run in self.runs], ignore_index=True)

    def metric(self, name: str) -> pd.DataFrame:
        """Return the rows of one metric."""
        return self.frame[self.frame["metric"] == name]


def recorded(name: str = "demo") -> Recorded:
    """Open a recorded comparison that ships with hcviz.

    Args:
        name: A folder of ``data/runs``, or the path of one that :func:`record` made.

    Raises:
        HcvizError: If there is none of that name.

    Example:
        >>> [run.name for run in recorded("demo").runs][:2]
        ['symmetric', 'noisy 10 dB']
    """
    shelf = data_folder() / "runs"
    for path in (shelf / name, Path(name)):
        if os.path.isfile(path / "recorded.json"):
            return Recorded(path)
    there = sorted(p.parent.name for p in shelf.glob("*/recorded.json"))
    raise HcvizError(f"Nothing is recorded as {name!r}; there is {', '.join(there) or 'nothing'}.")


def record(
    runs: Sequence[Run],
    out: str | Path,
    *,
    tensors: Sequence[str],
    frame: pd.DataFrame,
    command: str,
    overwrite: bool = False,
) -> Recorded:
    """Keep a small copy of a comparison: chosen tensors in float16, losses, measurements.

    Copies that are bit-identical stay so in float16; ``frame`` is measured on the whole runs. A
    run of which no tensor is kept leaves its last step only, without weights.

    Args:
        runs: The arms; several seeds of one are told by the names of their parent folders.
        out: The folder to make.
        tensors: Names of the tensors to keep, where a run has them.
        frame: What :func:`hcviz.measure` gave for the runs.
        command: The command that makes the recording again.
        overwrite: Replace the folder if it is there.

    Raises:
        HcvizError: If the folder is taken or cannot be written, or a run has no folder.
    """
    loose = [run.name for run in runs if run.path is None]
    if loose:
        raise HcvizError(
            f"{', '.join(loose)} has no folder of its own, with run.json and the losses, to be "
            "recorded from. Record runs that hcviz.train wrote."
        )
    out = Path(out)
    with fresh_folder(out, overwrite=overwrite) as folder:
        names = [run.path.name for run in runs]
        if len(set(names)) < len(names):
            names = [f"{run.path.parent.name}-{run.path.name}" for run in runs]
        for run, name in zip(runs, names, strict=True):
            _keep(run, folder / name, tensors if run.is_clone else ())
        frame.to_parquet(folder / "metrics.parquet", index=False)
        note = {"arms": names, "tensors": list(tensors), "command": command}
        (folder / "recorded.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return Recorded(out)


def _keep(run: Run, folder: Path, tensors: Sequence[str]) -> None:
    """Copy a run's record, and of every snapshot its configuration and the chosen tensors."""
    from safetensors.torch import save_file

    folder.mkdir()
    for name in ("run.json", "trainer_state.json"):
        shutil.copy(run.path / name, folder / name)
    for step in run.steps if tensors else run.steps[-1:]:
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        shutil.copy(run.path / place.name / "config.json", place / "config.json")
        kept = {name: run.tensor(name, step).half() for name in tensors}
        note = {"format": "pt", KEPT: "|".join(f"^{re.escape(name)}$" for name in tensors)}
        save_file(kept, place / "model.safetensors", metadata=note)

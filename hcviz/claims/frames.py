"""Frames: what was recorded of the runs of a comparison; the rows of an arm, and of one seed."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hcviz.errors import HcvizError
from hcviz.io.files import data_folder

Step = int | str
TABLES = ("runs", "losses", "metrics", "accuracy", "curvature")


@dataclass(frozen=True)
class Who:
    """An arm of a pair of models."""

    arm: str
    source: str
    factor: int = 2
    lr: float | None = None
    """The learning rate that is meant; None: that with which the arm ends lowest."""


@dataclass(frozen=True)
class Frames:
    """The tables of a recorded comparison; a run that is not there has no rows."""

    runs: pd.DataFrame
    """A row a run: what it was (source, arm, lr, seed, factor, steps), its loss, its story."""
    losses: pd.DataFrame
    """Losses over steps, with the same keys."""
    metrics: pd.DataFrame
    """Measured numbers, with the same keys."""
    accuracy: pd.DataFrame
    """Accuracy by task, at the steps whose models were kept, with the same keys."""
    curvature: pd.DataFrame | None = None
    """Curvature of locked clones at the steps whose models were kept, where it was measured."""
    command: str = ""
    _found: dict = field(default_factory=dict, repr=False, compare=False)

    def rates(self, who: Who) -> pd.Series:
        """Return the loss at the end of seed 0 by learning rate; infinite where it diverged."""
        rows = self.runs[_is(self.runs, who) & (self.runs["seed"] == 0)]
        return rows.set_index("lr")["loss"].astype(float).fillna(float("inf")).sort_index()

    def rate(self, who: Who) -> float | None:
        """Return the rate that is meant; if none, the best that was tried, None if none was."""
        if who.lr is not None:
            return who.lr
        tried = self.rates(who)
        return None if tried.empty else float(tried.idxmin())

    def of(self, table: str, who: Who) -> pd.DataFrame:
        """Return the rows of an arm at its learning rate, all seeds.

        Args:
            table: One of :data:`TABLES`.
            who: The arm.

        Raises:
            HcvizError: If the comparison was recorded without this table.
        """
        if (table, who) not in self._found:
            rows = getattr(self, table)
            if rows is None:
                raise HcvizError(
                    f"These runs are recorded without {table}; gather them with it: "
                    "python data/runs/breakers.py OUT --frames"
                )
            self._found[table, who] = rows[_is(rows, who) & (rows["lr"] == self.rate(who))]
        return self._found[table, who]

    def chosen(self, table: str, whos: Iterable[Who]) -> pd.DataFrame:
        """Return the rows of several arms, each at its own learning rate."""
        parts = [self.of(table, who) for who in whos]
        return pd.concat(parts, ignore_index=True) if parts else getattr(self, table).iloc[:0]


def _is(rows: pd.DataFrame, who: Who) -> pd.Series:
    same = (rows["arm"] == who.arm) & (rows["source"] == who.source)
    return same & (rows["factor"] == who.factor)


def is_recorded(name: str) -> bool:
    """Return whether a comparison of that name ships with hcviz."""
    return (data_folder() / "runs" / name / "runs.parquet").is_file()


def open_frames(name: str | Path) -> Frames:
    """Open the frames of a recorded comparison.

    Args:
        name: A folder of ``data/runs``, or a folder that :func:`hcviz.claims.recipe.gather` made.

    Raises:
        HcvizError: If there is none, or a table is not the one that was recorded.
    """
    places = (Path(name), data_folder() / "runs" / name)
    path = next((p for p in places if (p / "recorded.json").is_file()), None)
    if path is None or not (path / "runs.parquet").is_file():
        raise HcvizError(
            f"No frames are recorded as {str(name)!r}. Those that ship lie in "
            f"{data_folder() / 'runs'}; of your own runs: python data/runs/long.py OUT --frames"
        )
    return _opened(path.resolve(), (path / "recorded.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _opened(path: Path, _: int) -> Frames:
    told = json.loads((path / "recorded.json").read_text(encoding="utf-8"))
    there = [table for table in TABLES if table != "curvature" or table in told["sha256"]]
    for table in there:
        file = path / f"{table}.parquet"
        if hashlib.sha256(file.read_bytes()).hexdigest() != told["sha256"][table]:
            raise HcvizError(
                f"{file} is not the table that was recorded: its hash differs from that in "
                "recorded.json. Take it anew from the repository, or gather the runs again."
            )
    tables = {name: pd.read_parquet(path / f"{name}.parquet") for name in there}
    return Frames(**tables, command=told["command"])


def everyone(arms: Sequence[str], sources: Sequence[str], factor: int = 2) -> list[Who]:
    """Return arms of sources, source by source."""
    return [Who(arm, source, factor) for source in sources for arm in arms]


@dataclass(frozen=True)
class View:
    """The rows of one seed of the frames."""

    frames: Frames | None
    seed: int
    source: str = ""

    def rows(self, table: str, who: Who) -> pd.DataFrame:
        """Return an arm's rows of this seed."""
        rows = self.frames.of(table, who)
        return rows[rows["seed"] == self.seed]

    def loss(self, who: Who, at: Step = "end") -> float:
        """Return an arm's held-out loss: at the end on all blocks, before it on those watched."""
        if at == "end":
            return float(self.rows("runs", who)["loss"].iloc[0])
        curve = self.curve(who)
        return float(np.interp(at, curve.index, curve))

    def curve(self, who: Who) -> pd.Series:
        """Return the held-out loss by step."""
        rows = self.rows("losses", who)
        return rows[rows["split"] == "heldout"].groupby("step")["loss"].mean()

    def measured(
        self, who: Who, metric: str, tensors: str = "", axis: str | None = None
    ) -> pd.DataFrame:
        """Return the rows of a metric, of some tensors and of one axis or all."""
        rows = self.rows("metrics", who)
        rows = rows[(rows["metric"] == metric) & rows["tensor"].str.contains(tensors)]
        return rows if axis is None else rows[rows["axis"] == axis]

    def metric(self, who: Who, metric: str, *chosen: Any) -> pd.DataFrame:
        """Return a metric, tensor by step: a column each, the mean over parts and rows."""
        rows = self.measured(who, metric, *chosen)
        return rows.pivot_table(index="step", columns="tensor", values="value", aggfunc="mean")

    def mean(self, who: Who, metric: str, at: Step, *chosen: Any) -> float:
        """Return a metric at a step, mean over the ``chosen`` tensors and axis."""
        return at_step(self.metric(who, metric, *chosen).mean(axis=1), at)

    def accuracy(self, who: Who) -> pd.DataFrame:
        """Return the accuracy, step by task."""
        rows = self.rows("accuracy", who)
        return rows.pivot_table(index="step", columns="task", values="value")


def at_step(curve: pd.Series, step: Step) -> float:
    """Return a curve's value at a step (the nearest), the start, the end, its highest or lowest."""
    if step in ("start", "end"):
        return curve.iloc[0 if step == "start" else -1]
    if step in ("highest", "lowest"):
        return curve.max() if step == "highest" else curve.min()
    return curve.iloc[np.abs(curve.index.to_numpy() - step).argmin()]

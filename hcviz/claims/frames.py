"""Frames: what was recorded of the runs of a comparison, and the rows of one arm."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hcviz.errors import HcvizError
from hcviz.io.files import data_folder

KEYS = ["source", "factor", "arm"]
TABLES = ("runs", "losses", "metrics", "accuracy", "curvature")


@dataclass(frozen=True)
class Who:
    """An arm of a pair of models."""

    arm: str
    source: str
    factor: int = 2


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
        """Return the learning rate with which an arm ends lowest; None if it was not run."""
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
            f"{data_folder() / 'runs'}; of your own runs: python data/runs/paper.py OUT --frames"
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

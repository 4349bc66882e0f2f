"""Measured rows on disk: written while a run is trained, and kept so as not to measure twice."""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Required

import pandas as pd
from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import fresh_file, write_text

COLUMNS = ["run", "step", "tensor", "layer", "part", "axis", "metric", "row", "col", "value"]
LIVE, WHOLE = "metrics.jsonl", "metrics.parquet"
CACHE = ".hcviz-cache"
Row = dict[str, Any]
KINDS = dict.fromkeys(COLUMNS, "O") | dict.fromkeys(("step", "layer", "row", "col"), "i")
KINDS |= {"value": "f"}
"""What numpy calls the columns of a stored table: texts, whole numbers, floats."""
AGAIN = "Remove it, and measure the run again with hcviz.measure."


class Line(TypedDict, total=False):
    """The form of a row that is written while a run is trained."""

    __pydantic_config__ = forms.OPEN
    step: Required[int]
    tensor: Required[str]
    metric: Required[str]
    value: Required[float]
    layer: int | None
    part: str | None
    axis: str | None
    row: int | None
    col: int | None


def table(rows: Iterable[Row] | pd.DataFrame) -> pd.DataFrame:
    """Return rows as the tidy frame that every table of measurements is."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype(dict.fromkeys(("layer", "row", "col"), "Int64") | {"axis": object})


def read_frame(path: Path, remedy: str) -> pd.DataFrame:
    """Return a table of measurements from a parquet file.

    Raises:
        HcvizError: If it cannot be read, or a column is missing or of another kind.
    """
    try:
        frame = pd.read_parquet(path)
        for name, kind in KINDS.items():
            column = frame[name].dropna()
            text = kind != "O" or pd.api.types.infer_dtype(column) == "string"
            gaps = name in ("step", "tensor", "metric") and len(column) < len(frame)
            if gaps or (len(column) and not (column.dtype.kind == kind and text)):
                raise ValueError(f"in {name!r} stands what does not belong there")
    except Exception as error:  # pyarrow and pandas raise many unrelated kinds
        raise HcvizError(f"{path} cannot be read: {error!r}. {remedy}") from error
    return frame.astype({"axis": object, "value": float})  # a column of gaps has no type


def read_live(folder: Path) -> pd.DataFrame:
    """Return what was measured while a run was trained; no rows if nothing was.

    The last line of a run that goes on, or was killed, may be cut; it is left out.

    Raises:
        HcvizError: If the file holds something else.
    """
    if (folder / LIVE).is_file():
        *lines, _ = (folder / LIVE).read_bytes().split(b"\n")
        return table([forms.parse(line, Line, folder / LIVE, AGAIN) for line in lines])
    if (folder / WHOLE).is_file():
        return table(read_frame(folder / WHOLE, AGAIN))
    return table([])


def start_live(folder: Path, step: int) -> None:
    """Begin the lines of a run anew, with those up to the step that it goes on from."""
    known = read_live(folder)
    rows = as_rows(known[known["step"] <= step] if step else known[:0])
    write_text(folder / LIVE, "".join(json.dumps(row) + "\n" for row in rows))
    (folder / WHOLE).unlink(missing_ok=True)


def as_rows(frame: pd.DataFrame) -> list[Row]:
    """Return a table as rows, without the cells that are empty."""
    rows = frame.to_dict("records")
    return [{k: v for k, v in row.items() if k == "value" or not pd.isna(v)} for row in rows]


def finish_live(folder: Path) -> None:
    """Turn the lines of a run that is over into one parquet file, by rename."""
    if (folder / LIVE).is_file():
        with fresh_file(folder / WHOLE) as scratch:
            read_live(folder).to_parquet(scratch, index=False)
        (folder / LIVE).unlink()


class Cache:
    """Rows that were measured before, in ``.hcviz-cache/`` of a run's folder.

    An entry is found by what was measured and counts only while the fingerprint of everything that
    it came from, and of its rows, is the same. Where the folder cannot be written nothing is kept.
    """

    def __init__(self, folder: Path | None):
        """Open or make the cache; None keeps nothing."""
        self.data: sqlite3.Connection | None = None
        self.new: list[tuple[str, str, str]] = []
        if folder is None or not folder.is_dir():
            return
        with contextlib.suppress(OSError, sqlite3.Error):
            (folder / CACHE).mkdir(exist_ok=True)
            data = sqlite3.connect(folder / CACHE / "metrics.sqlite")
            data.execute("PRAGMA synchronous=OFF")
            data.execute("CREATE TABLE IF NOT EXISTS kept (what TEXT PRIMARY KEY, mark, rows)")
            self.data = data

    def get(self, what: str, mark: str | None) -> list[Row] | None:
        """Return the rows of an entry; None if there is none, or its fingerprint is another."""
        if self.data is not None:
            with contextlib.suppress(sqlite3.Error):
                query = "SELECT rows, mark FROM kept WHERE what = ?"
                rows, found = self.data.execute(query, (what,)).fetchone() or (None, None)
                return json.loads(rows) if found == fingerprint(what, mark, rows) else None
        return None

    def put(self, what: str, mark: str | None, rows: list[Row]) -> None:
        """Keep the rows of an entry in place of its older ones; without a fingerprint nothing."""
        if self.data is not None and mark is not None:
            with contextlib.suppress(TypeError):
                text = json.dumps(rows)
                self.new.append((what, fingerprint(what, mark, text), text))

    def commit(self) -> None:
        """Write what was put since the last time, at once: others may measure the same run."""
        if self.data is not None:
            with contextlib.suppress(sqlite3.Error), self.data:
                self.data.executemany("REPLACE INTO kept VALUES (?, ?, ?)", self.new)
        self.new.clear()

    def close(self) -> None:
        """Write and close."""
        self.commit()
        if self.data is not None:
            self.data.close()


def fingerprint(*parts: Any) -> str:
    """Return a short hash of what the parts show of themselves."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

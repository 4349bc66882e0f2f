"""Claim: what is claimed and where, in which runs it shows, what is measured, and the test."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Required

from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import data_folder
from hcviz.statistics.verdict import EXPECT

KINDS = {"paper": "of the paper", "doubt": "of what breaks the tie", "follow-up": "of later work"}
REMEDY = "Its fields are those of Claim and Measure in hcviz/claims/claim.py."


@dataclass(frozen=True)
class Measure:
    """A number of runs, and what it is expected to be."""

    __pydantic_config__ = forms.CLOSED
    what: str
    """A function of :mod:`hcviz.claims.quantities`."""
    arguments: Mapping[str, Any]
    """Its keywords."""
    expect: Literal[EXPECT]
    bound: float = 0.0
    tolerance: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """One file of ``data/claims``."""

    __pydantic_config__ = forms.CLOSED
    name: str
    """The file's name."""
    title: str
    """What is tested, as a sentence."""
    said: str
    """What is claimed, in our words."""
    where: str
    """Where: paper, figure."""
    kind: Literal[tuple(KINDS)]
    measure: Measure
    recording: str = ""
    """The recorded comparison in which it shows; none for claims about shapes."""
    sources: tuple[str, ...] = ()
    factor: int = 2
    figure: str = ""
    """Where it is drawn: a name of :mod:`hcviz.claims.figures`."""
    needs: Measure | None = None
    """What must hold for the claim to be testable in these runs; else: not at this scale."""
    note: str = ""
    """What limits the test."""
    path: Path | None = field(default=None, compare=False)


class File(TypedDict, total=False):
    """The form of a claim's file, as far as :class:`Claim` does not say it."""

    __pydantic_config__ = forms.OPEN
    runs: dict[str, Any]
    measure: Required[dict[str, Any]]
    test: dict[str, Any]
    needs: dict[str, Any]


def read_claim(path: Path) -> Claim:
    """Read one claim, and check its form.

    Raises:
        HcvizError: If it is no TOML, lacks a field, or has one that is unknown or of another kind.
    """
    table = forms.read(path, File, REMEDY)
    given = table | table.pop("runs", {}) | {"name": path.stem, "path": str(path)}
    given["measure"] = _measure(table["measure"] | given.pop("test", {}))
    if "needs" in table:
        given["needs"] = _measure(table["needs"])
    return forms.parse(json.dumps(given), Claim, path, REMEDY)


def claims(folder: Path | None = None) -> dict[str, Claim]:
    """Return all claims by name, those that ship unless another folder is given.

    Raises:
        HcvizError: If one cannot be read.

    Example:
        >>> claims()["lock-holds"].kind
        'doubt'
    """
    folder = folder or data_folder() / "claims"
    return {path.stem: read_claim(path) for path in sorted(folder.glob("*.toml"))}


def find_claim(name: str) -> Claim:
    """Return the claim of a name.

    Raises:
        HcvizError: If there is none, naming those that are.
    """
    there = claims()
    if name not in there:
        raise HcvizError(f"There is no claim {name!r}; there are {', '.join(there)}.")
    return there[name]


def _measure(table: Mapping[str, Any]) -> dict[str, Any]:
    """Split a table into the fields of a measure and the arguments of its function."""
    own = {f.name for f in dataclasses.fields(Measure)}
    fields = {key: value for key, value in table.items() if key in own}
    return fields | {"arguments": {k: value for k, value in table.items() if k not in own}}

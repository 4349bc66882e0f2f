"""Claim: what is claimed and where, in which runs it shows, what is measured, and the test."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcviz.errors import HcvizError
from hcviz.io.files import data_folder
from hcviz.statistics.verdict import EXPECT

KINDS = {
    "paper": "of the paper",
    "doubt": "of what breaks the tie",
    "follow-up": "of later work",
}


@dataclass(frozen=True)
class Measure:
    """A number of runs, and what it is expected to be."""

    what: str
    """A function of :mod:`hcviz.claims.quantities`."""
    arguments: Mapping[str, Any]
    """Its keywords."""
    expect: str
    """``above``, ``below`` or ``equal``."""
    bound: float = 0.0
    tolerance: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """One file of ``data/claims``."""

    name: str
    """The file's name."""
    title: str
    """What is tested, as a sentence."""
    said: str
    """What is claimed, in our words."""
    where: str
    """Where: paper, figure."""
    kind: str
    """One of :data:`KINDS`."""
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


def read_claim(path: Path) -> Claim:
    """Read one claim, and check its form.

    Raises:
        HcvizError: If it is no TOML, lacks a field, or has one that is unknown or of another kind.
    """
    table = read_toml(path, "claim")
    runs, test = table.pop("runs", {}), table.pop("test", {})
    measure = _measure(path, table.pop("measure", {}) | test, "measure and test")
    needs = table.pop("needs", None)
    if needs is not None:
        needs = _measure(path, needs, "needs")
    given = table | dict(runs)
    if isinstance(given.get("sources"), list):
        given["sources"] = tuple(given["sources"])
    given |= {"name": path.stem, "measure": measure, "needs": needs, "path": path}
    claim = made(Claim, given, path, "claim")
    if claim.kind not in KINDS:
        raise HcvizError(f"{path}: kind={claim.kind!r} is none of {', '.join(KINDS)}.")
    return claim


def read_toml(path: Path, what: str, remedy: str = "") -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        HcvizError: Naming it, what it should be, and the remedy.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HcvizError(f"{path} is no {what} that can be read: {error}{remedy}") from error


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


def _measure(path: Path, table: Mapping[str, Any], where: str) -> Measure:
    """Split a table into the fields of a measure and the arguments of its function."""
    own = {f.name for f in dataclasses.fields(Measure)} - {"arguments"}
    given = {key: value for key, value in table.items() if key in own}
    given["arguments"] = {key: value for key, value in table.items() if key not in own}
    found = made(Measure, given, path, where)
    if found.expect not in EXPECT:
        raise HcvizError(f"{path}: expect={found.expect!r} is none of {', '.join(EXPECT)}.")
    return found


def made(kind: type, given: Mapping[str, Any], path: Path, where: str) -> Any:
    """Make a dataclass of what a file gives.

    Args:
        kind: The dataclass.
        given: Its fields.
        path: The file, for the message.
        where: The part of it.

    Raises:
        HcvizError: If a field is unknown, missing, or of another kind.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in given.items():
        if name not in fields:
            raise HcvizError(f"{path}: {where} has no field {name!r}; it has {', '.join(fields)}.")
        wanted = {str: str, float: int | float, int: int}.get(fields[name].type, object)
        if not isinstance(value, wanted) or (wanted is not object and isinstance(value, bool)):
            raise HcvizError(f"{path}: {name}={value!r} must be a {fields[name].type.__name__}.")
    try:
        return kind(**given)
    except TypeError as error:
        raise HcvizError(f"{path}: {where} is not whole: {error}") from error

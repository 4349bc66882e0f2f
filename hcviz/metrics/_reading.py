"""Read what a metric asks for from a run: one tensor over its steps, each once."""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

import hcviz
from hcviz.architecture.axes import TensorAxes
from hcviz.io.sources import place_of
from hcviz.metrics._registry import EXTRAS, Entry
from hcviz.metrics._subjects import stored_subject
from hcviz.runs.moments import moments_mark
from hcviz.runs.places import Where
from hcviz.runs.rows import fingerprint
from hcviz.runs.run import Run


class TensorReader:
    """One tensor of a run. It holds that of the first, the last read and this step, no more.

    Steps are looked at when they are asked for: those of a run on the hub are then downloaded.
    """

    def __init__(self, run: Run, name: str):
        """Take the run and the tensor's name; nothing is read yet."""
        self.run, self.name, self.steps = run, name, run.steps
        self.held: dict[int, torch.Tensor] = {}

    def has(self, step: int) -> bool:
        """Tell whether a snapshot holds the tensor."""
        return step in self.steps and self.name in self.run.stored(step)

    def get(self, step: int, what: str) -> torch.Tensor | int | None:
        """Return a stored subject at a step ("" is the weight), or one of the extras."""
        at = self._step_of(step, what)
        if at is None:
            return None
        if what == "gap":
            return step - at
        if what not in ("", *EXTRAS):
            return stored_subject(self.run, what, self.name, step)
        if at not in self.held:
            near = sorted({*self.held, at})
            keep = {near[0], *near[-2:]}
            self.held = {one: tensor for one, tensor in self.held.items() if one in keep}
            self.held[at] = self.run.tensor(self.name, at)
        return self.held[at]

    def mark(
        self, step: int, subject: str, entry: Entry, axes: TensorAxes | None, factors: Mapping
    ) -> str | None:
        """Return the fingerprint of all that a metric's rows come from; None: do not keep them."""
        if not is_ours(entry):
            return None
        extras = {*entry.needs, *(["previous"] if subject == "update" else [])}
        steps = {step, *(self._step_of(step, extra) for extra in extras)} - {None}
        marks: list[Any] = [(one, self.run.stored(one).mark) for one in sorted(steps)]
        if subject.startswith("exp_avg"):
            marks.append(moments_mark(self.run.stored(step).folder))
        return fingerprint(marks, subject, code_mark(), axes, sorted(factors.items()))

    def _step_of(self, step: int, what: str) -> int | None:
        if what == "start":
            return self._start
        return self._before(step) if what in ("previous", "gap") else step

    @functools.cached_property
    def _start(self) -> int:
        return next(step for step in self.steps if self.has(step))

    def _before(self, step: int) -> int | None:
        return next((one for one in reversed(self.steps) if one < step and self.has(one)), None)


def open_run(spec: Where, revisions: Sequence[str] | None = None) -> Run:
    """Open a run's folder, checkpoints of any trainer, ``nano:NAME``, or revisions of the hub.

    Args:
        spec: Whatever `Run.of` opens, or a run's folder.
        revisions: Of a repository of the hub; None: its main one.
    """
    if not isinstance(spec, str | PathLike):
        return Run.of(spec, revisions=revisions)
    place = place_of(spec)
    if isinstance(place, str):
        return Run.of(spec, revisions=revisions or ["main"])
    own = revisions is None and any(place.glob("checkpoint-*/model*.safetensors"))
    return Run(place) if own else Run.of(place, revisions=revisions)


def is_ours(entry: Entry) -> bool:
    """Tell whether a metric is hcviz's; a user's own function may call what nobody sees."""
    return entry.function.__module__.startswith("hcviz.")


@functools.cache
def code_mark() -> str:
    """Return a hash of the metrics' code and of all of hcviz that it imports."""
    package, _, _ = __name__.rpartition(".")
    root = Path(hcviz.__file__).parents[1]
    digest = hashlib.sha256()
    for path in code_files(package, root):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def code_files(package: str, root: Path) -> list[Path]:
    """Return the files of a package, and of what they import from their own distribution.

    Imports are followed wherever they stand, inside functions too, and an import of ``a.b`` runs
    ``a/__init__.py``.

    Args:
        package: Its dotted name.
        root: The folder that the first package of this name lies in.
    """
    top, *_ = package.split(".")
    folder = root.joinpath(*package.split("."))
    found, todo = set(), set(folder.glob("*.py")) | set(_files_of(package, root))
    while todo:
        path = todo.pop()
        found.add(path)
        for name in _imports(path.read_text(encoding="utf-8")):
            if name.partition(".")[0] == top:
                todo |= set(_files_of(name, root)) - found
    return sorted(found)


def _imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """Yield the files that an import of a dotted name runs; its end may be no module."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path

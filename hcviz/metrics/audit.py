"""audit(): what is odd about a run's snapshots, told from their files, of any model."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from hcviz.io.checkpoint import KEPT, Checkpoint
from hcviz.io.files import natural
from hcviz.metrics._reading import open_run
from hcviz.runs.run import Run
from hcviz.statistics.order import misplaced

SAMPLE = 2**16
"""Entries of a tensor, at most, that the order of snapshots is told from."""
CONSTANT = re.compile(r"(inv_freq|masked_bias|\.attn\.bias)$")
"""Tensors that are stored with a model's weights and are tables, which never move."""
WORDS = {
    "repeated": "step {step} repeats step {other}, bit for bit ({value})",
    "order": "step {step} is out of order: its place is beside step {other} ({value})",
    "dtype": "step {step}, {tensor}: another dtype than at step {other} ({value})",
    "shape": "step {step}, {tensor}: another shape than at step {other} ({value})",
    "new": "step {step}, {tensor}: step {other} has no such tensor",
    "gone": "step {step}, {tensor}: is in step {other} and is missing here",
    "not finite": "step {step}, {tensor}: NaN or infinite ({value})",
    "still": "{tensor}: never moves, from step {other} to step {step} ({value})",
}


@dataclass(frozen=True)
class Audit:
    """What was found, and the way of the weights.

    Attributes:
        findings: A row each: ``step``, the ``other`` step, ``tensor`` (or "all"), ``what`` (the
            keys of `WORDS`) and ``value``, in words.
        steps: A row per snapshot: ``dtype``, ``norm``, and the distance from the first snapshot
            and from the one before, relative to their norms.
    """

    findings: pd.DataFrame
    steps: pd.DataFrame

    def __str__(self) -> str:
        said = [WORDS[row["what"]].format(**row) for row in self.findings.to_dict("records")]
        return "\n".join(said or ["nothing odd was found"])


@torch.no_grad()
def audit(where: Any, *, revisions: Sequence[str] | None = None, progress: bool = False) -> Audit:
    """Look for what is odd about a run's snapshots: repeated, out of order, not finite, still.

    Every tensor is read once from each safetensors file, and three versions of one are held at a
    time. Names are those of the files; no configuration is asked, so the model may be any.

    Args:
        where: A `Run`, a run's folder, whatever `Run.of` opens, or ``nano:NAME``.
        revisions: Revisions of a repository of the hub; None: its main one.
        progress: Show a bar.

    Raises:
        HcvizError: If nothing is found there, or a file is damaged.

    Example:
        >>> print(audit(["nano:gpt-neox@300", "nano:gpt-neox@600"]))
        nothing odd was found
    """
    run = where if isinstance(where, Run) else open_run(where, revisions)
    steps = run.steps
    tally = _Tally(steps, [Checkpoint(run.stored(step).folder) for step in steps])
    for name in tqdm(tally.names, desc="auditing", unit="tensor", disable=not progress):
        tally.add(name)
    return Audit(tally.findings(), tally.table())


class _Tally:
    """What is summed up and found while one tensor after the other goes by."""

    def __init__(self, steps: Sequence[int], files: Sequence[Checkpoint]):
        self.steps, self.files = steps, files
        self.names = sorted({name for one in files for name in one}, key=natural)
        self.found: list[tuple[int, int | None, str, str, str]] = []
        self.hashes: list[dict[str, bytes]] = [{} for _ in steps]
        self.squares = np.zeros((len(steps), 5))  # own; distance to first, its own; to previous, ..
        self.apart = np.zeros((len(steps), len(steps)))
        self.odd: set[int] = set()  # snapshots whose distances tell nothing

    def add(self, name: str) -> None:
        """Read a tensor at every step, and compare it with the first and the one before."""
        first, last, samples = None, None, []
        shapes = {file.empty(name).shape for file in self.files if name in file}
        self._come_and_go(name)
        for at in [at for at, file in enumerate(self.files) if name in file]:
            tensor = self.files[at].tensor(name)
            self.hashes[at][name] = _digest(tensor)
            for what in ("dtype", "shape") if last else ():
                then, now = (getattr(one, what) for one in (last[1], tensor))
                if then != now:
                    value = re.sub(r"torch\.(Size)?", "", f"{then} -> {now}")
                    self._say(at, last[0], name, what, value)
            if tensor.is_floating_point():
                finite = self._finite(name, at, tensor)
                self.squares[at, 0] += finite.square().sum().item()
                for column, wanted, held in ((1, 0, first), (3, at - 1, last)):
                    there, other = held or (None, tensor)
                    if there == wanted and other.shape == tensor.shape:
                        other = other.double().nan_to_num(0.0, 0.0, 0.0)
                        pair = (finite - other).square().sum(), other.square().sum()
                        self.squares[at, column : column + 2] += [one.item() for one in pair]
                samples.append(_sample(finite))
                del finite
            last = at, tensor
            first = first or last
        if len(samples) == len(self.files) and len(shapes) == 1 and tensor.numel():
            self.apart += _pairs(torch.stack(samples)) * tensor.numel() / len(samples[0])

    def _say(self, at: int, other: int | None, tensor: str, what: str, value: str = "") -> None:
        there = None if other is None else self.steps[other]
        self.found.append((self.steps[at], there, tensor, what, value))

    def _come_and_go(self, name: str) -> None:
        """Compare neighbours; a snapshot that was thinned on purpose lacks nothing."""
        whole = [at for at, one in enumerate(self.files) if KEPT not in one.metadata]
        for before, at in pairwise(whole):
            if (name in self.files[at]) != (name in self.files[before]):
                self._say(at, before, name, "new" if name in self.files[at] else "gone")

    def _finite(self, name: str, at: int, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor in float64 with zeros for what is no number, and tell of those."""
        double = tensor.double()
        if number := int((~double.isfinite()).sum()):
            self.odd.add(at)
            self._say(at, None, name, "not finite", f"{number:,} of {tensor.numel():,}")
        return double.nan_to_num(0.0, 0.0, 0.0) if number else double

    def findings(self) -> pd.DataFrame:
        """Return what was found; what holds for all tensors of a snapshot is one row."""
        known: dict[frozenset, int] = {}
        marks = [frozenset(hashes.items()) for hashes in self.hashes]
        for at, mark in enumerate(marks):
            if known.setdefault(mark, at) != at:
                self._say(at, known[mark], "all", "repeated", f"{len(mark)} tensors")
        distinct = [at for at in known.values() if at not in self.odd]
        for at, beside, share in misplaced(np.sqrt(self.apart[np.ix_(distinct, distinct)])):
            value = f"neighbours at {share:.2f} of the distance"
            self._say(distinct[at], distinct[beside], "all", "order", value)
        for name in self.names:
            has = [at for at in known.values() if name in self.hashes[at]]
            one, moved = self.files[has[0]].empty(name), {self.hashes[at][name] for at in has}
            weight = one.is_floating_point() and one.numel() and not CONSTANT.search(name)
            if weight and len(has) > 1 and len(moved) == 1:
                self._say(has[-1], has[0], name, "still", f"{len(has)} distinct snapshots")
        sizes = dict(zip(self.steps, map(len, self.hashes), strict=True))
        frame = pd.DataFrame(self.found, columns=["step", "other", "tensor", "what", "value"])
        frame = frame.astype({"step": "Int64", "other": "Int64"})
        alike = frame.groupby(["step", "other", "what"], dropna=False)
        number = alike["tensor"].transform("size")
        whole = (number > 1) & (number == frame["step"].map(sizes))
        frame.loc[whole & (alike["value"].transform("nunique") > 1), "value"] = "all of them"
        frame.loc[whole, "tensor"] = "all"
        return frame.drop_duplicates().sort_values("step", kind="stable", ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return the way of the weights, a row per snapshot."""
        root, kinds = pd.DataFrame(self.squares) ** 0.5, []
        for one in self.files:
            kinds.append(" ".join(sorted({str(one.empty(name).dtype)[6:] for name in one})))
        moved = {"from_first": root[1] / root[2], "from_previous": root[3] / root[4]}
        return pd.DataFrame({"step": self.steps, "dtype": kinds, "norm": root[0], **moved})


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's entries, or of a large one some, always the same."""
    seed, size = torch.Generator().manual_seed(0), tensor.numel()
    some = torch.randint(size, (SAMPLE,), generator=seed) if size > SAMPLE else slice(None)
    return tensor.flatten()[some]


def _pairs(rows: torch.Tensor) -> np.ndarray:
    """Return the squared distances of all pairs; from the first row, so that no digits are lost."""
    rows = rows - rows[0]
    product = rows @ rows.T
    own = product.diagonal()
    squares = (own[:, None] + own - 2 * product).clamp(min=0)
    return squares.fill_diagonal_(0).numpy()


def _digest(tensor: torch.Tensor) -> bytes:
    """Return a hash of a tensor's bytes, shape and dtype."""
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()

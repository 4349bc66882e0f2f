"""Numbers that see copies: each metric is a pure function of one wide weight and its axes."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from hcviz.blocks import SYMMETRY, Blocks, TensorAxes, pieces
from hcviz.errors import HcvizError
from hcviz.runs import Run

COLUMNS = ["run", "step", "tensor", "layer", "part", "axis", "metric", "row", "col", "value"]
Row = dict[str, Any]
Metric = Callable[[torch.Tensor, TensorAxes, Mapping[str, int]], Iterator[Row]]


@dataclass(frozen=True)
class Entry:
    """A registered metric."""

    function: Metric
    needs_clone: bool
    """Whether it compares copies; a run without a clone is skipped then."""

    @property
    def help(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


METRICS: dict[str, Entry] = {}


def metric(name: str, *, needs_clone: bool = True) -> Callable[[Metric], Metric]:
    """Register a metric under a name for :func:`measure`.

    The function takes a wide weight, its axes in source units and the factors, and yields rows: a
    dict with ``value`` and, where they say something, ``part``, ``axis``, ``row`` and ``col``.
    """

    def register(function: Metric) -> Metric:
        METRICS[name] = Entry(function, needs_clone)
        return function

    return register


def _pieces(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[Blocks]:
    """Yield the pieces of a weight in float64, where one bit of difference shows."""
    return pieces(weight.double(), axes, factors)


def _is_table(axes: TensorAxes) -> bool:
    """Tell whether a weight is looked up by index (an embedding): nothing in it reads copies."""
    return len(axes) == 2 and axes[0].role == "read" and not axes[0].segments[0].axes()


@metric("cosine")
def cosine(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Mean cosine between the copies that each row reads (figure 5 of the paper: its halves).

    For n copies it is the mean over their pairs. Rows are outputs; an embedding's are its tokens.
    It ignores scale, and says nothing of how written copies (rows) relate to each other.
    """
    if len(axes) != 2:
        return
    for blocks in _pieces(weight, axes, factors):
        grid = blocks.grid()  # [n_written, n_read, rows, cols]
        if _is_table(axes):
            grid = grid.permute(1, 0, 3, 2)
        copies = grid.unbind(1)
        if len(copies) < 2:
            continue
        pairs = [
            torch.cosine_similarity(a, b, dim=-1).mean()
            for a, b in itertools.combinations(copies, 2)
        ]
        yield {"part": blocks.part, "value": torch.stack(pairs).mean().item()}


@metric("pairs")
def pairs(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Cosine between every two source-shaped blocks; row and col count them, written first."""
    if len(axes) != 2:
        return
    for blocks in _pieces(weight, axes, factors):
        flat = blocks.grid().flatten(0, 1).flatten(1)
        if len(flat) < 2:
            continue
        flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
        table = flat @ flat.T
        for row, col in itertools.product(range(len(flat)), repeat=2):
            yield {"part": blocks.part, "row": row, "col": col, "value": table[row, col].item()}


@metric("ledger")
def ledger(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Share of squared norm outside the symmetric part, per axis R, H, N; exactly 0 is locked.

    The symmetric part is the mean over the copies of one axis. Copies that are equal bit by bit
    give 0.0, any difference more.
    """
    for blocks in _pieces(weight, axes, factors):
        total = blocks.view.square().sum().item()
        for letter in sorted({SYMMETRY[axis] for axis in blocks.copy_axes if axis in SYMMETRY}):
            dims = [d for d, axis in enumerate(blocks.copy_axes) if SYMMETRY.get(axis) == letter]
            first = blocks.view
            for d in dims:
                first = first.narrow(d, 0, 1)
            away = blocks.view - first  # exactly zero where copies are equal, as is its mean
            away = away - away.mean(dims, keepdim=True)
            share = away.square().sum().item() / total if total else 0.0
            yield {"part": blocks.part, "axis": letter, "value": share}


@metric("spectrum", needs_clone=False)
def spectrum(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Singular values of the whole matrix, largest first; row is the index."""
    if weight.dim() != 2:
        return
    values = torch.linalg.svdvals(weight.double())
    for row, value in enumerate(values.tolist()):
        yield {"row": row, "value": value}


def measure(
    run: Run | str | Path | Sequence[Run | str | Path],
    *,
    metrics: Sequence[str] = ("cosine", "ledger"),
    tensors: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure the weights of training runs, one tensor at a time.

    Args:
        run: A run, its folder, or several of them.
        metrics: Names from ``METRICS``: cosine, pairs, ledger, spectrum.
        tensors: Regular expressions; a tensor that one of them finds is measured. None measures
            all.
        steps: Snapshots to read; those that a run does not have are left out. None reads all.
        progress: Show a progress bar.

    Returns:
        A tidy frame with the columns run, step, tensor, layer, part, axis, metric, row, col, value.
        Metrics of copies leave out runs that are no clones.

    Raises:
        HcvizError: If a metric is unknown, or no tensor or step is left.

    Example:
        >>> frame = measure("runs/demo/symmetric", metrics=["ledger"], tensors="mlp")  # doctest:
        +SKIP
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise HcvizError(
            f"metrics={list(metrics)!r}: {', '.join(unknown)} unknown. "
            f"There are {', '.join(METRICS)}."
        )
    runs = run if isinstance(run, list | tuple) else [run]
    patterns = [re.compile(p) for p in ([tensors] if isinstance(tensors, str) else tensors or [""])]
    wanted = None if steps is None else set(steps)
    rows, work = [], []
    for one in runs:
        one = one if isinstance(one, Run) else Run(one)
        names = [name for name in one.names() if any(p.search(name) for p in patterns)]
        if not names:
            shown = ", ".join(one.names()[:4])
            raise HcvizError(f"No tensor of {one.name} matches {tensors!r}; it has {shown}, ...")
        chosen = [step for step in one.steps if wanted is None or step in wanted]
        if not chosen:
            raise HcvizError(
                f"{one.name} has the steps {one.steps}, none of the asked {sorted(wanted)}."
            )
        work += [(one, step, name) for step in chosen for name in names]
    for one, step, name in tqdm(work, desc="measuring", unit="tensor", disable=not progress):
        rows += _measure_tensor(one, step, name, metrics)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype(dict.fromkeys(("layer", "row", "col"), "Int64"))


def _measure_tensor(run: Run, step: int, name: str, metrics: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of one tensor at one step."""
    entries = {m: METRICS[m] for m in metrics if run.is_clone or not METRICS[m].needs_clone}
    if not entries:
        return
    factors = run.factors if run.is_clone else {}
    weight = run.tensor(name, step)
    layer = next((int(word) for word in name.split(".") if word.isdigit()), None)
    for label, entry in entries.items():
        for row in entry.function(weight, run.layout[name], factors):
            yield {
                "run": run.name,
                "step": step,
                "tensor": name,
                "layer": layer,
                "part": "",
                "metric": label,
                **row,
            }

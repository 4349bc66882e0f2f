"""measure(): every asked metric of every asked tensor and step, as one tidy table."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from hcviz.errors import HcvizError
from hcviz.metrics._models import measure_models
from hcviz.metrics._registry import COLUMNS, Row, layer_of
from hcviz.metrics._subjects import resolve, subject_tensor
from hcviz.runs import Run


def measure(
    run: Run | str | Path | Sequence[Run | str | Path],
    *,
    metrics: Sequence[str] = ("cosine", "ledger"),
    tensors: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    batch: torch.Tensor | None = None,
    source: Any = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure training runs: their weights one tensor at a time, their models on a text.

    Args:
        run: A run, its folder, or several of them.
        metrics: Names from ``METRICS``: cosine, pairs, ledger, spectrum, ... A prefix takes
            another subject than the weight, where a snapshot has it: ``update.ledger`` (difference
            to the snapshot before), ``exp_avg.ledger`` and ``exp_avg_sq.ledger`` (Adam's moments).
        tensors: Regular expressions; a tensor (or module) that one of them finds is measured. None
            measures all.
        steps: Snapshots to read; those that a run does not have are left out. None reads all.
        batch: Token ids ``[batch, length]`` for the metrics of a model; None takes the first
            held-out blocks of the run's corpus.
        source: The source model, or what :func:`hcviz.load` takes, for the metrics that compare
            with it; None takes it out of the run's first snapshot.
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
    asked = {label: resolve(label) for label in metrics}
    runs = run if isinstance(run, list | tuple) else [run]
    patterns = [re.compile(p) for p in ([tensors] if isinstance(tensors, str) else tensors or [""])]
    wanted = None if steps is None else set(steps)
    models = [label for label, (_, entry) in asked.items() if entry.of == "model"]
    weights = [label for label in metrics if label not in models]
    rows, work = [], []
    for one in runs:
        one = one if isinstance(one, Run) else Run(one)
        names = [name for name in one.names() if any(p.search(name) for p in patterns)]
        if weights and not names:
            shown = ", ".join(one.names()[:4])
            raise HcvizError(f"No tensor of {one.name} matches {tensors!r}; it has {shown}, ...")
        chosen = [step for step in one.steps if wanted is None or step in wanted]
        if not chosen:
            raise HcvizError(
                f"{one.name} has the steps {one.steps}, none of the asked {sorted(wanted)}."
            )
        work += [(one, step, name) for step in chosen for name in names if weights]
        found = measure_models(one, chosen, models, batch=batch, source=source)
        rows += [row for row in found if any(p.search(row["tensor"]) for p in patterns)]
    for one, step, name in tqdm(work, desc="measuring", unit="tensor", disable=not progress):
        rows += _measure_tensor(one, step, name, weights)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype(dict.fromkeys(("layer", "row", "col"), "Int64"))


def _measure_tensor(run: Run, step: int, name: str, metrics: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of one tensor at one step."""
    entries = {label: resolve(label) for label in metrics}
    entries = {m: both for m, both in entries.items() if run.is_clone or not both[1].needs_clone}
    if not entries:
        return
    factors = run.factors if run.is_clone else {}
    before = [earlier for earlier in run.steps if earlier < step]
    steps = {"start": run.steps[0], "previous": before[-1] if before else None}
    subjects = {
        subject: subject_tensor(run, subject, name, step, steps["previous"])
        for subject in {subject for subject, _ in entries.values()}
    }
    entries = {m: both for m, both in entries.items() if subjects[both[0]] is not None}
    needed = {extra for _, entry in entries.values() for extra in entry.needs}
    extras = {
        extra: None if steps[extra] is None else run.tensor(name, steps[extra])
        for extra in needed & steps.keys()
    }
    extras["gap"] = step - before[-1] if before else None
    for label, (subject, entry) in entries.items():
        needs = {extra: extras[extra] for extra in entry.needs}
        for row in entry.function(subjects[subject], run.layout[name], factors, **needs):
            yield {
                "run": run.name,
                "step": step,
                "tensor": name,
                "layer": layer_of(name),
                "part": "",
                "metric": label,
                **row,
            }

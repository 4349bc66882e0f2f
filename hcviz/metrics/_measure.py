"""measure(): every asked metric of every asked tensor and step, as one tidy table."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from hcviz.errors import HcvizError
from hcviz.metrics._registry import COLUMNS, Row
from hcviz.metrics._subjects import resolve, subject_tensor
from hcviz.runs import Run


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
        metrics: Names from ``METRICS``: cosine, pairs, ledger, spectrum, ... A prefix takes
            another subject than the weight, where a snapshot has it: ``update.ledger`` (difference
            to the snapshot before), ``exp_avg.ledger`` and ``exp_avg_sq.ledger`` (Adam's moments).
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
    for label in metrics:
        resolve(label)
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
        extra: None if steps[extra] is None else run.tensor(name, steps[extra]) for extra in needed
    }
    layer = next((int(word) for word in name.split(".") if word.isdigit()), None)
    for label, (subject, entry) in entries.items():
        needs = {extra: extras[extra] for extra in entry.needs}
        for row in entry.function(subjects[subject], run.layout[name], factors, **needs):
            yield {
                "run": run.name,
                "step": step,
                "tensor": name,
                "layer": layer,
                "part": "",
                "metric": label,
                **row,
            }

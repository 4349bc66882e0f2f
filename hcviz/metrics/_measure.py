"""measure(): every asked metric of every asked tensor and step, as one tidy table."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from hcviz.architecture.axes import Dim, Segment, TensorAxes
from hcviz.errors import CloneError, HcvizError
from hcviz.io.files import finder, layer_of, natural
from hcviz.io.forms import naming
from hcviz.metrics._models import measure_models
from hcviz.metrics._reading import TensorReader
from hcviz.metrics._registry import Entry, Row
from hcviz.metrics._subjects import resolve, update_of
from hcviz.runs.rows import Cache, as_rows, table
from hcviz.runs.run import Run

Asked = Mapping[str, tuple[str, Entry]]
"""By the name asked for: its subject and its metric."""


def measure(
    run: Run | str | Path | Sequence[Run | str | Path],
    *,
    metrics: Sequence[str] = ("cosine", "ledger"),
    tensors: str | Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    batch: torch.Tensor | None = None,
    source: Any = None,
    cache: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure training runs: their weights one tensor at a time, their models on a text.

    What a run measured while it was trained (``run.metrics``) is taken as it is. What is measured
    of weights here is kept in ``.hcviz-cache/`` of the run's folder, where it can be written, and
    measured again when the checkpoint's files or the metrics change.

    Args:
        run: A run, its folder, or several of them.
        metrics: Names from ``METRICS``: cosine, pairs, ledger, spectrum, ... A prefix takes
            another subject than the weight, where a snapshot has it: ``update.ledger`` (difference
            to the snapshot before), ``exp_avg.ledger`` and ``exp_avg_sq.ledger`` (Adam's moments).
        tensors: Regular expressions; a tensor (or module) that one of them finds is measured. None
            measures all.
        steps: Steps to measure; those that a run does not have are left out. None takes all.
        batch: Token ids ``[batch, length]`` for the metrics of a model; None takes the first
            held-out blocks of the run's corpus.
        source: The source model, or what :func:`hcviz.load` takes, for the metrics that compare
            with it; None takes it out of the run's first snapshot.
        cache: Whether to keep results beside the run, and to use those kept.
        progress: Show a progress bar.

    Returns:
        A tidy frame with the columns run, step, tensor, layer, part, axis, metric, row, col, value.
        Metrics of copies leave out runs that are no clones.

    Raises:
        HcvizError: If a metric is unknown, or no tensor or step is left.

    Example:
        >>> measure("runs/demo/symmetric", metrics=["ledger"], tensors="mlp")  # doctest: +SKIP
    """
    asked = {label: resolve(label) for label in metrics}
    runs = run if isinstance(run, list | tuple) else [run]
    finds = finder(tensors)
    wanted = None if steps is None else set(steps)
    models = [label for label, (_, entry) in asked.items() if entry.of == "model"]
    weights = {label: both for label, both in asked.items() if label not in models}
    rows, work, caches = [], [], {}
    for one in runs:
        one = one if isinstance(one, Run) else Run(one)
        live = _live_rows(one, weights)
        there = sorted({*one.steps, *(step for _, _, step in live)})
        chosen = [step for step in there if wanted is None or step in wanted]
        if not chosen:
            raise HcvizError(
                f"{one.name} has the steps {there}, none of the asked {sorted(steps)}."
            )
        snapshots = [step for step in one.steps if step in chosen]
        if weights:
            names = _names(one, snapshots, live)
            found = list(filter(finds, names))
            if not found:
                told = f"it has {', '.join(names[:4])}, ..."
                raise HcvizError(f"No tensor of {one.name} matches {tensors!r}; {told}")
            work += [(one, chosen, name, live) for name in found]
        caches[one] = Cache(one.cache_folder if cache else None)
        with naming(one.path or one.name):
            measured = measure_models(
                one, snapshots, models, batch=batch, source=source, cache=caches[one]
            )
            rows += [row for row in measured if finds(row["tensor"])]
    bar = tqdm(work, desc="measuring", unit="tensor", disable=not progress)
    try:
        for one, chosen, name, live in bar:
            with naming(one.path or one.name):
                rows += _measure_tensor(one, chosen, name, weights, live, caches[one])
            caches[one].commit()
    finally:
        for kept in caches.values():
            kept.close()
    place = {one.name: number for number, one in enumerate(caches)}
    rows.sort(key=lambda row: (place.get(row["run"], -1), row["step"]))  # stable: tensors in order
    return table(rows)


def metric_rows(
    asked: Asked,
    get: Callable[[str], torch.Tensor | int | None],
    *,
    name: str,
    step: int,
    axes: TensorAxes,
    factors: Mapping[str, Any],
) -> Iterator[Row]:
    """Yield the rows of one tensor at one step; ``get`` gives its subjects and the extras."""
    get = functools.cache(get)
    updates = functools.cache(lambda: update_of(get(""), get("previous")))
    for label, (subject, entry) in asked.items():
        taken = updates() if subject == "update" else get(subject)
        if taken is None:
            continue
        extras = {extra: get(extra) for extra in entry.needs}
        where = {"step": step, "tensor": name, "layer": layer_of(name), "part": "", "metric": label}
        for row in entry.function(taken, axes, factors, **extras):
            yield where | row


def axes_of(layout: Mapping[str, TensorAxes], name: str, tensor: torch.Tensor) -> TensorAxes:
    """Return a tensor's axes; where nothing is known of them, none that grows."""
    plain = (Dim("keep", (Segment(((None, size),)),)) for size in tensor.shape)
    return layout.get(name) or tuple(plain)


def known_layout(read: Callable[[], Mapping[str, TensorAxes]], is_clone: bool) -> Mapping:
    """Return a layout; none for a model that is no clone and whose architecture is not read."""
    try:
        return read()
    except CloneError:
        if is_clone:
            raise
        return {}


def fitting(asked: Asked, is_clone: bool) -> dict[str, tuple[str, Entry]]:
    """Leave out the metrics of copies where there are none."""
    return {label: both for label, both in asked.items() if is_clone or not both[1].needs_clone}


def _live_rows(run: Run, asked: Asked) -> dict[tuple[str, str, int], list[Row]]:
    """Return what the run measured of the asked metrics, by name, tensor and step."""
    frame, found = run.metrics, {}
    for row in as_rows(frame[frame["metric"].isin(list(asked))]):
        found.setdefault((row["metric"], row["tensor"], row["step"]), []).append(row)
    return found


def _names(run: Run, steps: Sequence[int], live: Mapping) -> list[str]:
    """Return the tensors that any of the steps has: parameters, where the model is understood."""
    there = {name for step in steps for name in run.names(step)}
    layout = known_layout(lambda: run.layout, run.is_clone)
    known = {name for name in there if not layout or name in layout}
    return sorted(known | {name for _, name, _ in live}, key=natural)


def _measure_tensor(
    run: Run, steps: Sequence[int], name: str, asked: Asked, live: Mapping, cache: Cache
) -> Iterator[Row]:
    """Yield the rows of one tensor at all steps; no weight is read twice."""
    asked = fitting(asked, run.is_clone)
    layout = known_layout(lambda: run.layout, run.is_clone)
    factors = run.factors if run.is_clone else {}
    reader = TensorReader(run, name)
    for step in steps:
        rows = {label: live.get((label, name, step)) for label in asked}
        marks = {}
        for label, (subject, entry) in asked.items() if reader.has(step) else ():
            if rows[label] is None:
                mark = reader.mark(step, subject, entry, layout.get(name), factors)
                rows[label] = cache.get(f"{label}/{name}/{step}", mark)
                marks |= {label: mark} if rows[label] is None else {}
        if marks:
            todo, get = {label: asked[label] for label in marks}, partial(reader.get, step)
            where = {"name": name, "step": step, "axes": axes_of(layout, name, get(""))}
            found = metric_rows(todo, get, **where, factors=factors)
            rows |= {label: [] for label in marks}
            for row in found:
                rows[row["metric"]].append(row)
            for label, mark in marks.items():
                cache.put(f"{label}/{name}/{step}", mark, rows[label])
        for label in asked:
            yield from ({**row, "run": run.name} for row in rows[label] or ())

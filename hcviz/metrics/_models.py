"""Metrics of whole models: the text they read, the source they are compared with, their rows."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hcviz.cloning.declone import declone
from hcviz.errors import HcvizError
from hcviz.io.files import layer_of, natural
from hcviz.io.sources import load, tokenizer_for
from hcviz.metrics._curvature import divisor
from hcviz.metrics._reading import code_mark, is_ours
from hcviz.metrics._registry import METRICS, Row
from hcviz.runs.moments import divisors, moments_mark
from hcviz.runs.rows import Cache, fingerprint
from hcviz.runs.run import Run
from hcviz.text.corpus import heldout_blocks

LENGTH = 256
"""Most tokens in a block of the default text."""
STEPS = 64
"""Blocks from which the size of gradients is taken, where a checkpoint does not keep it."""


def measure_models(
    run: Run,
    steps: Sequence[int],
    metrics: Sequence[str],
    *,
    batch: torch.Tensor | None,
    source,
    cache: Cache,
) -> Iterator[Row]:
    """Yield the rows of metrics of the whole model, one snapshot in memory at a time.

    Snapshots that keep chosen tensors only are passed over. Rows are kept in the cache, unless the
    source is given as a model, whose weights nobody can tell again.

    Raises:
        HcvizError: If none of the steps has a whole model.
    """
    entries = {m: METRICS[m] for m in metrics if run.is_clone or not METRICS[m].needs_clone}
    if not entries:
        return

    def lacks(step: int) -> list[str]:
        return sorted(run.layout.keys() - run.names(step), key=natural)

    missing = {step: lacks(step) for step in steps}
    steps = [step for step in steps if not missing[step]]
    if not steps:
        step, names = next(iter(missing.items()))
        raise HcvizError(
            f"{', '.join(entries)} need a whole model, and of {', '.join(map(str, missing))} "
            f"{run.name} keeps chosen tensors only (at step {step} {len(names)} are missing, for "
            f"example {names[0]}). Ask for the steps that are whole."
        )
    asked, kept = {extra for entry in entries.values() for extra in entry.needs}, {}
    origin = next(step for step in run.steps if not lacks(step)) if "start" in asked else None
    for step in steps:
        for label, entry in entries.items():
            first = source is None and "source" in entry.needs  # which is taken out of it
            steps_read = {step, *run.steps[: int(first)]}
            steps_read |= {origin} if "start" in entry.needs else set()
            mark = _mark(run, steps_read, batch, source) if is_ours(entry) else None
            if mark and "moments" in entry.needs:
                mark = fingerprint(mark, moments_mark(run.stored(step).folder))
            kept[step, label] = mark, cache.get(f"{label}//{step}", mark)
    todo = {step for (step, _), (_, rows) in kept.items() if rows is None}
    given, text = {}, batch
    if todo and "source" in asked:
        given["source"] = source_of(run, source)
    if todo and "start" in asked:
        given["start"] = run.model(origin)
    for step in steps:
        model = run.model(step) if step in todo else None
        if model is not None and text is None:
            text = text_of(run, model)
        for label, entry in entries.items():
            mark, rows = kept[step, label]
            if rows is None:
                extras = {extra: given[extra] for extra in entry.needs if extra in given}
                if "moments" in entry.needs:
                    extras["moments"] = _moments(run, step, model, text)
                factors = run.factors if run.is_clone else {}
                read = text[: entry.blocks if batch is None else None].to(model.device)
                found = entry.function(model, read, run.layout, factors, **extras)
                where = {"step": step, "part": "", "metric": label}
                rows = [where | {"layer": layer_of(row["tensor"])} | row for row in found]
                cache.put(f"{label}//{step}", mark, rows)
            yield from ({**row, "run": run.name} for row in rows)
    cache.commit()


def _mark(run: Run, steps: Collection[int], batch: torch.Tensor | None, source: Any) -> str | None:
    """Return the fingerprint of what a snapshot's rows come from; None: do not keep them."""
    if not isinstance(source, str | Path | None):
        return None
    source = source and str(source)
    text = run.info.get("corpus") if batch is None else batch.tolist()
    marks = [run.stored(one).mark for one in sorted(steps)]
    factors = sorted(run.factors.items()) if run.is_clone else []
    return fingerprint(marks, text, source, code_mark(), factors)


def _moments(run: Run, step: int, model: Any, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what Adam divides by: of the checkpoint, or else of steps on the run's own text."""
    if found := divisors(run.stored(step).folder):
        return found
    with contextlib.suppress(HcvizError):
        batch = text_of(run, model)[:STEPS]
    return divisor(model, batch.to(model.device), run.info.get("request", {}).get("batch_size"))


def text_of(run: Run, model: Any) -> torch.Tensor:
    """Return the held-out blocks of a run's corpus as its model's tokens: int64 [B, C].

    Raises:
        HcvizError: If the corpus cannot be read again.
    """
    corpus = {"name": "asv", "context": LENGTH, "holdout": 0.05, "seed": 0}
    corpus |= run.info.get("corpus") or {}
    most = getattr(model.config, "max_position_embeddings", None) or LENGTH
    length = min(corpus["context"], LENGTH, most)
    how = {"holdout": corpus["holdout"], "seed": corpus["seed"]}
    try:
        return heldout_blocks(corpus["name"], tokenizer=tokenizer_for(model), context=length, **how)
    except HcvizError as error:
        raise HcvizError(
            f"The corpus {corpus['name']!r} of {run.name} cannot be read again: {error} Pass "
            "batch=..., token ids [batch, length]."
        ) from error


def source_of(run: Run, source: Any) -> Any:
    """Return the source model of a run; None if it did not start from a clone.

    A clone before its first step, projected on its symmetric part, is its source: what an expansion
    adds cancels there.

    Raises:
        HcvizError: If the snapshot before the first step is gone and the source is not named.
    """
    recipe = run.info.get("clone") or {}
    if source is None and run.is_clone and run.steps[0] == 0:
        wide = run.model(0)
        wide.config.hcviz = getattr(wide.config, "hcviz", None) or recipe
        return declone(wide)[0]
    source = recipe.get("source") if source is None else source
    if source is None and run.is_clone:
        raise HcvizError(
            f"{run.name} has no snapshot of step 0, which holds its source, and run.json does not "
            "name it. Pass source=..., a model or what hcviz.load takes."
        )
    return load(source)[0] if isinstance(source, str | Path) else source

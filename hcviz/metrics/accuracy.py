"""evaluate(): accuracy on tasks, of models and of the snapshots of runs, as one tidy table."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from hcviz.errors import HcvizError
from hcviz.io.sources import load, place_of, tokenizer_for
from hcviz.metrics._harness import harness_rows, harness_task
from hcviz.metrics._reading import code_mark
from hcviz.metrics._tasks import option_scores, read_items, task_file, task_names
from hcviz.runs.rows import Cache, Row, fingerprint
from hcviz.runs.run import Run

COLUMNS = ["run", "step", "task", "metric", "value", "stderr", "chance", "items"]
Ready = Callable[[], tuple[nn.Module, Any]]
"""Gives a model and its tokenizer, when they are needed."""


def evaluate(
    model: Any,
    *,
    tasks: str | Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    limit: int | None = None,
    harness: bool = False,
    tokenizer: Any = None,
    cache: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how often models choose the right option of multiple-choice tasks.

    A model chooses the option that is likeliest after the context. The tasks that ship
    (``data/tasks``) are of held-out Bible text, for models as small as the shipped ones. Any other
    name is a task of lm-evaluation-harness, which brings its own metrics; it is in the extra
    ``hcviz[eval]``, and needs a network for the data of its tasks.

    Args:
        model: A run, a model in memory, a folder of either, a hub id or ``nano:NAME``; or a list.
        tasks: Names; None takes all that ship.
        steps: Steps of runs; those that a run does not have, or not whole, are left out. None takes
            all that are whole.
        limit: Only the first items of each task.
        harness: Have the harness score the tasks that ship, too: the same numbers, later.
        tokenizer: For models in memory; None finds it by their configuration.
        cache: Keep what the tasks that ship gave beside a run, and use what was kept.
        progress: Show a progress bar.

    Returns:
        A tidy frame with the columns run, step (none for a model), task, metric (``acc``), value,
        stderr, chance (what guessing gives) and items.

    Raises:
        HcvizError: If a task is unknown, the extra or the network is missing, or no step is left.

    Example:
        >>> frame = evaluate("nano:gpt-neox-quarter", tasks=["order"], limit=20)
        >>> frame[["task", "metric", "chance", "items"]].values.tolist()
        [['order', 'acc', 0.5, 20]]
    """
    asked = task_names() if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
    if not asked or (limit is not None and limit < 1):
        raise HcvizError(
            f"Nothing is asked for: tasks {asked}, limit {limit}. Ask for one or more."
        )
    ours = [name for name in asked if name in task_names() and not harness]
    theirs = [harness_task(name) for name in dict.fromkeys(asked) if name not in ours]
    wanted = None if steps is None else set(steps)
    rows = []
    for one in model if isinstance(model, list | tuple) else [model]:
        opened, kept = _open(one, wanted, tokenizer), Cache(None)
        if isinstance(opened, Run):
            kept = Cache(opened.cache_folder if cache else None)
            todo = list(_snapshots(opened, wanted))
        else:
            todo = [opened]
        try:
            for where, mark, ready in tqdm(todo, desc="evaluating", disable=not progress):
                found = [*_own_rows(ready, ours, limit, mark, where["step"], kept)]
                found += harness_rows(*ready(), theirs, limit) if theirs else []
                found.sort(key=lambda row: asked.index(row["task"]) if row["task"] in asked else -1)
                rows += [where | row for row in found]
        finally:
            kept.close()
    return pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64"})


def _open(spec: Any, steps: set[int] | None, tokenizer: Any) -> Run | tuple[Row, None, Ready]:
    """Return a run; or a model's name, and how it is made ready."""
    if isinstance(spec, Run):
        return spec
    if isinstance(spec, nn.Module):
        name = Path(getattr(spec.config, "name_or_path", "") or type(spec).__name__).name
        found = tokenizer or tokenizer_for(spec)
        return {"run": name, "step": None}, None, lambda: (spec, found)
    place = place_of(spec)
    if isinstance(place, Path) and any(place.glob("checkpoint-*")):
        return Run(place)
    if steps is not None:
        raise HcvizError(f"{str(spec)!r} is a model, which has no steps. Leave steps out.")
    return {"run": str(spec), "step": None}, None, functools.cache(lambda: load(spec))


def _snapshots(run: Run, steps: set[int] | None) -> Iterator[tuple[Row, Any, Ready]]:
    """Yield the whole snapshots of a run: where they stand, their mark, how they are made ready."""
    there = [step for step in run.steps if run.stored(step).kept is None]
    chosen = [step for step in there if steps is None or step in steps]
    if not chosen:
        raise HcvizError(
            f"{run.name} keeps whole models at the steps {there}, at none of the asked "
            f"{sorted(steps or ())}."
        )
    for step in chosen:

        def ready(step: int = step) -> tuple[nn.Module, Any]:
            model = run.model(step)
            return model, tokenizer_for(model)

        yield {"run": run.name, "step": step}, run.stored(step).mark, functools.cache(ready)


def _own_rows(
    ready: Ready, names: Sequence[str], limit: int | None, mark: Any, step: int | None, cache: Cache
) -> Iterator[Row]:
    """Yield a row for every task that ships."""
    for name in names:
        text = hashlib.sha256(task_file(name).read_bytes()).hexdigest()
        stamp = fingerprint(mark, text, limit, code_mark()) if mark else None
        rows = cache.get(f"accuracy/{name}/{step}", stamp)
        if rows is None:
            items = read_items(name)[:limit]
            scores = option_scores(*ready(), items)
            chosen = [max(range(len(one)), key=one.__getitem__) for one in scores]
            right = sum(one == item.answer for one, item in zip(chosen, items, strict=True))
            value, count = right / len(items), len(items)
            spread = math.sqrt(value * (1 - value) / (count - 1)) if count > 1 else math.nan
            chance = sum(1 / len(item.options) for item in items) / count
            row = {"task": name, "metric": "acc", "value": value, "stderr": spread}
            rows = [row | {"chance": chance, "items": count}]
            cache.put(f"accuracy/{name}/{step}", stamp, rows)
        yield from rows

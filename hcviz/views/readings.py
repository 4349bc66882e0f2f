"""What explore() shows of runs, each read once: corners, spectra, metrics; and its scales."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import Colormap, LogNorm, Normalize

from hcviz.errors import HcvizError
from hcviz.io.files import layer_of
from hcviz.metrics import attended, measure, patterns, resolve
from hcviz.plots import grids
from hcviz.runs.run import Run

LARGE, TOP = 1024, 64
"""Of a matrix whose smaller side is over LARGE the spectrum shows the TOP largest values."""
FLOOR = 1e-7
"""Singular values under this share of the largest are drawn as zero; they are good to 1e-8."""


def clones(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the runs that started from clones, by name.

    Raises:
        HcvizError: If there are none, or two have one name: one would hide the other.
    """
    found: dict[str, Run] = {}
    for run in runs:
        if not run.is_clone:
            continue
        if run.name in found:
            where = "..." if run.path is None else repr(str(run.path))
            raise HcvizError(
                f"{found[run.name]} and {run} have one name. Give one another: "
                f"hcviz.Run.of({where}, label='another name')."
            )
        found[run.name] = run
    if not found:
        names = ", ".join(run.name for run in runs)
        raise HcvizError(f"None of these runs ({names}) started from a clone: nothing to compare.")
    return found


def nearest(steps: Mapping[int, Any] | Sequence[int], step: int) -> int:
    """Return the last of the steps that is not after a step, or the first."""
    return max((one for one in steps if one <= step), default=min(steps))


def label_of(name: str) -> str:
    """Return the layer that a tensor's name tells, as a label."""
    layer = layer_of(name)
    return "none" if layer is None else str(layer)


def tail(name: str) -> str:
    """Return what a tensor is called inside its layer."""
    head, number, rest = name.partition(f".{label_of(name)}.")
    return (rest if number else head).removesuffix(".weight")


def of_model(metric: str) -> bool:
    """Tell whether a metric is one of whole models, which has no tensors."""
    return resolve(metric)[1].of == "model"


_SEEN: WeakKeyDictionary[Run, list] = WeakKeyDictionary()


def look_again(runs: Iterable[Run]) -> None:
    """Forget what was drawn of runs if the files of one have changed since it was looked at."""
    marks = {run: [run.stored(step).stamp for step in run.steps] for run in runs}
    if any(_SEEN.get(run, mark) != mark for run, mark in marks.items()):
        for kept in (names_of, steps_of, corners, spectrum, losses, rows, attention):
            kept.cache_clear()
    _SEEN.update(marks)


@lru_cache(maxsize=64)
def names_of(run: Run) -> list[str]:
    """Return the unfused matrices with copies, all equally often, that are stored or measured."""
    there = {*run.names(), *run.metrics["tensor"]}
    found = []
    for name in (name for name in run.layout if name in there):
        dims = run.layout[name]
        factors = [n for dim in dims for n in dim.segments[0].copies(run.factors)]
        whole = factors and all(n == int(n) for n in factors)
        if len(dims) == 2 and whole and all(len(dim.segments) == 1 for dim in dims):
            found.append(name)
    return found


@lru_cache(maxsize=1024)
def steps_of(run: Run, name: str) -> list[int]:
    """Return the steps whose snapshot holds a tensor."""
    return [step for step in run.steps if name in run.stored(step)]


@lru_cache(maxsize=1024)
def corners(run: Run, name: str, step: int) -> np.ndarray:
    """Return the corner of every block at a step, [n_written, n_read, rows, cols]."""
    blocks = run.blocks(name, nearest(steps_of(run, name), step))
    return blocks[:, :, : grids.CORNER, : grids.CORNER].double().numpy()


@lru_cache(maxsize=1024)
def spectrum(run: Run, name: str, step: int) -> np.ndarray:
    """Return the singular values over the largest, from the Gram matrix; the top of a large one."""
    weight = run.tensor(name, nearest(steps_of(run, name), step))
    if min(weight.shape) > LARGE:
        values = torch.svd_lowrank(weight.float(), q=TOP)[1]
    else:
        wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
        values = torch.linalg.eigvalsh(wide @ wide.T).flip(0).clamp_min(0).sqrt()
    return (values / values[0].clamp_min(1e-300)).clamp_min(FLOOR).numpy()


@lru_cache(maxsize=64)
def losses(run: Run) -> dict[int, float]:
    """Return step -> held-out loss, or that of the training batches where none was held out."""
    history = run.history
    heldout = history[history["split"] == "heldout"]
    return (heldout if len(heldout) else history).set_index("step")["loss"].to_dict()


@lru_cache(maxsize=256)
def rows(run: Run, names: tuple[str, ...], metric: str) -> pd.DataFrame:
    """Return the rows of a metric for some tensors; of a model's metric those of every layer."""
    if of_model(metric):
        found = measure(run, metrics=[metric])
        return found[found["layer"].notna()]
    exact = [f"^{re.escape(name)}$" for name in names]
    found = [name for name in names if steps_of(run, name) or (run.metrics["tensor"] == name).any()]
    return measure(run, metrics=[metric], tensors=exact) if found else run.metrics[:0]


def curves(run: Run, name: str, metric: str) -> dict[str, dict[int, float]]:
    """Return axis -> step -> value of a metric, mean over its rows; {} where it has none.

    The metric of a model has no tensors: its value is that of the tensor's layer.
    """
    found = rows(run, (name,), metric)
    if of_model(metric):
        found = found[found["layer"] == layer_of(name)]
    means = found.assign(axis=found["axis"].fillna("")).groupby(["axis", "step"])["value"].mean()
    return {axis: line.droplevel("axis").to_dict() for axis, line in means.groupby("axis")}


def by_layer(run: Run, names: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
    """Return layer -> step -> value of a metric for one tensor a layer, mean over axes and rows."""
    found = rows(run, tuple(names), metric)
    means = found.groupby(["layer", "step"])["value"].mean()
    return {str(layer): line.droplevel("layer").to_dict() for layer, line in means.groupby("layer")}


@lru_cache(maxsize=64)
def attention(run: Run, text: str, step: int) -> Any:
    """Return what every layer's heads look at in a text, which takes a pass of the whole model."""
    return attended(run, text, step)


def looks(run: Run, text: str, step: int, layer: str) -> pd.DataFrame:
    """Return where the heads of a layer look in a text; outside of layers those of a middle one.

    Raises:
        HcvizError: If model, tokenizer or attention cannot be had, or heads have no copies.
    """
    tensors = rf"^([a-zA-Z_]\w*\.)*{layer}\." if layer.isdigit() else None
    found = patterns(run, text, step=nearest(run.steps, step), tensors=tensors, read=attention)
    if not found["copy"].any():
        raise HcvizError("Its heads have no copies. Clone with heads=2.")
    return found


def difference(grid: np.ndarray) -> np.ndarray:
    """Return what sets the copies apart, those that are read if there are any."""
    return grids.apart(grid, "read" if grid.shape[1] > 1 else "written")


def spans(values: Sequence[float]) -> bool:
    """Tell whether values from zero up differ by more than a linear scale shows."""
    positive = [value for value in values if value > 0]
    return bool(positive) and min(values) >= 0 and max(values) > 100 * min(positive)


def shading(values: np.ndarray) -> tuple[Normalize, Colormap, float]:
    """Return a scale and colours for values, and what stands for 0 below a logarithmic scale."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0, 0)
    colors = mpl.colormaps["cividis"].with_extremes(under="#d8d8d8", bad="white")
    if not spans(finite.tolist()):
        return Normalize(low if high > low else low - 1, high), colors, 0.0
    low = max(finite[finite > 0].min(), 1e-9 * high)
    return LogNorm(low, high), colors, low / 2

"""diff(): two models tensor by tensor through the axis map: which weights moved, how far, where."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hcviz.architecture.axes import SYMMETRY, TensorAxes
from hcviz.architecture.blocks import pieces
from hcviz.architecture.factors import factors_between, parse_factors, read_factors
from hcviz.architecture.infer import meta_model, tensors
from hcviz.architecture.widths import widths
from hcviz.cloning.clone import decide
from hcviz.errors import HcvizError
from hcviz.io.files import layer_of
from hcviz.io.models import check_model
from hcviz.metrics import axes_of, known_layout
from hcviz.metrics._reading import open_run
from hcviz.runs.run import Run
from hcviz.widening.layout import layout
from hcviz.widening.request import CloneRequest

COLUMNS = ["tensor", "layer", "part", "moved", "symmetric", "R", "H", "N"]


@dataclass(frozen=True)
class _Side:
    """One of the two: its configuration and its tensors, read one at a time."""

    config: Any
    names: list[str]
    tensor: Callable[[str], torch.Tensor]
    factors: Mapping[str, Any]
    whole: bool = True
    """Whether it has all its tensors; a thinned snapshot has not."""


@torch.no_grad()
def diff(a: Any, b: Any, *, factors: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Compare two models tensor by tensor: a source and its clone, or a model and itself later.

    A source is widened symmetrically first, one tensor at a time, so that its clone can be compared
    with it in the clone's own shapes. All distances are Frobenius norms in float64 relative to that
    of ``a`` (widened). Along one axis the symmetric part is the mean over its copies; a change in
    the antisymmetric part of R is one that sets copies in the residual stream apart.

    Args:
        a: A model, a `Run` (its last step), a run's or a checkpoint's folder, a hub id or
            ``nano:NAME``.
        b: Likewise: of the same widths, or a clone of ``a``.
        factors: How ``b`` was cloned, as in `hcviz.clone`. None: what it says of itself, or else
            the ratio of the widths.

    Returns:
        One row per tensor and part of a fused one: ``moved``, the whole distance; ``symmetric``,
        its part that all copies share; ``R``, ``H``, ``N``, its antisymmetric part along each
        axis (NaN where a tensor has no such copies). Those of two axes overlap.

    Raises:
        HcvizError: If one has a tensor that the other lacks, or shapes that no factors explain.

    Example:
        >>> import hcviz
        >>> small, _ = hcviz.load("nano:llama")
        >>> frame = hcviz.diff(small, hcviz.clone(small, expansion="diagonal"))
        >>> frame = frame.set_index("tensor")
        >>> float(frame.loc["model.layers.0.mlp.up_proj.weight", "symmetric"])
        0.0
    """
    small, wide = _open(a), _open(b)
    same = widths(small.config) == widths(wide.config)
    found = parse_factors(wide.factors or (small.factors if same else {}))
    if factors:
        found = read_factors(small.config, factors, wide=False)
    elif not found and not same:
        found = factors_between(small.config, wide.config)
    before = small.tensor if same else _widened(small, wide, found)
    axes = known_layout(lambda: layout(wide.config, factors=found), bool(found))
    names = [n for n in wide.names if (n in small.names or not same) and (n in axes or not axes)]
    if not names:
        raise HcvizError(
            f"The two models share no tensor: {', '.join(small.names[:3])}, ... and "
            f"{', '.join(wide.names[:3])}, ... Compare models of one family."
        )
    if small.whole and wide.whole:
        _check_paired(small.names, wide.names, same)
    rows = []
    for name in names:
        old, new = before(name).double(), wide.tensor(name).double()
        if old.shape != new.shape:
            raise HcvizError(
                f"{name} is {tuple(old.shape)} in the one (widened by {found}) and "
                f"{tuple(new.shape)} in the other. Pass factors=..., as the clone was made."
            )
        parts = _split(new - old, old, axes_of(axes, name, new), found)
        rows += [{"tensor": name, "layer": layer_of(name), **part} for part in parts]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})


def _check_paired(small: list[str], wide: list[str], same: bool) -> None:
    """Refuse two models of which one has a tensor that the other lacks."""
    lone = [name for name in small if name not in wide]
    lone += [name for name in wide if same and name not in small]  # a clone may untie its head
    if lone:
        raise HcvizError(
            f"Only one of the two models has {lone[0]} ({len(lone)} tensors in all), so they "
            "cannot be compared. Give two models of one architecture and depth."
        )


def _split(
    change: torch.Tensor, old: torch.Tensor, axes: TensorAxes, factors: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the relative size of a change in each sector, for every part of a tensor."""
    sums: dict[str, dict[str, float]] = {}
    both = (pieces(tensor, axes, factors) for tensor in (change, old))
    for blocks, start in zip(*both, strict=True):
        part = sums.setdefault(blocks.part, dict.fromkeys(("base", "moved", "symmetric"), 0.0))
        copies = list(range(len(blocks.copy_axes)))
        mean = blocks.view.mean(copies) if copies else blocks.view
        number = math.prod(blocks.view.shape[: len(copies)])
        part["base"] += start.view.square().sum().item()
        part["moved"] += blocks.view.square().sum().item()
        part["symmetric"] += number * mean.square().sum().item()
        for letter in {SYMMETRY[axis] for axis in blocks.copy_axes if axis in SYMMETRY}:
            dims = [d for d, axis in enumerate(blocks.copy_axes) if SYMMETRY.get(axis) == letter]
            first = blocks.view
            for d in dims:
                first = first.narrow(d, 0, 1)
            away = blocks.view - first  # exactly zero where the copies' changes are equal
            away = (away - away.mean(dims, keepdim=True)).square().sum().item()
            part[letter] = part.get(letter, 0.0) + away
    for name, part in sums.items():
        base = part.pop("base")
        scale = {key: math.sqrt(v / base) if base else math.inf * v for key, v in part.items()}
        yield {"part": name, **scale}


def _widened(small: _Side, wide: _Side, factors: Mapping[str, Any]) -> Callable:
    """Return what gives a tensor of the symmetric clone of the smaller model."""
    model = meta_model(small.config, AutoModelForCausalLM._model_mapping[type(small.config)])
    tied = getattr(wide.config, "tie_word_embeddings", False)
    sizes = {axis: factor for axis, factor in factors.items() if axis != "group"}
    sizes["heads"] = factors["kv_heads"] * factors["group"]
    planned = decide(model, CloneRequest(**sizes, tie="keep" if tied else "untie", check=False))
    source = {planned.head: planned.embedding} if planned.head else {}
    return lambda name: planned.widened(name, small.tensor(source.get(name, name)))


def _open(spec: Any) -> _Side:
    """Return a model, a run, or what a path or id names, ready to be read."""
    if isinstance(spec, torch.nn.Module):
        check_model(spec)
    if isinstance(spec, PreTrainedModel):
        found = tensors(spec)
        factors = (getattr(spec.config, "hcviz", None) or {}).get("factors") or {}
        return _Side(spec.config, list(found), lambda name: found[name].detach(), factors)
    run = spec if isinstance(spec, Run) else open_run(spec)
    stored = run.stored()
    stored.check()
    factors = run.factors if run.is_clone else {}
    return _Side(run.config, run.names(), run.tensor, factors, stored.kept is None)

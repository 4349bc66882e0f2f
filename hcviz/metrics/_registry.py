"""Where metrics are registered, and what each of them is given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hcviz.blocks import Blocks, TensorAxes, pieces

COLUMNS = ["run", "step", "tensor", "layer", "part", "axis", "metric", "row", "col", "value"]
Row = dict[str, Any]
Metric = Callable[..., Iterator[Row]]

EXTRAS = ("start", "previous")
"""What a metric may ask for by name: the same tensor at the run's first snapshot, and at the one
before (None at the first)."""


@dataclass(frozen=True)
class Entry:
    """A registered metric."""

    function: Metric
    needs_clone: bool
    """Whether it compares copies; a run without a clone is skipped then."""
    needs: tuple[str, ...] = ()
    """Further tensors that it is given by keyword; names from :data:`EXTRAS`."""

    @property
    def help(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


METRICS: dict[str, Entry] = {}


def metric(
    name: str, *, needs_clone: bool = True, needs: tuple[str, ...] = ()
) -> Callable[[Metric], Metric]:
    """Register a metric under a name for :func:`hcviz.measure`.

    The function takes a wide weight, its axes in source units and the factors, and by keyword what
    it ``needs``. It yields rows: a dict with ``value`` and, where they say something, ``part``,
    ``axis``, ``row`` and ``col``.
    """

    def register(function: Metric) -> Metric:
        METRICS[name] = Entry(function, needs_clone, needs)
        return function

    return register


def exact_pieces(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[Blocks]:
    """Yield the pieces of a weight in float64, where one bit of difference shows."""
    return pieces(weight.double(), axes, factors)


def is_table(axes: TensorAxes) -> bool:
    """Tell whether a weight is looked up by index (an embedding): nothing in it reads copies."""
    return len(axes) == 2 and axes[0].role == "read" and not axes[0].segments[0].axes()

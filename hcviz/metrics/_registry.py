"""Where metrics are registered, and what each of them is given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hcviz.architecture.axes import TensorAxes
from hcviz.architecture.blocks import Blocks, pieces
from hcviz.runs.rows import COLUMNS, Row

__all__ = ["COLUMNS", "METRICS", "Entry", "Row", "metric"]
Metric = Callable[..., Iterator[Row]]

EXTRAS = ("start", "previous", "gap", "source", "moments")
"""What a metric may ask for by name. One of a weight: the same tensor at the run's first snapshot,
and at the one before (None at the first), and how many steps ago that was. One of a model: the
model at the first whole snapshot, the source (None without a clone), and by tensor what its Adam
divides by (None: not kept)."""


@dataclass(frozen=True)
class Entry:
    """A registered metric."""

    function: Metric
    needs_clone: bool
    """Whether it compares copies; a run without a clone is skipped then."""
    needs: tuple[str, ...] = ()
    """What else it is given by keyword; names from :data:`EXTRAS`."""
    of: str = "weight"
    """What it measures: one ``weight`` after the other, or the whole ``model`` on a text."""
    blocks: int = 4
    """Of one of a model: how many blocks of held-out text it takes, unless a text is given."""

    @property
    def help(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


METRICS: dict[str, Entry] = {}


def metric(
    name: str,
    *,
    needs_clone: bool = True,
    needs: tuple[str, ...] = (),
    of: str = "weight",
    blocks: int = 4,
) -> Callable[[Metric], Metric]:
    """Register a metric under a name for :func:`hcviz.measure`.

    The function takes a wide weight, its axes in source units and the factors, and by keyword what
    it ``needs``. It yields rows: a dict with ``value`` and, where they say something, ``part``,
    ``axis``, ``row`` and ``col``. One ``of="model"`` takes a model in eval mode, token ids
    ``[batch, length]``, the axes of all its tensors and the factors; its rows also hold ``tensor``,
    the path of a module.
    """

    def register(function: Metric) -> Metric:
        METRICS[name] = Entry(function, needs_clone, needs, of, blocks)
        return function

    return register


def exact_pieces(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[Blocks]:
    """Yield the pieces of a weight in float64, where one bit of difference shows."""
    return pieces(weight.double(), axes, factors)


def is_table(axes: TensorAxes) -> bool:
    """Tell whether a weight is looked up by index (an embedding): nothing in it reads copies."""
    return len(axes) == 2 and axes[0].role == "read" and not axes[0].segments[0].axes()


def is_stack(axes: TensorAxes) -> bool:
    """Tell whether a tensor stacks matrices, those of experts, along its first dimension."""
    return len(axes) == 3 and axes[0].role == "write" and not axes[0].axes()

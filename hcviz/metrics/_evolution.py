"""Metrics of evolution: how large a weight is, how far it has moved, and where its entries lie.

All work in float64 and need no clone. Where a norm of zero leaves a ratio undefined it is NaN.
"""

import math
from collections.abc import Iterator

import torch

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.metrics._registry import Row, metric

BINS, REACH = 64, 4.0
"""Bins of the histogram, and how many root mean squares of the start they reach to each side."""


@metric("norm", needs_clone=False)
def norm(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Frobenius norm of the tensor."""
    yield {"value": weight.double().norm().item()}


@metric("distance", needs_clone=False, needs=("start",))
def distance(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors, start: torch.Tensor
) -> Iterator[Row]:
    """Distance from the start of the run, relative to the norm there: ||W - W0|| / ||W0||."""
    yield {"value": _ratio(weight, start)}


@metric("turn", needs_clone=False, needs=("start", "previous"))
def turn(
    weight: torch.Tensor,
    axes: TensorAxes,
    factors: Factors,
    start: torch.Tensor,
    previous: torch.Tensor | None,
) -> Iterator[Row]:
    """Angle in degrees to the weight at the start and at the snapshot before; axis says which."""
    for axis, other in (("start", start), ("previous", previous)):
        if other is not None:
            yield {"axis": axis, "value": _angle(weight.double(), other.double())}


@metric("update", needs_clone=False, needs=("previous", "gap"))
def update(
    weight: torch.Tensor,
    axes: TensorAxes,
    factors: Factors,
    previous: torch.Tensor | None,
    gap: int | None,
) -> Iterator[Row]:
    """Update-to-weight ratio per step since the snapshot before: ||W - W'|| / (gap ||W'||).

    Over several steps it is a lower bound of their mean: steps that undo each other do not count.
    """
    if previous is not None:
        yield {"value": _ratio(weight, previous) / gap}


@metric("flips", needs_clone=False, needs=("start",))
def flips(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors, start: torch.Tensor
) -> Iterator[Row]:
    """Share of entries whose sign is opposite to the start's; an entry that is 0 has no sign."""
    yield {"value": (weight.sign() * start.sign() < 0).double().mean().item()}


@metric("histogram", needs_clone=False, needs=("start",))
def histogram(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors, start: torch.Tensor
) -> Iterator[Row]:
    """Share of entries per bin (row), in 64 equal bins that stay the same over a run.

    They span 4 root mean squares of the start to each side of zero (of a start at zero: 4). Two
    rows, axis ``low`` and ``high``, hold the outer edges; ``under`` and ``over`` the share beyond.
    """
    edge = REACH * (start.double().square().mean().sqrt().item() or 1.0)
    flat = weight.double().flatten()
    under, over = (flat < -edge).sum().item(), (flat > edge).sum().item()
    counts = torch.histc(flat.cpu(), BINS, -edge, edge).tolist()
    yield from ({"axis": axis, "value": value} for axis, value in (("low", -edge), ("high", edge)))
    rest = (("under", under), ("over", over))
    yield from ({"axis": axis, "value": count / len(flat)} for axis, count in rest)
    yield from ({"row": row, "value": count / len(flat)} for row, count in enumerate(counts))


def _ratio(weight: torch.Tensor, other: torch.Tensor) -> float:
    """Return ||weight - other|| / ||other||."""
    size = other.double().norm().item()
    return (weight.double() - other.double()).norm().item() / size if size else math.nan


def _angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the angle in degrees; exact for small ones, where an arc cosine loses all digits.

    Source: W. Kahan, "How futile are mindless assessments of roundoff", 2006, section 12.
    """
    if not (a.any() and b.any()):
        return math.nan
    a, b = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2((a - b).norm().item(), (a + b).norm().item()))

"""A wide weight as a grid of source-shaped blocks: views by its axis map."""

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hcviz.architecture.axes import (
    PADDED,
    Dim,
    Factors,
    Span,
    TensorAxes,
    spans,
    wide_level,
    wide_shape,
)
from hcviz.errors import HcvizError


@dataclass(frozen=True)
class Blocks:
    """One unfused piece of a wide tensor as a view, copies first.

    ``view`` has the shape ``[*write_copies, *read_copies, *inner]``: copies of written units,
    copies of units that are read, then the source's own levels, written ones first.
    """

    part: str
    view: torch.Tensor
    write_copies: tuple[int, ...]
    read_copies: tuple[int, ...]
    copy_axes: tuple[str, ...]
    """The axis of each leading dimension of ``view``."""
    inner_axes: tuple[str | None, ...]
    """The axis of each of the other dimensions of ``view``."""
    rows: int

    def grid(self) -> torch.Tensor:
        """Return ``[n_written, n_read, rows, cols]``; a view where one level grows a side."""
        copies = (math.prod(self.write_copies), math.prod(self.read_copies))
        return self.view.reshape(*copies, self.rows, -1)


def pieces(
    tensor: torch.Tensor, axes: TensorAxes, factors: Factors, *, wide: bool = True
) -> Iterator[Blocks]:
    """Yield each piece of a tensor as :class:`Blocks`; its view can be written to.

    A piece is one unfused part whose units have equally many copies. Padding is in none of them.

    Args:
        tensor: A wide tensor, of shape ``wide_shape(axes, factors)``, or its source's.
        axes: Its axis map, in units of the source.
        factors: The factor of each axis; axes not named did not grow.
        wide: Whether it is the wide tensor; the source's pieces come in the same order, without
            copies.

    Raises:
        HcvizError: If the tensor's shape is not the one that axes and factors give.
    """
    expected, plans = _plans(axes, tuple(factors.items()), wide)
    if tuple(tensor.shape) != expected:
        raise HcvizError(
            f"A tensor of shape {tuple(tensor.shape)} does not fit the factors "
            f"{dict(factors) if wide else {}}, which give {expected}. Pass the factors that the "
            "clone was made with."
        )
    strides, offset = tensor.stride(), tensor.storage_offset()
    for plan in plans:
        first = offset + sum(map(operator.mul, plan.starts, strides))
        view = tensor.as_strided(plan.sizes, [step * strides[d] for d, step in plan.steps], first)
        yield Blocks(plan.part, view, *plan.rest)


@dataclass(frozen=True)
class _Plan:
    """Where a piece lies in a tensor, whatever the tensor's strides."""

    part: str
    starts: tuple[int, ...]
    """The first unit along every dimension of the tensor."""
    sizes: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    """Of each dimension of the view: the tensor's dimension that it lies in, and its step there."""
    rest: tuple
    """The other fields of :class:`Blocks`."""


@functools.lru_cache(4096)
def _plans(axes: TensorAxes, factors: tuple, wide: bool) -> tuple[tuple[int, ...], list[_Plan]]:
    """Return the shape of a tensor and where its pieces lie; layers share the answer."""
    factors = dict(factors)
    grown = factors if wide else {}
    stretches = [list(_stretches(dim, factors, grown)) for dim in axes]
    plans = [_plan(axes, choice, copied=wide) for choice in itertools.product(*stretches)]
    return wide_shape(axes, grown), plans


@dataclass(frozen=True)
class _Level:
    """One level of a stretch of a dimension, in a tensor: where its units and copies lie."""

    axis: str | None
    span: Span
    step: int
    """Distance of two units, along the dimension."""
    lap: int
    """Distance of two copies of a unit."""


def _stretches(dim: Dim, factors: Factors, grown: Factors) -> Iterator[tuple[str, int, list]]:
    """Yield the label, the start and the levels of every stretch of a dimension."""
    start = 0
    for segment in dim.segments:
        sizes = [wide_level(axis, size, grown) for axis, size in segment.levels]
        steps = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
        options = [spans(axis, size, factors) for axis, size in segment.levels]
        for chosen in itertools.product(*options):
            levels = [
                _Level(axis, span, step, step * size)
                for (axis, size), span, step in zip(segment.levels, chosen, steps, strict=True)
            ]
            uneven = [f"{s.copies}x" for s, every in zip(chosen, options, strict=True) if every[1:]]
            label = " ".join([segment.part, *uneven]).strip()
            yield label, start + sum(level.span.first * level.step for level in levels), levels
        start += math.prod(sizes)


def _plan(axes: TensorAxes, choice, *, copied: bool) -> _Plan:
    """Put the copies of one stretch of every dimension at the front."""
    found, rows = [], 1  # (group 0..3, axis, size, (dimension, step)) of every one of the view
    for d, (dim, (_, _, levels)) in enumerate(zip(axes, choice, strict=True)):
        reads = dim.role == "read"
        for level in levels:
            copies = level.span.copies if copied else 1
            if copies > 1:
                found.append((1 if reads else 0, level.axis, copies, (d, level.lap)))
            found.append((3 if reads else 2, level.axis, level.span.count, (d, level.step)))
            rows *= 1 if reads else level.span.count
    found.sort(key=lambda level: level[0])
    return _Plan(
        part="/".join(label for label, _, _ in choice if label),
        starts=tuple(start for _, start, _ in choice),
        sizes=tuple(size for _, _, size, _ in found),
        steps=tuple(step for *_, step in found),
        rest=(
            tuple(size for kind, _, size, _ in found if kind == 0),
            tuple(size for kind, _, size, _ in found if kind == 1),
            tuple(axis for kind, axis, *_ in found if kind < 2),
            tuple(axis for kind, axis, *_ in found if kind >= 2),
            rows,
        ),
    )


def padding(
    tensor: torch.Tensor, axes: TensorAxes, factors: Factors
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield, for each dimension with padding: its number, the padding, and the first copy.

    Both are views of the tensor, whole along its other dimensions.
    """
    for d, dim in enumerate(axes):
        start = 0
        for segment in dim.segments:
            wide = segment.wide_size(factors)
            (axis, size), outer = segment.levels[-1], segment.levels[:-1]
            rest = wide_level(axis, size, factors) % size if axis in PADDED else 0
            if rest:
                laps = math.prod(n for _, n in outer)
                parts = tensor.narrow(d, start, wide).unflatten(d, (laps, wide // laps))
                length = wide // laps
                yield (d, parts.narrow(d + 1, length - rest, rest), parts.narrow(d + 1, 0, size))
            start += wide


def grid(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> torch.Tensor:
    """Return a wide weight as a grid of source-shaped blocks.

    Args:
        weight: A wide tensor that is not fused from several parts (see :func:`pieces` for those).
        axes: Its axis map, ``hcviz.layout(model)[name]``.
        factors: The factor of each axis.

    Returns:
        ``[n_written, n_read, rows, cols]``, rows being written units; a view where memory allows.

    Raises:
        HcvizError: If the shapes do not fit, or the tensor is fused from several segments.

    Example:
        >>> from hcviz.architecture.axes import Dim, Segment
        >>> rows = Dim("write", (Segment((("ffn", 2),)),))
        >>> square = (rows, Dim("read", (Segment((("hidden", 2),)),)))
        >>> grid(torch.arange(16.0).view(4, 4), square, {"hidden": 2, "ffn": 2})[0, 1]
        tensor([[2., 3.],
                [6., 7.]])
    """
    found = list(pieces(weight, axes, factors))
    if len(found) != 1:
        parts = [blocks.part for blocks in found]
        raise HcvizError(
            f"This weight is fused from {parts}; take its blocks one by one with pieces()."
        )
    return found[0].grid()

"""A wide weight as a grid of source-shaped blocks: the axis map of a tensor, and views by it."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

RESIDUAL, HEADS, NEURONS = "R", "H", "N"
SYMMETRY = {
    "hidden": RESIDUAL,
    "kv_heads": HEADS,
    "group": HEADS,
    "head_dim": HEADS,
    "ffn": NEURONS,
    "expert_ffn": NEURONS,
}
"""The symmetry that the copies of an axis have: residual stream, attention heads, FFN neurons."""
PADDED = ("hidden",)
"""Axes whose units have equally many copies: a norm over them would weigh them otherwise. What
a factor leaves over is padding. Of other axes the first units get one copy more."""
Factors = Mapping[str, int | Fraction]


@dataclass(frozen=True)
class Span:
    """Units of one level that have equally many copies: copy c of unit i is at ``c * size + i``."""

    first: int
    count: int
    copies: int


def spans(axis: str | None, size: int, factors: Factors) -> list[Span]:
    """Return the stretches of a level by their number of copies; padding is in none of them."""
    whole, rest = divmod(int(size * factors.get(axis, 1)), size)
    if not rest or axis in PADDED:
        return [Span(0, size, whole)]
    return [Span(0, rest, whole + 1), Span(rest, size - rest, whole)]


def wide_level(axis: str | None, size: int, factors: Factors) -> int:
    """Return the number of units that a level grows to.

    Raises:
        ValueError: If it is not whole.
    """
    wide = size * factors.get(axis, 1)
    if wide.denominator != 1:
        raise ValueError(f"{axis}: {size} units times {factors[axis]} is no whole number.")
    return int(wide)


@dataclass(frozen=True)
class Segment:
    """A stretch of a dimension that one kind of units fills, from its outer to its inner level.

    The query rows of an attention with 2 key/value heads, 3 query heads each, of size 8, are
    ``(("kv_heads", 2), ("group", 3), (None, 8))``; a level named None never grows.
    """

    levels: tuple[tuple[str | None, int], ...]
    part: str = ""
    """What this stretch is inside a fused matrix: q, k, v, gate, up; empty if it is the whole."""

    @property
    def size(self) -> int:
        """Length in source units."""
        return math.prod(size for _, size in self.levels)

    def copies(self, factors: Factors) -> tuple[int | Fraction, ...]:
        """Factor of each level that grows."""
        return tuple(factors[axis] for axis, _ in self.levels if factors.get(axis, 1) > 1)

    def wide_size(self, factors: Factors) -> int:
        """Length in the wide tensor."""
        return math.prod(wide_level(axis, size, factors) for axis, size in self.levels)

    def axes(self) -> tuple[str, ...]:
        """The growing axes, outer first."""
        return tuple(axis for axis, _ in self.levels if axis)


@dataclass(frozen=True)
class Dim:
    """One dimension of a tensor: its units, and whether they are written, read, or neither."""

    role: str
    """"write" (repeated), "read" (repeated, and the copies share the weight) or "keep"."""
    segments: tuple[Segment, ...]

    def wide_size(self, factors: Factors) -> int:
        """Length in the wide tensor."""
        return sum(segment.wide_size(factors) for segment in self.segments)

    def __str__(self) -> str:
        names = [
            ("+".join(s.axes()) or str(s.size)) + (f"({s.part})" if s.part else "")
            for s in self.segments
        ]
        return f"{self.role} {', '.join(names)}"


TensorAxes = tuple[Dim, ...]
"""The axis map of one tensor, a :class:`Dim` for each dimension."""


def wide_shape(axes: TensorAxes, factors: Factors) -> tuple[int, ...]:
    """Return the shape of a tensor after its axes have grown."""
    return tuple(dim.wide_size(factors) for dim in axes)


def source_units(axes: TensorAxes, factors: Factors) -> TensorAxes:
    """Return the axes of a wide tensor in the units of its source.

    Raises:
        ValueError: If a level is no multiple of its axis's factor.
    """

    def small(axis: str | None, size: int) -> int:
        units = size / Fraction(factors.get(axis, 1))
        if units.denominator != 1:
            raise ValueError(
                f"{axis} has {size} units, which is no multiple of the factor {factors[axis]}."
            )
        return int(units)

    return tuple(
        Dim(
            dim.role,
            tuple(
                Segment(tuple((a, small(a, n)) for a, n in s.levels), s.part) for s in dim.segments
            ),
        )
        for dim in axes
    )


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
        ValueError: If the tensor's shape is not the one that axes and factors give.
    """
    grown = factors if wide else {}
    expected = wide_shape(axes, grown)
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"A tensor of shape {tuple(tensor.shape)} does not fit the factors {dict(grown)}, "
            f"which give {expected}. Pass the factors that the clone was made with."
        )
    stretches = [list(_stretches(dim, factors, grown)) for dim in axes]
    for choice in itertools.product(*stretches):
        yield _blocks(tensor, axes, choice, copied=wide)


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


def _blocks(tensor: torch.Tensor, axes: TensorAxes, choice, *, copied: bool) -> Blocks:
    """View one stretch of every dimension with its copies at the front."""
    found = []  # (group 0..3, axis, size, stride) of every dimension of the view
    offset, rows = tensor.storage_offset(), 1
    for dim, (_, start, levels), stride in zip(axes, choice, tensor.stride(), strict=True):
        reads = dim.role == "read"
        offset += start * stride
        for level in levels:
            copies = level.span.copies if copied else 1
            if copies > 1:
                found.append((1 if reads else 0, level.axis, copies, level.lap * stride))
            found.append((3 if reads else 2, level.axis, level.span.count, level.step * stride))
            rows *= 1 if reads else level.span.count
    found.sort(key=lambda level: level[0])
    return Blocks(
        part="/".join(label for label, _, _ in choice if label),
        view=tensor.as_strided(
            [size for _, _, size, _ in found], [stride for *_, stride in found], offset
        ),
        write_copies=tuple(size for kind, _, size, _ in found if kind == 0),
        read_copies=tuple(size for kind, _, size, _ in found if kind == 1),
        copy_axes=tuple(axis for kind, axis, *_ in found if kind < 2),
        inner_axes=tuple(axis for kind, axis, *_ in found if kind >= 2),
        rows=rows,
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
                yield (
                    d,
                    parts.narrow(d + 1, length - rest, rest),
                    parts.narrow(d + 1, 0, size),
                )
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
        ValueError: If the shapes do not fit, or the tensor is fused from several segments.

    Example:
        >>> rows = Dim("write", (Segment((("ffn", 2),)),))
        >>> square = (rows, Dim("read", (Segment((("hidden", 2),)),)))
        >>> grid(torch.arange(16.0).view(4, 4), square, {"hidden": 2, "ffn": 2})[0, 1]
        tensor([[2., 3.],
                [6., 7.]])
    """
    found = list(pieces(weight, axes, factors))
    if len(found) != 1:
        parts = [blocks.part for blocks in found]
        raise ValueError(
            f"This weight is fused from {parts}; take its blocks one by one with pieces()."
        )
    return found[0].grid()

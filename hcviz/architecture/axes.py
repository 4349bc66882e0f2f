"""The axis map of a tensor: which units each of its dimensions counts, and how they grow."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from hcviz.errors import CloneError

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

    def axes(self) -> set[str]:
        """The growing axes of all its segments."""
        return {axis for segment in self.segments for axis in segment.axes()}

    def __str__(self) -> str:
        names = [
            ("+".join(s.axes()) or str(s.size)) + (f"({s.part})" if s.part else "")
            for s in self.segments
        ]
        return f"{self.role} {', '.join(names)}"


TensorAxes = tuple[Dim, ...]
"""The axis map of one tensor, a :class:`Dim` for each dimension."""


def growing(dims: Iterable[Dim], role: str = "") -> set[str]:
    """Return the axes that some dimensions have, all of them or those with a role."""
    return {axis for dim in dims if role in ("", dim.role) for axis in dim.axes()}


def wide_shape(axes: TensorAxes, factors: Factors) -> tuple[int, ...]:
    """Return the shape of a tensor after its axes have grown."""
    return tuple(dim.wide_size(factors) for dim in axes)


def source_units(axes: TensorAxes, factors: Factors) -> TensorAxes:
    """Return the axes of a wide tensor in the units of its source.

    Raises:
        CloneError: If a level is no multiple of its axis's factor.
    """

    def small(axis: str | None, size: int) -> int:
        units = size / Fraction(factors.get(axis, 1))
        if units.denominator != 1:
            raise CloneError(
                f"{axis} has {size} units, which is no multiple of the factor {factors[axis]}. The "
                "recipe is that of another clone, or the configuration was changed since."
            )
        return int(units)

    def segment(wide: Segment) -> Segment:
        return Segment(tuple((axis, small(axis, n)) for axis, n in wide.levels), wide.part)

    return tuple(Dim(dim.role, tuple(map(segment, dim.segments))) for dim in axes)

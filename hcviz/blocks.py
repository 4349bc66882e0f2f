"""A wide weight as a grid of source-shaped blocks: the axis map of a tensor, and views by it."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

RESIDUAL, HEADS, NEURONS = "R", "H", "N"
SYMMETRY = {"hidden": RESIDUAL, "kv_heads": HEADS, "group": HEADS, "ffn": NEURONS}
"""The symmetry that the copies of an axis have: residual stream, attention heads, FFN neurons."""


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

    def copies(self, factors: Mapping[str, int]) -> tuple[int, ...]:
        """Number of copies of each level that grows."""
        return tuple(factors[axis] for axis, _ in self.levels if factors.get(axis, 1) > 1)

    def wide_size(self, factors: Mapping[str, int]) -> int:
        """Length in the wide tensor."""
        return self.size * math.prod(self.copies(factors))

    def axes(self) -> tuple[str, ...]:
        """The growing axes, outer first."""
        return tuple(axis for axis, _ in self.levels if axis)


@dataclass(frozen=True)
class Dim:
    """One dimension of a tensor: its units, and whether they are written, read, or neither."""

    role: str
    """"write" (repeated), "read" (repeated, and the copies share the weight) or "keep"."""
    segments: tuple[Segment, ...]

    def wide_size(self, factors: Mapping[str, int]) -> int:
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


def wide_shape(axes: TensorAxes, factors: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a tensor after its axes have grown."""
    return tuple(dim.wide_size(factors) for dim in axes)


def source_units(axes: TensorAxes, factors: Mapping[str, int]) -> TensorAxes:
    """Return the axes of a wide tensor in the units of its source.

    Raises:
        ValueError: If a level is no multiple of its axis's factor.
    """

    def small(axis: str | None, size: int) -> int:
        factor = factors.get(axis, 1)
        if size % factor:
            raise ValueError(
                f"{axis} has {size} units, which is no multiple of the factor {factor}."
            )
        return size // factor

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


def pieces(wide: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Blocks]:
    """Yield each unfused piece of a wide tensor as :class:`Blocks`; its view can be written to.

    Args:
        wide: A wide tensor, of shape ``wide_shape(axes, factors)`` (a source's: no factors).
        axes: Its axis map.
        factors: The factor of each axis; axes not named did not grow.

    Raises:
        ValueError: If the tensor's shape is not the one that axes and factors give.
    """
    expected = wide_shape(axes, factors)
    if tuple(wide.shape) != expected:
        raise ValueError(
            f"A tensor of shape {tuple(wide.shape)} does not fit the factors {dict(factors)}, "
            f"which give {expected}. Pass the factors that the clone was made with."
        )
    starts = [
        list(itertools.accumulate((s.wide_size(factors) for s in dim.segments), initial=0))
        for dim in axes
    ]
    for choice in itertools.product(*(range(len(dim.segments)) for dim in axes)):
        piece = wide
        for d, (dim, number) in enumerate(zip(axes, choice, strict=True)):
            piece = piece.narrow(d, starts[d][number], dim.segments[number].wide_size(factors))
        yield _blocks(
            piece, axes, [dim.segments[n] for dim, n in zip(axes, choice, strict=True)], factors
        )


def _blocks(piece: torch.Tensor, axes: TensorAxes, segments: list[Segment], factors) -> Blocks:
    """Split every dimension into copies and levels, and bring the copies to the front."""
    shape, found = [], []  # found: (group 0..3, axis, position, size) of every level of the view
    rows = 1
    for dim, segment in zip(axes, segments, strict=True):
        reads = dim.role == "read"
        for axis, size in segment.levels:
            factor = factors.get(axis, 1) if axis else 1
            if factor > 1:
                found.append((1 if reads else 0, axis, len(shape), factor))
                shape.append(factor)
            found.append((3 if reads else 2, axis, len(shape), size))
            shape.append(size)
            rows *= 1 if reads else size
    found.sort(key=lambda level: level[0])
    strides, position = [], 0
    for dim, segment in zip(range(piece.dim()), segments, strict=True):
        count = len(segment.levels) + len(segment.copies(factors))
        sizes = shape[position : position + count]
        inner = [math.prod(sizes[k + 1 :]) for k in range(count)]
        strides += [piece.stride(dim) * step for step in inner]
        position += count
    order = [where for _, _, where, _ in found]
    view = piece.as_strided(
        [shape[k] for k in order], [strides[k] for k in order], piece.storage_offset()
    )
    return Blocks(
        part="/".join(s.part for s in segments if s.part),
        view=view,
        write_copies=tuple(size for kind, _, _, size in found if kind == 0),
        read_copies=tuple(size for kind, _, _, size in found if kind == 1),
        copy_axes=tuple(axis for kind, axis, *_ in found if kind < 2),
        inner_axes=tuple(axis for kind, axis, *_ in found if kind >= 2),
        rows=rows,
    )


def grid(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> torch.Tensor:
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

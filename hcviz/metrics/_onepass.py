"""One pass over a large weight that tells how far apart its copies are: for ledger and cosine.

It is made in float32, which a memory-bound pass does at about the speed of reading. What float32
cannot hold is left to the exact way in float64.
"""

import itertools
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hcviz.axes import SYMMETRY, TensorAxes
from hcviz.blocks import Blocks, pieces
from hcviz.metrics._registry import is_table

LARGE = 2**16
"""Entries from which a weight is large: below, the exact way takes less than a millisecond."""
CHUNK = 2**19
"""Entries that are worked on at once, so that they stay in the processor's cache."""
NEAR = 1e-2
"""Share of squared length below which a distance is taken from the difference of two copies, not
from their product: that loses 1e-7 of a length, 1e-5 of such a distance."""
TINY = 1e-18
"""Squared length of a row below which the squares of differences may leave float32's range."""
_LAST: list[tuple[Any, tuple, list]] = []

Levels = tuple[int, ...]
"""Levels of copies, by their number in the ``copy_axes`` of a piece."""


@dataclass(frozen=True)
class Apart:
    """How far apart the copies of a piece are."""

    shares: Mapping[Levels, float]
    """The share of squared norm outside the mean over the copies of some levels; 0.0 only if they
    are equal bit by bit."""
    gap: float | None
    """One minus the cosine of two copies that rows read, mean over rows and over the pairs."""


def one_pass(
    weight: torch.Tensor, axes: TensorAxes, factors
) -> Iterator[tuple[Blocks, Apart | None]]:
    """Yield the ``pieces`` of a weight, and of a large one how far their copies are apart.

    Args:
        weight: It is large if it is no vector and has at least :data:`LARGE` entries, in less than
            float64.
        axes: Its axis map.
        factors: The factor of each axis.

    Returns:
        None beside what is not large, and beside a piece whose numbers are too small or too large
        for float32, or none.
    """
    small = weight.dim() < 2 or weight.numel() < LARGE or weight.dtype == torch.float64
    if small or weight.requires_grad:
        yield from ((blocks, None) for blocks in pieces(weight, axes, factors))
        return
    state = (weight._version, str(factors))
    known = _LAST and _LAST[0][0]() is weight and _LAST[0][1] == state
    found = iter(_LAST[0][2]) if known else None
    kept = []
    for blocks in pieces(weight, axes, factors):
        apart = next(found) if known else _apart(blocks, axes)
        kept.append(apart)
        yield blocks, apart
    _LAST[:] = [(weakref.ref(weight), state, kept)]


def levels_of(blocks: Blocks, letter: str) -> Levels:
    """Return the levels of copies that belong to one symmetry, R, H or N."""
    return tuple(d for d, axis in enumerate(blocks.copy_axes) if SYMMETRY.get(axis) == letter)


def row_levels(blocks: Blocks, axes: TensorAxes) -> Levels:
    """Return the levels of the copies that rows read; of an embedding, those of its tokens."""
    written = len(blocks.write_copies)
    return tuple(range(written) if is_table(axes) else range(written, len(blocks.copy_axes)))


def _apart(blocks: Blocks, axes: TensorAxes) -> Apart | None:
    """Read a piece once, in stretches of rows that stay in the cache."""
    copies = len(blocks.copy_axes)
    view = blocks.view.reshape(*blocks.view.shape[:copies], blocks.rows, -1)
    view = view.transpose(-1, -2) if is_table(axes) else view  # [*copies, rows, cols]
    letters = {SYMMETRY[axis] for axis in blocks.copy_axes if axis in SYMMETRY}
    read = row_levels(blocks, axes)
    wanted = sorted({read, *(levels_of(blocks, letter) for letter in letters)} - {()})
    if not wanted:
        return Apart({}, None)
    pairs = {levels: _Pairs(levels, view.shape, wanted) for levels in wanted}
    squares = np.empty(view.shape[:-1])
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, part in _stretches(view):
            lengths = np.vecdot(part, part)
            squares[..., rows] = lengths
            for found in pairs.values():
                if found.add(rows, part, lengths) and found.alone:  # the first speaks for them all
                    first = tuple(slice(1 if d in found.levels else None) for d in range(copies))
                    part, lengths = part[first], lengths[first]
    if not squares.max() < np.inf or (squares.min() < TINY and _any(view, squares < TINY)):
        return None
    away = {levels: found.apart.sum() / found.copies for levels, found in pairs.items()}
    if any(away[levels] == 0 and not found.equal for levels, found in pairs.items()):
        return None
    total = squares.sum() or 1.0
    return Apart(
        {levels: float(apart / total) for levels, apart in away.items()},
        pairs[read].gap(np.sqrt(squares)) if read else None,
    )


def _any(view: torch.Tensor, rows: np.ndarray) -> bool:
    """Tell whether some rows ``[*copies, rows]`` of a view hold anything but zeros."""
    return bool(view[torch.from_numpy(rows).to(view.device)].any())


def _stretches(view: torch.Tensor) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of a view, ``[*copies, rows, cols]`` in float32, each row of them dense.

    The first is a single row, which tells what to expect of the others.
    """
    step = max(1, CHUNK // view[..., 0, :].numel())
    parts = [slice(0, 1), *(slice(k, k + step) for k in range(1, view.shape[-2], step))]
    if view.dtype == torch.float32 and view.stride(-1) == 1 and view.device.type == "cpu":
        whole = view.numpy()
        yield from ((part, whole[..., part, :]) for part in parts)
    else:
        for part in parts:
            yield part, view[..., part, :].float().cpu().contiguous().numpy()


class _Pairs:
    """The pairs of copies of some levels of a piece, and the squared distances of their rows."""

    def __init__(self, levels: Levels, shape: Sequence[int], wanted: Sequence[Levels]):
        """Begin with nothing, for a piece ``[*copies, rows, cols]`` and all levels it has."""
        ranges = [range(n) if d in levels else [slice(None)] for d, n in enumerate(shape[:-2])]
        self.pairs = list(itertools.combinations(itertools.product(*ranges), 2))
        self.copies = math.prod(shape[d] for d in levels)
        kept = [n for d, n in enumerate(shape[:-2]) if d not in levels]
        self.apart = np.empty((len(self.pairs), *kept, shape[-2]))
        self.levels = levels
        self.alone = sum(not set(levels).isdisjoint(others) for others in wanted) == 1
        self.equal, self.near = True, False

    def add(self, rows: slice, part: np.ndarray, squares: np.ndarray) -> bool:
        """Add rows ``[*copies, rows, cols]`` with their squared lengths.

        Returns:
            Whether their copies are equal bit by bit.
        """
        equal = True
        for (a, b), apart in zip(self.pairs, self.apart, strict=True):
            apart[..., rows], same = self._distance(part[a], part[b], squares[a], squares[b])
            equal &= same
        self.equal &= equal
        return equal

    def gap(self, lengths: np.ndarray) -> float:
        """Return one minus the cosine of two copies, mean over rows and pairs.

        Args:
            lengths: Of all rows ``[*copies, rows]``.
        """
        gaps = np.ones_like(self.apart)
        for (a, b), apart, gap in zip(self.pairs, self.apart, gaps, strict=True):
            one, other = lengths[a], lengths[b]
            around = 2 * one * other
            np.divide(apart - (one - other) ** 2, around, out=gap, where=around > 0)
        return float(gaps.mean())

    def _distance(self, a, b, aa, bb) -> tuple[np.ndarray | float, bool]:
        """Return the squared distance of rows ``[..., cols]``, and whether all are equal."""
        if not self.near:
            both = aa + bb
            apart = both - 2 * np.vecdot(a, b)
            self.near = apart.sum() < NEAR * both.sum()
            if not self.near:
                return apart, False
        if self.equal and np.array_equal(a, b):
            return 0.0, True
        difference = (torch.from_numpy(a) - torch.from_numpy(b)).numpy()  # faster between strides
        return np.vecdot(difference, difference), False

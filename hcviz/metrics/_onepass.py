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

from hcviz.blocks import SYMMETRY, Blocks, TensorAxes, pieces
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
    gaps: Mapping[Levels, float]
    """One minus the cosine of two rows, mean over rows and over the pairs of copies."""


def one_pass(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[Apart | None]:
    """Yield how far the copies of a large weight are apart, for each of its ``pieces``.

    Args:
        weight: A matrix of at least :data:`LARGE` entries, in less than float64; of others nothing
            is yielded.
        axes: Its axis map.
        factors: The factor of each axis.

    Returns:
        None in place of a piece whose numbers are too small or too large for float32, or none.
    """
    small = weight.dim() != 2 or weight.numel() < LARGE or weight.dtype == torch.float64
    if small or weight.requires_grad:
        return
    state = (weight._version, str(factors))
    if not _LAST or _LAST[0][0]() is not weight or _LAST[0][1] != state:
        found = [_apart(blocks, axes) for blocks in pieces(weight, axes, factors)]
        _LAST[:] = [(weakref.ref(weight), state, found)]
    yield from _LAST[0][2]


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
    wanted = {row_levels(blocks, axes), *(levels_of(blocks, letter) for letter in letters)}
    wanted = sorted(wanted - {()})
    if not wanted:
        return Apart({}, {})
    pairs = {levels: _Pairs(levels, view.shape, wanted) for levels in wanted}
    lengths = []
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _stretches(view):
            squares = np.vecdot(part, part)
            lengths.append(squares)
            for found in pairs.values():
                if found.add(part, squares) and found.alone:  # the first speaks for all of them
                    first = tuple(slice(1 if d in found.levels else None) for d in range(copies))
                    part, squares = part[first], squares[first]
    squares = np.concatenate(lengths, -1, dtype=np.float64)
    low = squares < TINY
    lost = low.any() and view[torch.from_numpy(low).to(view.device)].any()
    if lost or not np.isfinite(squares).all():
        return None
    sums = {levels: found.sums(squares) for levels, found in pairs.items()}
    if any(sums[levels][0] == 0 and not found.equal for levels, found in pairs.items()):
        return None
    total = squares.sum() or 1.0
    return Apart(
        {levels: float(away / total) for levels, (away, _) in sums.items()},
        {levels: float(gap) for levels, (_, gap) in sums.items()},
    )


def _stretches(view: torch.Tensor) -> Iterator[np.ndarray]:
    """Yield stretches ``[*copies, rows, cols]`` of a view in float32, each row of them dense.

    The first is a single row, which tells what to expect of the others.
    """
    step = max(1, CHUNK // view[..., 0, :].numel())
    parts = [slice(0, 1), *(slice(k, k + step) for k in range(1, view.shape[-2], step))]
    if view.dtype == torch.float32 and view.stride(-1) == 1 and view.device.type == "cpu":
        whole = view.numpy()
        yield from (whole[..., part, :] for part in parts)
    else:
        yield from (view[..., part, :].float().cpu().contiguous().numpy() for part in parts)


class _Pairs:
    """The pairs of copies of some levels of a piece, and the squared distances of their rows."""

    def __init__(self, levels: Levels, shape: Sequence[int], wanted: Sequence[Levels]):
        """Begin with nothing, for a piece ``[*copies, rows, cols]`` and all levels it has."""
        ranges = [range(n) if d in levels else [slice(None)] for d, n in enumerate(shape[:-2])]
        self.pairs = list(itertools.combinations(itertools.product(*ranges), 2))
        self.copies = math.prod(shape[d] for d in levels)
        self.others = [n for d, n in enumerate(shape[:-2]) if d not in levels]
        self.levels, self.apart = levels, [[] for _ in self.pairs]
        self.alone = sum(not set(levels).isdisjoint(others) for others in wanted) == 1
        self.equal, self.near = True, False

    def add(self, part: np.ndarray, squares: np.ndarray) -> bool:
        """Add a stretch ``[*copies, rows, cols]`` with the squared lengths of its rows.

        Returns:
            Whether its copies are equal bit by bit.
        """
        equal = True
        for (a, b), apart in zip(self.pairs, self.apart, strict=True):
            found, same = self._distance(part[a], part[b], squares[a] + squares[b])
            apart.append(found)
            equal &= same
        self.equal &= equal
        return equal

    def sums(self, squares: np.ndarray) -> tuple[float, float]:
        """Return the squared norm outside the mean over the copies, and one minus the mean cosine.

        Args:
            squares: The squared lengths of all rows ``[*copies, rows]``.
        """
        away, gaps = 0.0, []
        for (a, b), found in zip(self.pairs, self.apart, strict=True):
            every = (np.broadcast_to(one, (*self.others, one.shape[-1])) for one in found)
            apart = np.concatenate(list(every), -1, dtype=np.float64)
            one, other = np.sqrt(squares[a]), np.sqrt(squares[b])
            gap, around = np.ones_like(apart), 2 * one * other
            np.divide(apart - (one - other) ** 2, around, out=gap, where=around > 0)
            gaps.append(gap.mean())
            away += apart.sum() / self.copies
        return away, sum(gaps) / len(gaps)

    def _distance(self, a, b, both: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the squared distance of rows ``[..., cols]``, and whether all are equal."""
        if not self.near:
            apart = both - 2 * np.vecdot(a, b)
            self.near = apart.sum() < NEAR * both.sum()
        if not self.near:
            return apart, False
        if self.equal and np.array_equal(a, b):
            return np.zeros_like(both), True
        difference = a - b
        return np.vecdot(difference, difference), False

"""Metrics of copies: how alike they are, and how much of a weight has left them."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch

from hcviz.architecture.axes import SYMMETRY, Factors, TensorAxes
from hcviz.architecture.blocks import Blocks, pieces
from hcviz.metrics._registry import Row, exact_pieces, is_table, metric

CHUNK = 2**18
"""Entries that are worked on at once, so that they stay in the processor's cache."""
SAFE = (1e-18, 1e30)
"""Squared lengths of rows that float32 holds without loss."""


def baseline(entries: int, *, sigmas: float = 2.0) -> float:
    """Return how far from zero the cosine of unrelated weights reaches: sigmas / sqrt(entries).

    Two vectors of c entries, one of them in a random direction, have a cosine of mean 0 and
    variance 1 / c. A mean of independent ones divides further, so ``entries`` counts all that goes
    in: c for ``cosine.rows``, rows * c for ``pairs`` and ``angle``, and for ``cosine``; with n
    copies times n (n - 1) / 2 pairs.

    Args:
        entries: Length of the vectors times the number of cosines in the mean.
        sigmas: How many standard deviations.

    Example:
        >>> baseline(100), baseline(100 * 400)  # a row of 100 entries, the mean of 400 such rows
        (0.2, 0.01)
    """
    return sigmas / math.sqrt(entries)


def _stretches(blocks: Blocks, axes: TensorAxes) -> Iterator[np.ndarray]:
    """Yield rows of a piece, ``[*copies, rows, cols]``; an embedding's are its tokens."""
    view = blocks.view.detach()
    view = view.reshape(*view.shape[: len(blocks.copy_axes)], blocks.rows, -1)
    view = view.transpose(-1, -2) if is_table(axes) else view
    for part in view.split(max(1, CHUNK // view[..., 0, :].numel()), dim=-2):
        part = part.to("cpu", torch.promote_types(part.dtype, torch.float32))
        yield (part if part.stride(-1) == 1 else part.contiguous()).numpy()


def _squares(rows: np.ndarray) -> np.ndarray:
    """Return the squared lengths of rows ``[..., cols]``; 0.0 only where all entries are."""
    found = np.vecdot(rows, rows).astype(np.float64)
    inside = found.min() > SAFE[0] and found.max() < SAFE[1]
    if rows.dtype == np.float32 and not inside and rows.any():
        found = _squares(rows.astype(np.float64))
    return found


def _pairs(part: np.ndarray, levels: Sequence[int]) -> Iterator[tuple[tuple, tuple]]:
    """Yield where every two copies of some levels lie in ``[*copies, rows, cols]``."""
    ranges = [range(n) if d in levels else [slice(None)] for d, n in enumerate(part.shape[:-2])]
    return itertools.combinations(itertools.product(*ranges), 2)


def mean_cosine(part: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Return the cosine of rows of copies, mean over the pairs: of equal ones 1.0.

    It is taken from their distance, which tells nearly equal ones in float32, too.
    """
    lengths, found = np.sqrt(_squares(part)), []
    for a, b in _pairs(part, levels):
        apart = _squares(part[a] - part[b]) - (lengths[a] - lengths[b]) ** 2
        around = 2 * lengths[a] * lengths[b]
        found.append(1 - np.divide(apart, around, out=np.ones_like(apart), where=around != 0))
    return np.mean(found, axis=0)


def _read_levels(blocks: Blocks, axes: TensorAxes) -> range:
    """Return the levels of the copies that rows read; of an embedding, those of its tokens."""
    written = len(blocks.write_copies)
    return range(written) if is_table(axes) else range(written, len(blocks.copy_axes))


def _row_copies(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[tuple[Blocks, range]]:
    """Yield each piece of a matrix whose rows read copies, with the levels of these."""
    for blocks in pieces(weight, axes, factors) if len(axes) > 1 else ():
        if levels := _read_levels(blocks, axes):
            yield blocks, levels


@np.errstate(over="ignore", invalid="ignore")
def _row_cosines(blocks: Blocks, axes: TensorAxes, levels: range) -> np.ndarray:
    """Return the mean cosine of the copies that each row reads, ``[*written copies, rows]``."""
    found = [mean_cosine(part, levels) for part in _stretches(blocks, axes)]
    return np.concatenate(found, axis=-1)


@metric("cosine")
def cosine(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Mean cosine between the copies that each row reads (figure 5 of the paper: its halves).

    For n copies it is the mean over their pairs. Rows are outputs; an embedding's are its tokens.
    It ignores scale, and says nothing of how written copies (rows) relate to each other.
    """
    for blocks, levels in _row_copies(weight, axes, factors):
        yield {"part": blocks.part, "value": float(_row_cosines(blocks, axes, levels).mean())}


@metric("cosine.rows")
def cosine_rows(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """The same for every row; row counts the outputs, the first written copy's first."""
    for blocks, levels in _row_copies(weight, axes, factors):
        for row, value in enumerate(_row_cosines(blocks, axes, levels).flatten().tolist()):
            yield {"part": blocks.part, "row": row, "value": value}


@metric("cosine.baseline")
def cosine_baseline(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Two standard deviations of ``cosine`` for unrelated weights of this shape."""
    for blocks, levels in _row_copies(weight, axes, factors):
        copies = math.prod(blocks.view.shape[d] for d in levels)
        entries = blocks.view.numel() * (copies - 1) // 2  # of one copy, for every pair
        yield {"part": blocks.part, "value": baseline(entries)}


@metric("cosine.heads")
def cosine_heads(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Cosine between the copies of every attention head, written or read; row is its source's head.

    A head's vector is all that the weight holds of it; for more than two copies it is the mean over
    their pairs.
    """
    for blocks in exact_pieces(weight, axes, factors) if len(axes) == 2 else ():
        if not {"kv_heads", "group"}.isdisjoint(blocks.copy_axes):
            found = mean_cosine(units_of(blocks, ("kv_heads", "group")), [0])
            for row, value in enumerate(found.tolist()):
                yield {"part": blocks.part, "row": row, "value": value}


def units_of(blocks: Blocks, names: Collection[str]) -> np.ndarray:
    """Return the copies of the units that some axes count, ``[copies, units, all the rest]``."""
    levels = [*blocks.copy_axes, *blocks.inner_axes]
    where = [d for d, axis in enumerate(levels) if axis in names]
    copies = sum(d < len(blocks.copy_axes) for d in where)
    first = blocks.view.movedim(where, tuple(range(len(where))))  # copies, units, the rest
    flat = first.flatten(len(where)).flatten(copies, -2).flatten(0, copies - 1)
    return flat.cpu().numpy()


@metric("angle", needs=("start",))
def angle(
    weight: torch.Tensor, axes: TensorAxes, factors: Factors, *, start: torch.Tensor
) -> Iterator[Row]:
    """Angle in degrees of every block to the source's weight; row: written copy, col: read copy.

    The source's weight is the symmetric part of the run's first snapshot, so that no source model
    is needed; for a noisy or random expansion that is exact up to rounding. Blocks without length
    have no angle (NaN).
    """
    for blocks, before in zip(
        exact_pieces(weight, axes, factors), exact_pieces(start, axes, factors), strict=True
    ):
        if len(axes) < 2 or not blocks.copy_axes:
            continue
        source = torch.nn.functional.normalize(before.grid().mean((0, 1)).flatten(), dim=0)
        grid = blocks.grid().flatten(2)
        grid = grid / grid.norm(dim=-1, keepdim=True)
        # Stable near zero and 180 degrees, where the cosine is flat.
        apart, along = (grid - source).norm(dim=-1), (grid + source).norm(dim=-1)
        degrees = torch.rad2deg(2 * torch.atan2(apart, along)).tolist()
        for row, col in itertools.product(range(len(degrees)), range(len(degrees[0]))):
            yield {"part": blocks.part, "row": row, "col": col, "value": degrees[row][col]}


@metric("pairs")
def pairs(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Cosine between every two source-shaped blocks; row and col count them, written first."""
    if len(axes) < 2:
        return
    for blocks in exact_pieces(weight, axes, factors):
        flat = blocks.grid().flatten(0, 1).flatten(1)
        if len(flat) < 2:
            continue
        flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
        table = flat @ flat.T
        for row, col in itertools.product(range(len(flat)), repeat=2):
            yield {"part": blocks.part, "row": row, "col": col, "value": table[row, col].item()}


@metric("ledger")
def ledger(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Share of squared norm outside the symmetric part, per axis R, H, N; exactly 0 is locked.

    The symmetric part is the mean over the copies of one axis. Copies that are equal bit by bit
    give 0.0, any difference more.
    """
    for blocks in pieces(weight, axes, factors):
        levels = {SYMMETRY[axis]: [] for axis in blocks.copy_axes if axis in SYMMETRY}
        for d, axis in enumerate(blocks.copy_axes):
            levels.get(SYMMETRY.get(axis), []).append(d)
        for letter, share in sorted(_shares_outside(blocks, axes, levels).items()):
            yield {"part": blocks.part, "axis": letter, "value": share}


@np.errstate(over="ignore", invalid="ignore")
def _shares_outside(
    blocks: Blocks, axes: TensorAxes, wanted: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Return by name the share of squared norm outside the mean over some levels of copies.

    It is the sum of squared distances of all pairs, over the number of copies.
    """
    total, away = 0.0, dict.fromkeys(wanted, 0.0)
    for part in _stretches(blocks, axes) if wanted else ():
        total += _squares(part).sum()
        for name, levels in wanted.items():
            copies = math.prod(part.shape[d] for d in levels)
            for a, b in _pairs(part, levels):
                away[name] += _squares(part[a] - part[b]).sum() / copies
    return {name: float(apart / total) if total else 0.0 for name, apart in away.items()}

"""Metrics of copies: how alike they are, and how much of a weight has left them."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from hcviz.axes import SYMMETRY, TensorAxes
from hcviz.blocks import Blocks
from hcviz.metrics._onepass import CHUNK, Levels, levels_of, one_pass, row_levels
from hcviz.metrics._registry import Row, exact_pieces, is_table, metric


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


def _mean_cosine(copies: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the cosine along the last dimension, mean over the pairs of copies."""
    pairs = itertools.combinations(copies, 2)
    found = [torch.cosine_similarity(a, b, dim=-1, eps=1e-150) for a, b in pairs]
    return torch.stack(found).mean(0)


def _read_copies(blocks: Blocks, axes: TensorAxes) -> tuple[torch.Tensor, ...]:
    """Return the copies that the rows of a piece read, each [n_written, rows, cols].

    Nothing in an embedding reads copies; its rows are tokens, its copies written.
    """
    grid = blocks.grid()  # [n_written, n_read, rows, cols]
    return (grid.permute(1, 0, 3, 2) if is_table(axes) else grid).unbind(1)


def _row_copies(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[tuple[Blocks, tuple]]:
    """Yield each piece of a matrix whose rows read copies, with these, in float64."""
    for blocks in exact_pieces(weight, axes, factors) if len(axes) == 2 else ():
        copies = _read_copies(blocks, axes)
        if len(copies) > 1:
            yield blocks, copies


@metric("cosine")
def cosine(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Mean cosine between the copies that each row reads (figure 5 of the paper: its halves).

    For n copies it is the mean over their pairs. Rows are outputs; an embedding's are its tokens.
    It ignores scale, and says nothing of how written copies (rows) relate to each other.
    """
    for blocks, found in one_pass(weight, axes, factors) if len(axes) == 2 else ():
        if not row_levels(blocks, axes):
            continue
        if found:
            value = 1 - found.gap
        else:
            copies = [copy.double() for copy in _read_copies(blocks, axes)]
            value = _mean_cosine(copies).mean().item()
        yield {"part": blocks.part, "value": value}


@metric("cosine.rows")
def cosine_rows(
    weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]
) -> Iterator[Row]:
    """The same for every row; row counts the outputs, the first written copy's first."""
    for blocks, copies in _row_copies(weight, axes, factors):
        for row, value in enumerate(_mean_cosine(copies).flatten().tolist()):
            yield {"part": blocks.part, "row": row, "value": value}


@metric("cosine.baseline")
def cosine_baseline(
    weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]
) -> Iterator[Row]:
    """Two standard deviations of ``cosine`` for unrelated weights of this shape."""
    for blocks, copies in _row_copies(weight, axes, factors):
        pairs = len(copies) * (len(copies) - 1) // 2
        yield {"part": blocks.part, "value": baseline(copies[0].numel() * pairs)}


@metric("cosine.heads")
def cosine_heads(
    weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]
) -> Iterator[Row]:
    """Cosine between the copies of every attention head, written or read; row is its source's head.

    A head's vector is all that the weight holds of it; for more than two copies it is the mean over
    their pairs.
    """
    for blocks in exact_pieces(weight, axes, factors) if len(axes) == 2 else ():
        levels = [*blocks.copy_axes, *blocks.inner_axes]
        where = [d for d, axis in enumerate(levels) if axis in ("kv_heads", "group")]
        copies = [d for d in where if d < len(blocks.copy_axes)]
        if not copies:
            continue
        first = blocks.view.movedim(where, tuple(range(len(where))))  # copies, heads, the rest
        flat = first.flatten(len(where)).flatten(len(copies), -2).flatten(0, len(copies) - 1)
        for row, value in enumerate(_mean_cosine(flat).tolist()):
            yield {"part": blocks.part, "row": row, "value": value}


@metric("angle", needs=("start",))
def angle(
    weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int], *, start: torch.Tensor
) -> Iterator[Row]:
    """Angle in degrees of every block to the source's weight; row: written copy, col: read copy.

    The source's weight is the symmetric part of the run's first snapshot, so that no source model
    is needed; for a noisy or random expansion that is exact up to rounding. Blocks without length
    have no angle (NaN).
    """
    for blocks, before in zip(
        exact_pieces(weight, axes, factors), exact_pieces(start, axes, factors), strict=True
    ):
        if len(axes) != 2 or not blocks.copy_axes:
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
def pairs(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Cosine between every two source-shaped blocks; row and col count them, written first."""
    if len(axes) != 2:
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
def ledger(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Share of squared norm outside the symmetric part, per axis R, H, N; exactly 0 is locked.

    The symmetric part is the mean over the copies of one axis. Copies that are equal bit by bit
    give 0.0, any difference more.
    """
    for blocks, found in one_pass(weight, axes, factors):
        for letter in sorted({SYMMETRY[axis] for axis in blocks.copy_axes if axis in SYMMETRY}):
            levels = levels_of(blocks, letter)
            share = found.shares[levels] if found else _exact_share(blocks, levels)
            yield {"part": blocks.part, "axis": letter, "value": share}


def _exact_share(blocks: Blocks, dims: Levels) -> float:
    """Return the share of squared norm outside the mean over levels of copies, in float64."""
    view, copies = blocks.view, len(blocks.copy_axes)
    first = tuple(slice(0, 1) if d in dims else slice(None) for d in range(copies))
    step = max(1, CHUNK * view.shape[copies] // max(1, view.numel()))
    total = away = 0.0
    for part in view.split(step, dim=copies) if step < view.shape[copies] else (view,):
        exact = part.double().cpu().numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            total += np.square(exact).sum()
            apart = exact - exact[first]  # exactly zero where copies are equal, as is its mean
            if apart.any():
                apart -= apart.mean(dims, keepdims=True)
                away += np.square(apart).sum()
    return float(away / total) if total else 0.0

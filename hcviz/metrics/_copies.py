"""Metrics of copies: how alike they are, and how much of a weight has left them."""

import itertools
from collections.abc import Iterator, Mapping

import torch

from hcviz.blocks import SYMMETRY, TensorAxes
from hcviz.metrics._registry import Row, exact_pieces, is_table, metric


@metric("cosine")
def cosine(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Mean cosine between the copies that each row reads (figure 5 of the paper: its halves).

    For n copies it is the mean over their pairs. Rows are outputs; an embedding's are its tokens.
    It ignores scale, and says nothing of how written copies (rows) relate to each other.
    """
    if len(axes) != 2:
        return
    for blocks in exact_pieces(weight, axes, factors):
        grid = blocks.grid()  # [n_written, n_read, rows, cols]
        if is_table(axes):
            grid = grid.permute(1, 0, 3, 2)
        copies = grid.unbind(1)
        if len(copies) < 2:
            continue
        pairs = [
            torch.cosine_similarity(a, b, dim=-1).mean()
            for a, b in itertools.combinations(copies, 2)
        ]
        yield {"part": blocks.part, "value": torch.stack(pairs).mean().item()}


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
    for blocks in exact_pieces(weight, axes, factors):
        total = blocks.view.square().sum().item()
        for letter in sorted({SYMMETRY[axis] for axis in blocks.copy_axes if axis in SYMMETRY}):
            dims = [d for d, axis in enumerate(blocks.copy_axes) if SYMMETRY.get(axis) == letter]
            first = blocks.view
            for d in dims:
                first = first.narrow(d, 0, 1)
            away = blocks.view - first  # exactly zero where copies are equal, as is its mean
            away = away - away.mean(dims, keepdim=True)
            share = away.square().sum().item() / total if total else 0.0
            yield {"part": blocks.part, "axis": letter, "value": share}

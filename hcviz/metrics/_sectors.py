"""The full split of a weight over its copies: the symmetric sector, and each antisymmetric one."""

import itertools
import math
from collections.abc import Iterator

import torch

from hcviz.architecture.axes import SYMMETRY, Factors, TensorAxes
from hcviz.architecture.blocks import Blocks, pieces
from hcviz.metrics._registry import Row, exact_pieces, metric


def sectors(blocks: Blocks) -> torch.Tensor:
    """Return the unitary Fourier transform of a piece over its copies.

    Each level of copies (of n) is a cyclic group, several levels are their product; its characters
    are the sectors. For n = 2 they are sum and difference over sqrt(2) (Hadamard), for more they
    are complex, and k and n - k each other's conjugate. Where copies are equal bit by bit, the
    sectors that set them apart are exactly zero. Squares add up to those of the weight (Parseval).

    Args:
        blocks: A piece in float64.

    Returns:
        ``[*copies, rows, cols]``, a source-shaped matrix per character; index 0 is symmetric.
    """
    sizes = (*blocks.write_copies, *blocks.read_copies)
    view, transform = blocks.view.clone(), torch.ones(1, 1, dtype=torch.complex128)
    for d, n in enumerate(sizes):
        view.narrow(d, 1, n - 1).sub_(view.narrow(d, 0, 1))  # an exact zero where copies are equal
        k = torch.arange(n, dtype=torch.float64)
        characters = torch.exp(-2j * math.pi / n * k.outer(k)) / math.sqrt(n)
        characters[:, 0] = 0
        characters[0, 0] = math.sqrt(n)  # only the symmetric sector sees the first copy itself
        transform = torch.kron(transform, characters)
    transform = transform if max(sizes, default=1) > 2 else transform.real
    flat = view.reshape(len(transform), -1).to(transform.dtype)
    return (transform.to(flat.device) @ flat).reshape(*sizes, blocks.rows, -1)


def average(weight: torch.Tensor, axes: TensorAxes, factors, letter: str | None = None) -> None:
    """Put into the place of copies their mean, along all axes or those of R, H or N."""
    for blocks in pieces(weight, axes, factors):
        levels = [d for d, a in enumerate(blocks.copy_axes) if letter in (None, SYMMETRY.get(a))]
        if levels:
            blocks.view.copy_(blocks.view.mean(levels, keepdim=True))


def _labelled(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[tuple]:
    """Yield every sector of every piece that has copies: the piece, axis, row, col, matrix."""
    for blocks in exact_pieces(weight, axes, factors):
        if not blocks.copy_axes:
            continue
        found = sectors(blocks)
        letters = [SYMMETRY.get(axis, axis) for axis in blocks.copy_axes]
        written, read = (
            list(itertools.product(*map(range, sizes)))
            for sizes in (blocks.write_copies, blocks.read_copies)
        )
        for (row, w), (col, r) in itertools.product(enumerate(written), enumerate(read)):
            axis = "".join(sorted({a for a, k in zip(letters, w + r, strict=True) if k}))
            yield blocks, axis or "symmetric", row, col, found[w + r]


@metric("sectors")
def sector_shares(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Share of squared norm in every sector over the copies; exactly 0 is locked, the sum is 1.

    axis names the axes along which the sector sets copies apart (``symmetric``, R, H, N, NR, ...);
    row is the character over written copies, col the one over those that are read.
    """
    for blocks, axis, row, col, sector in _labelled(weight, axes, factors):
        total = blocks.view.square().sum().item()
        share = sector.abs().square().sum().item() / total if total else 0.0
        yield {"part": blocks.part, "axis": axis, "row": row, "col": col, "value": share}


@metric("sectors.spectrum")
def sector_spectra(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Singular values of every sector, largest first; row is their index, col the sector's.

    Sectors are counted as in ``sectors``, written characters first. A symmetric expansion puts the
    source's singular values, times sqrt(n_written / n_read), into sector 0, and nothing elsewhere.
    """
    if len(axes) != 2:
        return
    for blocks, axis, row, col, sector in _labelled(weight, axes, factors):
        number = row * math.prod(blocks.read_copies) + col
        for index, value in enumerate(torch.linalg.svdvals(sector).tolist()):
            yield {"part": blocks.part, "axis": axis, "row": index, "col": number, "value": value}

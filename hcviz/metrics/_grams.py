"""Products of copies, row by row: one pass over a large weight serves its ledger and its cosine.

They are made in float32, which a memory-bound pass does at the speed of reading. What float32
cannot tell (copies nearly equal) is left to the exact way in float64.
"""

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hcviz.blocks import SYMMETRY, Blocks, TensorAxes, pieces
from hcviz.metrics._registry import is_table

LARGE = 2**20
"""Entries from which a weight is large: below, the exact way takes milliseconds."""
CHUNK = 2**16
"""Entries that are worked on at once, so that they stay in the processor's cache."""
NEAR = 1e-3
"""A share or a distance from cosine one below which float32 products, good to some 1e-7, are not
taken."""
_LAST: list[tuple[Any, tuple, list]] = []


@dataclass(frozen=True)
class Grams:
    """What one pass over a piece of a large weight tells of its copies."""

    products: torch.Tensor
    """``[rows, copies, copies]`` in float64: the products of a row's copies, written ones first.
    The rows of an embedding are its tokens."""
    sizes: tuple[int, ...]
    """The number of copies of each level, in the order of the piece's ``copy_axes``."""
    equal: tuple[bool, ...]
    """Whether the copies of each level are equal bit by bit."""

    def locked(self, levels: Iterable[int]) -> bool:
        """Tell whether the copies of some levels are all equal bit by bit."""
        return all(self.equal[level] for level in levels)


def grams(weight: torch.Tensor, axes: TensorAxes, factors) -> Iterator[Grams]:
    """Yield what one pass over a large weight tells, piece by piece in the order of ``pieces``.

    Args:
        weight: A matrix of at least :data:`LARGE` entries, in less than float64; of others nothing
            is yielded.
        axes: Its axis map.
        factors: The factor of each axis.
    """
    small = weight.dim() != 2 or weight.numel() < LARGE or weight.dtype == torch.float64
    if small or weight.requires_grad:
        return
    state = (weight._version, str(factors))
    if not _LAST or _LAST[0][0]() is not weight or _LAST[0][1] != state:
        found = [_one_pass(blocks, axes) for blocks in pieces(weight, axes, factors)]
        _LAST[:] = [(weakref.ref(weight), state, found)]
    yield from _LAST[0][2]


def _one_pass(blocks: Blocks, axes: TensorAxes) -> Grams:
    """Read a piece once, in stretches of rows that stay in the cache."""
    grid = blocks.grid().permute((3, 0, 1, 2) if is_table(axes) else (2, 0, 1, 3))
    written, read, cols = grid.shape[1:]
    sizes = blocks.view.shape[: len(blocks.copy_axes)]
    step, found, equal = max(1, CHUNK // (written * read * cols)), [], [True] * len(sizes)
    for part in grid.split(step):
        part = part.reshape(len(part), written * read, cols)
        for level, so_far in enumerate(equal):
            if so_far:  # told in the precision that is stored
                copies = part.unflatten(1, sizes).movedim(level + 1, 0)
                equal[level] = torch.equal(copies[1:], copies[:1].expand_as(copies[1:]))
        part = part.float()
        found.append(torch.bmm(part, part.transpose(1, 2)))
    return Grams(torch.cat(found).double(), tuple(sizes), tuple(equal))


def mean_cosine(products: torch.Tensor, read: int) -> float:
    """Return the mean cosine over the pairs of ``read`` copies that every row reads."""
    lengths = products.diagonal(dim1=1, dim2=2).sqrt()
    cosines = products / (lengths.unsqueeze(1) * lengths.unsqueeze(2)).clamp_min(1e-30)
    starts = range(0, products.shape[1], read)
    pairs = [(k + a, k + b) for k in starts for a, b in itertools.combinations(range(read), 2)]
    return torch.stack([cosines[:, a, b].mean() for a, b in pairs]).mean().item()


def share_outside(products: torch.Tensor, sizes: Sequence[int], dims: Sequence[int]) -> float:
    """Return the share of squared norm outside the mean over some levels of copies.

    Args:
        products: As of :func:`grams`.
        sizes: The number of copies of each level.
        dims: The levels that the mean is over.
    """
    total = products.sum(0)
    positions = list(itertools.product(*map(range, sizes)))
    rest = [tuple(p for d, p in enumerate(position) if d not in dims) for position in positions]
    same = torch.tensor([[a == b for b in rest] for a in rest], dtype=torch.float64)
    norm = total.trace()
    inside = (same * total).sum() / math.prod(sizes[d] for d in dims)
    return ((norm - inside) / norm).item() if norm else 0.0


def levels_of(blocks: Blocks, letter: str) -> list[int]:
    """Return the levels of copies that belong to one symmetry, R, H or N."""
    return [d for d, axis in enumerate(blocks.copy_axes) if SYMMETRY.get(axis) == letter]

"""Metrics of spectra: what the singular values of a matrix say.

All numbers of one matrix come from one decomposition in float64; tensors of other shapes give none.
"""

import hashlib
import math
from collections.abc import Callable, Iterator

import torch

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.metrics._registry import Row, is_stack, metric

TOP, LARGE = 64, 1024
"""How many values ``spectrum.top`` gives; it sketches a matrix whose smaller side is over LARGE."""

_kept: dict[bytes, torch.Tensor] = {}


def singular_values(weight: torch.Tensor) -> torch.Tensor:
    """Return the singular values of a matrix in float64, largest first; NaN if it is not finite.

    Those of the last eight matrices are kept, by content: a weight that is changed in place is
    decomposed again, and to tell costs a thousandth of a decomposition.

    Example:
        >>> singular_values(torch.diag(torch.tensor([3.0, 0.0, 4.0]))).tolist()
        [4.0, 3.0, 0.0]
    """
    flat = weight.detach().cpu().contiguous()
    key = hashlib.blake2b(flat.view(torch.uint8).numpy(), digest_size=16)
    key.update(repr((weight.dtype, weight.shape)).encode())
    if key.digest() not in _kept:
        finite = bool(weight.isfinite().all())
        values = torch.full((min(weight.shape),), math.nan, dtype=torch.float64)
        while len(_kept) >= 8:
            _kept.pop(next(iter(_kept)))
        _kept[key.digest()] = torch.linalg.svdvals(weight.double()).cpu() if finite else values
    return _kept[key.digest()]


def tolerance(weight: torch.Tensor) -> float:
    """Return under which singular value the rounding of a matrix hides what it was.

    Rounding to the stored dtype moves an entry by at most eps/2 of itself, so the matrix by at most
    eps/2 ||W||_F in spectral norm, and no singular value by more (Weyl). The usual
    max(m, n) eps s_1 is far wider: in bfloat16 it is above the largest singular value of every
    matrix of 128 rows. The decomposition's own rounding is added.

    Example:
        >>> tolerance(torch.eye(4, dtype=torch.bfloat16)) == 2**-8 * 2 + 4 * 2**-52
        True
    """
    values = singular_values(weight)
    stored, work = torch.finfo(weight.dtype).eps, torch.finfo(torch.float64).eps
    return (stored / 2 * values.norm() + max(weight.shape) * work * values[0]).item()


def matrices_of(weight: torch.Tensor, axes: TensorAxes) -> Iterator[tuple[Row, torch.Tensor]]:
    """Yield a matrix, or every expert's of a stack, and what its rows tell: row is the expert."""
    if weight.dim() == 2:
        yield {}, weight
    elif is_stack(axes):
        yield from (({"row": number}, matrix) for number, matrix in enumerate(weight))


def _number(name: str) -> Callable[[Callable], Callable]:
    """Register a number that follows from the matrix and its singular values."""

    def register(function: Callable[[torch.Tensor, torch.Tensor], float]) -> Callable:
        def rows(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
            for where, matrix in matrices_of(weight, axes):
                yield where | {"value": float(function(singular_values(matrix), matrix))}

        rows.__doc__ = function.__doc__
        return metric(name, needs_clone=False)(rows)

    return register


@metric("spectrum", needs_clone=False)
def spectrum(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Singular values of the whole matrix, largest first; row is the index."""
    if weight.dim() == 2:
        for row, value in enumerate(singular_values(weight).tolist()):
            yield {"row": row, "value": value}


@metric("spectrum.top", needs_clone=False)
def spectrum_top(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """The 64 largest singular values, each with an upper bound (axis ``bound``); row is the index.

    For large matrices: one whose smaller side is above 1024 is sketched (Halko et al. 2011), and
    each true value lies between value and bound, but for one case in 1e10. Others are exact.
    """
    if weight.dim() == 2:
        exact = min(weight.shape) <= LARGE
        values = singular_values(weight)[:TOP] if exact else None
        values, bounds = (values, values) if exact else sketch(weight, TOP)
        for axis, column in ((None, values), ("bound", bounds)):
            yield from (
                {"axis": axis, "row": i, "value": value} for i, value in enumerate(column.tolist())
            )


@_number("effective_rank")
def effective_rank(values: torch.Tensor, weight: torch.Tensor) -> float:
    """Effective rank: exp of the entropy of s_i / sum(s) (Roy and Vetterli 2007)."""
    return torch.special.entr(values / values.sum()).sum().exp()


@_number("stable_rank")
def stable_rank(values: torch.Tensor, weight: torch.Tensor) -> float:
    """Stable rank: squared Frobenius norm over squared largest singular value."""
    return values.square().sum() / values[0] ** 2


@_number("participation")
def participation(values: torch.Tensor, weight: torch.Tensor) -> float:
    """Participation ratio of the squared singular values: sum(s^2)^2 / sum(s^4)."""
    return values.square().sum() ** 2 / values.pow(4).sum()


@_number("rank")
def rank(values: torch.Tensor, weight: torch.Tensor) -> float:
    """Numerical rank: singular values that rounding to the stored dtype cannot have made."""
    return (values > tolerance(weight)).sum() if values.isfinite().all() else math.nan


def sketch(weight: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest singular values by a seeded randomized SVD, and an upper bound of each.

    What is left out, E, is orthogonal to what is kept, so s_i^2 <= value_i^2 + ||E||^2. With r = 10
    Gaussian vectors w, ||B|| <= 10 sqrt(2/pi) max ||B w|| but for one case in 10^r; taken for
    B = (E E')^4 E, whose norm is ||E||^9, the factor shrinks to its ninth root.

    Args:
        weight: A matrix.
        count: How many values; 16 more directions are followed.

    Source: N. Halko, P. Martinsson, J. Tropp, "Finding structure with randomness", SIAM Review
    2011, algorithm 4.4 and lemma 4.1.

    Example:
        >>> values, bounds = sketch(torch.diag(torch.arange(200.0)), 2)
        >>> values[0] <= 199 <= bounds[0]
        tensor(True)
    """
    matrix = weight.detach().double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=count + 16, niter=2)
        probes = torch.randn(matrix.shape[1], 10, dtype=matrix.dtype, device=matrix.device)
    rest = matrix - (u * s) @ v.T
    for _ in range(4):
        probes = rest.T @ (rest @ probes)
    error = 10 * math.sqrt(2 / math.pi) * (rest @ probes).norm(dim=0).max()
    return s[:count], (s[:count].square() + error ** (2 / 9)).sqrt()

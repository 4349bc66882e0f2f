"""Curvature of the loss along the copies: ends of the Hessian's spectrum and its trace, by sector.

A vector is flat here: all parameters one after the other. A sector is the symmetric part (the mean
over all copies), or what differs between the copies of one axis: R, H or N.
"""

import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.functional import cross_entropy

from hcviz.architecture.axes import SYMMETRY
from hcviz.architecture.blocks import pieces
from hcviz.metrics._activations import Layout
from hcviz.metrics._registry import Row, metric
from hcviz.metrics._sectors import average

TOLERANCE = 0.01
"""Of an eigenvalue, as a share of it."""
PROBES = 8
"""Random vectors for a trace."""
Weights = Mapping[str, nn.Parameter]
Product = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric matrix as its product with a vector."""


@metric("curvature", of="model", needs_clone=False)
def curvature(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Smallest and largest eigenvalue and trace of the loss's Hessian, in every sector.

    ``axis`` is the sector: symmetric, R, H, N. Beside each ``part`` (smallest, largest, trace)
    stands its error: of an eigenvalue a bound, of the trace one standard error.
    """
    weights, hessian = hessian_of(model, batch)
    yield from _rows("model", weights, hessian, layout, factors)


@metric("curvature.adam", of="model", needs_clone=False, needs=("moments",))
def curvature_adam(
    model: nn.Module, batch: torch.Tensor, layout: Layout, factors, moments=None
) -> Iterator[Row]:
    """The same as Adam sees it: D^-1/2 H D^-1/2, D its divisor of the gradient.

    D is sqrt(v_hat) + eps of the checkpoint; where it keeps no moments, what the gradients of a
    text say of it: :func:`divisor`.
    """
    weights, hessian = hessian_of(model, batch)
    found = divisor(model, batch) | (moments or {})
    scale = torch.cat([found[name].to(weight).flatten() for name, weight in weights.items()])
    scale = scale.rsqrt()
    yield from _rows("model", weights, hessian, layout, factors, scale)


@metric("curvature.tensors", of="model", needs_clone=False)
def curvature_tensors(
    model: nn.Module, batch: torch.Tensor, layout: Layout, factors
) -> Iterator[Row]:
    """The same of every matrix by itself, all others held still."""
    for name in [name for name, weight in model.named_parameters() if weight.ndim == 2]:
        one, hessian = hessian_of(model, batch, only=name)
        yield from _rows(name, one, hessian, layout, factors)


def _rows(
    name: str, weights: Weights, hessian: Product, layout: Layout, factors, scale=None
) -> Iterator[Row]:
    """Yield what is said of every sector; ``scale`` is D^-1/2, None for the plain gradient."""
    where = next(iter(weights.values()))
    scale = torch.ones((), dtype=where.dtype, device=where.device) if scale is None else scale
    generator = torch.Generator().manual_seed(0)
    for sector in sectors_of(weights, layout, factors):
        project = projector(weights, layout, factors, sector)

        def product(vector: torch.Tensor, project=project) -> torch.Tensor:
            return scale * project(hessian(project(scale * vector)))

        size = sum(weight.numel() for weight in weights.values())
        signs = torch.randint(2, (PROBES + 1, size), generator=generator) * 2.0 - 1
        start, *probes = signs.to(where)
        found = [*ends(product, scale * project(start)), *trace(product, probes)]
        yield from (
            {"tensor": name, "axis": sector, "part": part, "value": value} for part, value in found
        )


def hessian_of(
    model: nn.Module, batch: torch.Tensor, *, only: str | None = None
) -> tuple[Weights, Product]:
    """Differentiate the loss of a text twice.

    The graph of the gradient is kept, so that a product costs about two gradients.

    Args:
        model: A model in eval mode; it stays as it is.
        batch: Token ids ``[batch, length]``.
        only: One parameter; None: all.

    Returns:
        The parameters, and the product of their Hessian with a flat vector.
    """
    model = _twice_differentiable(model)
    weights = {name: p for name, p in model.named_parameters() if only in (None, name)}
    gradient = _gradient(model, batch, weights, create_graph=True)

    def product(vector: torch.Tensor) -> torch.Tensor:
        parts = list(_split(vector, weights).values())
        found = torch.autograd.grad(
            gradient, list(weights.values()), parts, retain_graph=True, materialize_grads=True
        )
        return torch.cat([one.flatten() for one in found])

    return weights, product


def divisor(
    model: nn.Module, text: torch.Tensor, size: int | None = None, eps: float = 1e-8
) -> dict[str, torch.Tensor]:
    """Return by tensor what Adam would divide by if its steps were drawn from a text.

    It is the root of what the squared gradient of a step is expected to be: that of the mean, and
    the variance over rows by the number of rows in a step.

    Args:
        model: A model in eval mode; it stays as it is.
        text: Token ids ``[rows, length]``.
        size: Rows in a step; None: all of these.
        eps: Added at the end.
    """
    model = _twice_differentiable(model)
    weights = dict(model.named_parameters())
    rows = [_gradient(model, row, weights) for row in text.split(1)]
    found = {}
    for name, several in zip(weights, zip(*rows, strict=True), strict=True):
        each = torch.stack(several).float()
        spread = each.var(0, correction=min(1, len(each) - 1)) / (size or len(each))
        found[name] = (each.mean(0).square() + spread).sqrt() + eps
    return found


def sectors_of(weights: Weights, layout: Layout, factors) -> list[str]:
    """Return the sectors that some parameters have: symmetric, then R, H, N."""
    axes = {
        axis
        for name, weight in weights.items()
        for blocks in pieces(weight, layout[name], factors)
        for axis in blocks.copy_axes
    }
    letters = {SYMMETRY[axis] for axis in axes if axis in SYMMETRY}
    return ["symmetric", *sorted(letters, key="RHN".index)]


def projector(weights: Weights, layout: Layout, factors, sector: str) -> Product:
    """Return the orthogonal projection of flat vectors on a sector; padding is symmetric."""

    def project(vector: torch.Tensor) -> torch.Tensor:
        mean = vector.clone()
        for name, part in _split(mean, weights).items():
            average(part, layout[name], factors, None if sector == "symmetric" else sector)
        return mean if sector == "symmetric" else vector - mean

    return project


def ends(product: Product, start: torch.Tensor) -> Iterator[tuple[str, float]]:
    """Yield the smallest and the largest eigenvalue, each with a bound of its error.

    The bound is the length of A v - λ v: a symmetric matrix has an eigenvalue at most so far away.

    Args:
        product: The matrix A.
        start: A vector of the subspace that A acts in; others than its own are not found.
    """

    def of_numpy(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(vector).to(start)).cpu().numpy()

    first = start.cpu().numpy()
    if not of_numpy(first).any():  # a sector that the function does not depend on
        for part in ("smallest", "smallest error", "largest", "largest error"):
            yield part, 0.0
        return
    matrix = LinearOperator((len(first), len(first)), matvec=of_numpy, dtype=first.dtype)
    values, vectors = eigsh(matrix, k=2, which="BE", tol=TOLERANCE, v0=first)  # in order
    for part, value, vector in zip(("smallest", "largest"), values, vectors.T, strict=True):
        yield part, float(value)
        yield f"{part} error", float(np.linalg.norm(of_numpy(vector) - value * vector))


def trace(product: Product, probes: list[torch.Tensor]) -> Iterator[tuple[str, float]]:
    """Yield the trace by Hutchinson's estimator, and its standard error over the probes.

    Args:
        product: The matrix.
        probes: Random signs.
    """
    found = torch.stack([probe @ product(probe) for probe in probes])
    yield "trace", found.mean().item()
    yield "trace error", found.std().item() / len(found) ** 0.5


def _twice_differentiable(model: nn.Module) -> nn.Module:
    """Return a copy in at least float32, with the attention whose gradient has a gradient."""
    model = copy.deepcopy(model).to(torch.promote_types(model.dtype, torch.float32))
    model.set_attn_implementation("eager")
    return model


def _gradient(model: nn.Module, batch: torch.Tensor, weights: Weights, **options):
    """Return the gradient of the mean loss of the next token."""
    logits = model(input_ids=batch, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    return torch.autograd.grad(loss, list(weights.values()), **options)


def _split(vector: torch.Tensor, weights: Weights) -> dict[str, torch.Tensor]:
    """Return the views of a flat vector that lie where the parameters do."""
    parts = vector.split([weight.numel() for weight in weights.values()])
    return {n: part.view_as(w) for (n, w), part in zip(weights.items(), parts, strict=True)}

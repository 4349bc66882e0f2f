"""Metrics of activations on a text: what copies still share, and how many neurons say something.

Shapes: T tokens of the batch, n copies, U units of the source, W units of the model.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from hcviz.architecture.axes import HEADS, NEURONS, RESIDUAL, SYMMETRY, Dim, Segment, TensorAxes
from hcviz.architecture.blocks import Blocks, pieces
from hcviz.metrics._registry import Row, metric

DEAD = 0.01
"""A neuron is dead if it never exceeds this share of its layer's root mean square."""
DUPLICATE = 0.999
"""Neurons are duplicates above this correlation."""
Layout = Mapping[str, TensorAxes]


@metric("twins", of="model")
def twins(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Mean Pearson correlation of every unit with its copies: streams R, heads H, neurons N.

    Equal copies give 1, unrelated units about 0. Units that are constant on this text are left out.
    """

    def see(copies: torch.Tensor) -> Iterator[Row]:
        value = twin_correlation(copies).nanmean().item()
        if value == value:
            yield {"value": value}

    yield from rows_of_copies(model, batch, layout, factors, see)


@metric("twins.units", of="model")
def twin_units(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Pearson correlation of each unit with its copies; row is the unit in the source."""

    def see(copies: torch.Tensor) -> Iterator[Row]:
        for unit, value in enumerate(twin_correlation(copies).tolist()):
            yield {"row": unit, "value": value}

    yield from rows_of_copies(model, batch, layout, factors, see)


@metric("neurons", of="model", needs_clone=False)
def neurons(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Shares of dead and of duplicate neurons, and the effective number of distinct ones.

    ``part`` is ``dead`` (never beyond 1% of the layer's root mean square), ``duplicate``
    (correlates above 0.999 with another) or ``distinct``: the participation ratio
    ``tr(C)^2 / tr(C^2)`` of the activations' covariance C, at most the number of tokens less one.
    """

    def see(activations: torch.Tensor) -> Iterator[Row]:
        level = activations.square().mean().sqrt()
        dead = activations.abs().amax(0) <= DEAD * level
        yield {"part": "dead", "value": dead.double().mean().item()}
        unit = _standardised(activations).nan_to_num()
        found, rows = [], 1024
        for start in range(0, unit.shape[1], rows):
            table = unit[:, start : start + rows].T @ unit
            table.diagonal(start).zero_()
            found.append(table.amax(1) > DUPLICATE)
        yield {"part": "duplicate", "value": torch.cat(found).double().mean().item()}
        centred = activations - activations.mean(0)
        spread = (centred @ centred.T).norm()  # the norm of the covariance too, but only [T, T]
        if spread:
            value = (centred.square().sum() / spread).square().item()
            yield {"part": "distinct", "value": value}

    paths = inner_dims(layout, NEURONS)
    for path, row in observed(model, batch, paths, lambda _, seen: see(seen), outputs=False):
        yield {"tensor": path, "axis": NEURONS, **row}


def rows_of_copies(
    model: nn.Module,
    batch: torch.Tensor,
    layout: Layout,
    factors,
    see: Callable[[torch.Tensor], Iterator[Row]],
) -> Iterator[Row]:
    """Yield what ``see`` says of the activations ``[n, T, U]`` of every axis with copies."""
    for axis, dims in copied_places(model, layout, factors).items():

        def split(path: str, seen: torch.Tensor, dims=dims) -> Iterator[Row]:
            for blocks in unit_copies(seen, dims[path], factors):
                yield from ({"part": blocks.part, **row} for row in see(blocks.grid()[0]))

        for path, row in observed(model, batch, dims, split, outputs=axis == RESIDUAL):
            yield {"tensor": path, "axis": axis, **row}


def copied_places(model: nn.Module, layout: Layout, factors) -> dict[str, dict[str, Dim]]:
    """Return by axis the modules where its units are seen, each with the dimension they fill.

    The residual stream is taken after each layer, heads before the attention's output projection,
    neurons before the down projection. Stacked experts, which are no modules, are left out.
    """
    return {
        RESIDUAL: dict.fromkeys(layer_paths(layout), stream_dim(model, layout, factors)),
        HEADS: inner_dims(layout, HEADS),
        NEURONS: inner_dims(layout, NEURONS),
    }


def unit_copies(seen: torch.Tensor, dim: Dim, factors) -> Iterator[Blocks]:
    """Yield the pieces of activations ``[T, W]`` that have copies; their grid()[0] is [n, T, U]."""
    text = Dim("keep", (Segment(((None, len(seen)),)),))
    for blocks in pieces(seen, (text, Dim("read", dim.segments)), factors):
        if blocks.read_copies:
            yield blocks


@torch.no_grad()
def observed(
    model: nn.Module, batch: torch.Tensor, paths: Iterable[str], see: Callable, *, outputs: bool
) -> Iterator[tuple[str, object]]:
    """Run a model's body on a text and yield what is seen at some of its modules.

    Args:
        model: The model; its unembedding is not run.
        batch: Token ids ``[batch, length]``.
        paths: The modules.
        see: Takes a path and the module's activations ``[T, W]`` in float64, and yields results;
            it is called inside the forward pass, so that one module's activations are kept at most.
        outputs: Show what the modules return, not what they are given.
    """
    found: list[tuple[str, object]] = []

    def keep(path: str, seen: tuple) -> None:
        found.extend((path, one) for one in see(path, seen[0].flatten(0, -2).double()))

    with hooked(model, paths, keep, outputs=outputs):
        model.base_model(input_ids=batch, use_cache=False)
    yield from found


@contextmanager
def hooked(
    model: nn.Module, paths: Iterable[str], see: Callable, *, outputs: bool
) -> Iterator[None]:
    """Show ``see`` a path and the tuple that its module returns, or is given, as the model runs."""
    handles = []
    for path in paths:

        def hook(_: nn.Module, given, returned=None, *, path: str = path) -> None:
            seen = returned if outputs else given
            see(path, (seen,) if isinstance(seen, torch.Tensor) else seen)

        module = model.get_submodule(path)
        register = module.register_forward_hook if outputs else module.register_forward_pre_hook
        handles.append(register(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inner_dims(layout: Layout, letter: str) -> dict[str, Dim]:
    """Return the modules that read heads (H) or neurons (N), each with the dimension it reads."""
    return {
        name.removesuffix(".weight"): dim
        for name, dims in layout.items()
        for dim in dims
        if len(dims) == 2
        and name.endswith(".weight")
        and dim.role == "read"
        and {*map(SYMMETRY.get, dim.axes())} == {letter}
    }


def layer_paths(names: Iterable[str]) -> list[str]:
    """Return the paths of the decoder layers, in order, from the names of the tensors.

    Example:
        >>> layer_paths(["wte.weight", "h.0.attn.weight", "h.0.mlp.weight", "h.1.attn.weight"])
        ['h.0', 'h.1']
    """
    found = (re.match(r"(.*?\b\d+)\.", name) for name in names)
    return sorted({m[1] for m in found if m}, key=lambda path: int(path.rpartition(".")[2]))


def stream_dim(model: nn.Module, layout: Layout, factors) -> Dim:
    """Return the axis map of the residual stream."""
    every = (dim for dims in layout.values() for dim in dims if dim.axes() == {"hidden"})
    return next(dim for dim in every if dim.wide_size(factors) == model.config.hidden_size)


def twin_correlation(copies: torch.Tensor) -> torch.Tensor:
    """Return each unit's mean correlation over the pairs of its copies: [n, T, U] -> [U].

    Copies that are equal bit by bit give exactly 1, constant ones NaN.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [4.0]], [[2.0], [4.0], [8.0]]], dtype=torch.float64)
        >>> round(twin_correlation(x).item(), 12)
        1.0
    """
    pairs = itertools.combinations([_standardised(one) for one in copies], 2)
    return torch.stack([1 - (a - b).square().sum(0) / 2 for a, b in pairs]).mean(0)


def _standardised(activations: torch.Tensor) -> torch.Tensor:
    """Give every column of ``[T, W]`` the mean 0 and the norm 1; NaN to those that are constant."""
    centred = activations - activations.mean(0)
    norm = centred.norm(dim=0)
    constant = norm <= 1e-10 * activations.norm(dim=0)  # what rounding leaves of a constant
    return centred / norm.masked_fill(constant, float("nan"))

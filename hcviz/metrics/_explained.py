"""Cloning R2: how much of the units' variance copies share, in the forward and backward pass.

Shapes: T tokens of a block of text, n copies, U units of the source, W units of the model.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import torch
from torch import nn

from hcviz.architecture.axes import RESIDUAL, Dim
from hcviz.metrics._activations import Layout, copied_places, hooked, unit_copies
from hcviz.metrics._registry import Row, metric

Seen = tuple[torch.Tensor, torch.Tensor]
"""Activations, and the gradients of the loss by them."""


@metric("cloning_r2", of="model")
def cloning_r2(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Share of the variance over units that their copies' mean explains (Joudaki et al. 2025).

    Equal copies give 1, unrelated ones about 0. ``part`` is ``forward``, of activations, or
    ``backward``, of the gradients of the loss by them.
    """
    places = copied_places(model, layout, factors)
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for block in batch.split(1):
        for (axis, path), both in _both_ways(model, block, places).items():
            for part, seen in zip(("forward", "backward"), both, strict=True):
                seen = seen.detach().flatten(0, -2).double()
                for blocks in unit_copies(seen, places[axis][path], factors):
                    for place, value in enumerate(variances(blocks.grid()[0])):
                        sums[axis, path, part][place] += value
    for (axis, path, part), (within, total) in sums.items():
        if total:
            yield {"tensor": path, "axis": axis, "part": part, "value": 1 - within / total}


def variances(copies: torch.Tensor) -> tuple[float, float]:
    """Return the variance over copies, and over all units, summed over tokens and units.

    Both are those of samples (over n - 1 and W - 1), so that unrelated copies have as much of the
    one as of the other; that of copies that are equal bit by bit is exactly 0.

    Example:
        >>> variances(torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]], dtype=torch.float64))
        (2.0, 7.333333333333333)
    """
    count, _, units = copies.shape
    pairs = itertools.combinations(copies, 2)
    within = sum((a - b).square().sum().item() for a, b in pairs) / (count * (count - 1))
    return within, units * copies.movedim(0, 1).flatten(1).var(1).sum().item()


def _both_ways(
    model: nn.Module, block: torch.Tensor, places: Mapping[str, Mapping[str, Dim]]
) -> dict[tuple[str, str], Seen]:
    """Run a model forwards and backwards; no parameter gets a gradient."""
    kept: dict[tuple[str, str], torch.Tensor] = {}
    with torch.enable_grad(), ExitStack() as stack:
        # A model whose parameters are frozen would have no graph.
        embedding = model.get_input_embeddings()
        handle = embedding.register_forward_hook(lambda _, __, out: out.requires_grad_())
        stack.callback(handle.remove)
        for axis, dims in places.items():

            def keep(path: str, seen: tuple, axis: str = axis) -> None:
                kept[axis, path] = seen[0]

            stack.enter_context(hooked(model, dims, keep, outputs=axis == RESIDUAL))
        loss = model(input_ids=block, labels=block, use_cache=False).loss
        gradients = torch.autograd.grad(loss, list(kept.values()))
    return dict(zip(kept, zip(kept.values(), gradients, strict=True), strict=True))

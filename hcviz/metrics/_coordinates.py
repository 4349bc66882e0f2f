"""How far a model's activations have moved since its run began: the coordinate check."""

from collections.abc import Iterator

import torch
from torch import nn

from hcviz.architecture.axes import HEADS, NEURONS, RESIDUAL
from hcviz.metrics._activations import Layout, hooked, inner_dims, layer_paths
from hcviz.metrics._context import HEAD
from hcviz.metrics._registry import Row, metric


@metric("coordinates", of="model", needs_clone=False, needs=("start",))
def coordinates(
    model: nn.Module, batch: torch.Tensor, layout: Layout, factors, start: nn.Module
) -> Iterator[Row]:
    """Root mean square over tokens and units of what a layer returns: its ``size`` and ``change``.

    The change is since the run's first snapshot. ``axis`` tells the residual stream (R), what
    attention (H) and MLP (N) add to it, and logits (none); row is the width. Where the change grows
    with the width, a learning rate does not carry over (Yang et al., 2022).
    """
    places = dict.fromkeys(layer_paths(layout), RESIDUAL)
    places |= {path: letter for letter in (HEADS, NEURONS) for path in inner_dims(layout, letter)}
    now, before = (_outputs(one, batch, places) for one in (model, start))
    for path, seen in now.items():
        where = {"tensor": path, "axis": places.get(path), "row": model.config.hidden_size}
        for part, values in (("change", seen - before[path]), ("size", seen)):
            yield {**where, "part": part, "value": values.square().mean().sqrt().item()}


@torch.no_grad()
def _outputs(model: nn.Module, batch: torch.Tensor, paths) -> dict[str, torch.Tensor]:
    """Return in float64 what modules return on a text, and the logits."""
    found: dict[str, torch.Tensor] = {}
    with hooked(model, paths, lambda path, seen: found.update({path: seen[0]}), outputs=True):
        found[HEAD] = model(input_ids=batch, use_cache=False).logits
    return {path: seen.double() for path, seen in found.items()}

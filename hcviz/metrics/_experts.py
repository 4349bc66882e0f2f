"""Mixtures of experts: which experts are chosen, how surely, and how alike they are.

Shapes: T tokens of the batch, E experts, k of them chosen for a token.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.special import entr

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.metrics._activations import Layout, hooked
from hcviz.metrics._registry import Row, is_stack, metric


@metric("experts", of="model", needs_clone=False)
@torch.no_grad()
def experts(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Share of the choices that fall on every expert, how even they are, how sure the router is.

    ``axis`` is ``load`` (row is the expert), ``balance``, the entropy of the loads, or ``entropy``,
    the mean entropy of the router's softmax over all experts; both over ln E, so from 0 to 1.
    """
    places = routers(layout)
    chosen: dict[str, torch.Tensor] = {}
    sure: dict[str, torch.Tensor] = {}

    def given(path: str, seen: tuple) -> None:
        chosen[path] = next(x for x in seen if x.dtype in (torch.int32, torch.int64)).flatten()

    def returned(path: str, seen: tuple) -> None:
        sure[path] = entr(seen[0].double().softmax(-1)).sum(-1).mean()

    with (
        hooked(model, places, given, outputs=False),
        hooked(model, places.values(), returned, outputs=True),
    ):
        model.base_model(input_ids=batch, use_cache=False)
    for path, router in places.items():
        count = model.get_submodule(router).weight.shape[0]
        loads = torch.bincount(chosen[path], minlength=count)[:count].double()
        loads = loads / loads.sum()
        for row, value in enumerate(loads.tolist()):
            yield {"tensor": router, "axis": "load", "row": row, "value": value}
        for axis, value in (("balance", entr(loads).sum()), ("entropy", sure[router])):
            yield {"tensor": router, "axis": axis, "value": value.item() / math.log(count)}


@metric("experts.cosine", needs_clone=False)
def experts_cosine(weight: torch.Tensor, axes: TensorAxes, factors: Factors) -> Iterator[Row]:
    """Cosine of every two experts of a stack, as vectors of all their entries; row and col."""
    if is_stack(axes):
        flat = nn.functional.normalize(weight.double().flatten(1), dim=1)
        table = flat @ flat.T
        for row, col in itertools.combinations(range(len(flat)), 2):
            yield {"row": row, "col": col, "value": table[row, col].item()}


def routers(layout: Layout) -> dict[str, str]:
    """Return the modules that hold stacked experts, each with the router beside it."""
    stacks = {
        name.rpartition(".")[0]: axes[0].segments[0].size
        for name, axes in layout.items()
        if is_stack(axes)
    }
    found = {}
    for path, count in stacks.items():
        block, _, _ = path.rpartition(".")
        for name, axes in layout.items():
            scores = len(axes) == 2 and not axes[0].axes()
            if scores and name.startswith(f"{block}.") and axes[0].segments[0].size == count:
                found[path] = name.removesuffix(".weight")
    return found

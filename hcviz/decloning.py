"""declone(): a clone projected back on its symmetric part, a model of its source's size."""

import copy
import math
from fractions import Fraction

import pandas as pd
import torch
from accelerate import init_empty_weights
from transformers import PreTrainedModel

from hcviz.blocks import TensorAxes, pieces, wide_shape
from hcviz.expansion import Expansion, widen
from hcviz.growth import assign, match_buffers, recipe_of, scales_of, share_embedding, ties
from hcviz.infer import tensors
from hcviz.layouts import layout
from hcviz.widths import resized


@torch.no_grad()
def declone(model: PreTrainedModel) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Project a clone, trained or not, back on its symmetric part.

    Copies that are written are averaged and copies that are read are added up: what a symmetric
    expansion undoes. A clone that is still locked loses nothing and computes what it did.

    Args:
        model: A clone; ``config.hcviz`` says how it was made.

    Returns:
        The model of the source's size, and a frame with one row per tensor: ``lost``, the share of
        its ``squared_norm`` that has no place in it.

    Raises:
        HcvizError: If the model is no clone.

    Example:
        >>> import hcviz
        >>> model, _ = hcviz.load("nano:llama")
        >>> small, lost = declone(hcviz.clone(model))
        >>> small.num_parameters() == model.num_parameters(), float(lost["lost"].max())
        (True, 0.0)
    """
    recipe = recipe_of(model)
    factors = recipe["factors"]
    axes = layout(model, factors=factors)
    config = resized(model.config, **{axis: Fraction(1, n) for axis, n in factors.items()})
    del config.hcviz
    with init_empty_weights(include_buffers=False):
        small = type(model)(config)
    found = tensors(model)
    for name, tensor in found.items():
        assign(small, name, _project(tensor, axes[name], factors))
    if ties(model):
        share_embedding(model, small)
    match_buffers(model, small)
    scales, _ = scales_of(small, axes, factors, "keep", recipe.get("embed_power"))
    rows = []
    for name, tensor in tensors(small).items():
        again = widen(name, tensor, axes[name], factors, Expansion()).double()
        full = found[name].double()
        away, total = (full - again).square().sum(), full.square().sum()
        lost = (away / total).item() if total else 0.0
        rows.append({"tensor": name, "lost": lost, "squared_norm": total.item()})
        scale, offset = scales.get(name, (1.0, 0.0))
        tensor.data = (tensor.data - (scale - 1) * offset) / scale if scale != 1 else tensor.data
    small.generation_config = copy.deepcopy(model.generation_config)
    return small.to(model.device).eval(), pd.DataFrame(rows)


def _project(wide: torch.Tensor, axes: TensorAxes, factors) -> torch.Tensor:
    """Average a tensor over its written copies, after adding up those that are read."""
    small = torch.empty(wide_shape(axes, {}), dtype=wide.dtype, device=wide.device)
    for source, large in zip(pieces(small, axes, {}), pieces(wide, axes, factors), strict=True):
        copies = len(large.write_copies) + len(large.read_copies)
        if copies:
            total = large.view.double().sum(tuple(range(copies))) / math.prod(large.write_copies)
            source.view.copy_(total)
        else:
            source.view.copy_(large.view)
    return small

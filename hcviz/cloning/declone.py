"""declone(): a clone projected back on its symmetric part, a model of its source's size."""

import math
from fractions import Fraction

import pandas as pd
import torch
from transformers import PreTrainedModel

from hcviz.architecture.axes import Dim, Factors, Segment, TensorAxes, wide_shape
from hcviz.architecture.blocks import pieces
from hcviz.architecture.factors import parse_factors
from hcviz.architecture.infer import meta_model, origins, tensors
from hcviz.architecture.segments import Fusing
from hcviz.architecture.widths import resized
from hcviz.errors import CloneError
from hcviz.io.models import check_model
from hcviz.widening.folding import fold, ties
from hcviz.widening.layout import layout
from hcviz.widening.plan import assign, empty, finish, recipe_of


@torch.no_grad()
def declone(model: PreTrainedModel) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Project a clone, trained or not, back on its symmetric part.

    Copies that are written are averaged and copies that are read are added up: what a symmetric
    expansion undoes. A clone that is still locked loses nothing and computes what it did. Padding
    (a factor of the residual stream that is not whole) is dropped, and not counted.

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
    check_model(model)
    recipe = recipe_of(model)
    factors = parse_factors(recipe["factors"])
    axes = layout(model, factors=factors)
    config = resized(model.config, **{axis: Fraction(1, n) for axis, n in factors.items()})
    try:
        for name, value in recipe.get("changed", {}).items():
            setattr(config, name, value)
    except Exception as error:  # fields check themselves
        raise CloneError(f"What config.hcviz changed cannot be undone: {error}") from error
    del config.hcviz
    made_of, copies = origins(meta_model(config, type(model)), model, factors), {}
    small, rows, wide = empty(type(model), config), [], tensors(model)
    for name in wide:
        copies.setdefault(made_of.get(name, name), []).append(name)
    for name, names in copies.items():  # several where a head has a tensor by itself
        dims = (Dim("write", (Segment((("copies", 1),)),)), *axes[name])
        together = torch.stack([wide[one] for one in names])
        part, away, total = _project(together, dims, {**factors, "copies": len(names)})
        rows.append({"tensor": name, "lost": away / total if total else 0.0, "squared_norm": total})
        assign(small, name, part[0])
    finish(model, small, tie=ties(model))
    axes = {name: axes[name] for name in copies}
    folding = fold(small, axes, factors, "keep", Fusing(**recipe.get("fusing", {})))
    for name, tensor in tensors(small).items():
        scale, offset = folding.scales.get(name, 1.0), folding.offsets.get(name, 0.0)
        tensor.data = (tensor.data - (scale - 1) * offset) / scale if scale != 1 else tensor.data
    return small, pd.DataFrame(rows)


def _project(
    wide: torch.Tensor, axes: TensorAxes, factors: Factors
) -> tuple[torch.Tensor, float, float]:
    """Average a tensor over its written copies, after adding up those that are read.

    Returns:
        The projection, the squared norm that is outside it, and that of the whole.
    """
    small = torch.empty(wide_shape(axes, {}), dtype=wide.dtype, device=wide.device)
    sources = pieces(small, axes, factors, wide=False)
    away = total = 0.0
    for source, large in zip(sources, pieces(wide, axes, factors), strict=True):
        copies = len(large.write_copies) + len(large.read_copies)
        mean = large.view.double()
        mean = mean.mean(tuple(range(copies))) if copies else mean
        source.view.copy_(mean * math.prod(large.read_copies))
        rounded = source.view.double() / math.prod(large.read_copies)
        away += (large.view.double() - rounded.to(wide.dtype).double()).square().sum().item()
        total += large.view.double().square().sum().item()
    return small, away, total

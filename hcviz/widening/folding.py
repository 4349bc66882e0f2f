"""Constants that a clone folds into its weights: tied heads, scaled embeddings, padding, head size.

The configuration of a clone is one of the stock class, so whatever its width changes in the
computation must be undone by a weight next to it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hcviz.architecture.axes import Factors, TensorAxes, growing
from hcviz.architecture.families import family_of
from hcviz.architecture.infer import tensors
from hcviz.architecture.segments import Fusing

EPS = re.compile(r"norm\w*_eps(ilon)?$")
NORM = re.compile(r"norm|\bln|_ln", re.IGNORECASE)


@dataclass
class Folding:
    """What is folded into the tensors of a clone, by name."""

    scales: dict[str, float] = field(default_factory=dict)
    """Factors of whole tensors."""
    offsets: dict[str, float] = field(default_factory=dict)
    """What the model adds to a norm's gain before it uses it."""
    fills: dict[str, str] = field(default_factory=dict)
    """What the padding of a tensor's written units holds; see
    :func:`hcviz.widening.expansion.widen`."""
    head: str | None = None
    """The name of the head that the clone gets for itself."""

    def scale(self, name: str, by: float) -> None:
        """Multiply a tensor by a further factor."""
        self.scales[name] = self.scales.get(name, 1.0) * by


def ties(model: PreTrainedModel) -> bool:
    """Tell whether the output head is the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def fold(
    source: PreTrainedModel,
    axes: Mapping[str, TensorAxes],
    factors: Factors,
    tie: str,
    fusing: Fusing,
) -> Folding:
    """Return what a clone of a source must fold into its weights; only structure is looked at.

    - A model that multiplies embeddings by hidden**p gets them divided by n**p.
    - A tied head reads n copies of what it would read once; the final norm's gain (and bias) takes
      its 1/n.
    - A padded residual stream has another mean square: the gains of its norms (and, in the
      configuration, their eps) or whatever is written to it make up for that.
    - Wider heads have larger dot products: queries and keys shrink.
    """
    folding = Folding()
    norms = _norms(source, axes)
    for name in norms:
        if name.endswith("weight"):
            folding.offsets[name] = family_of(source.config).norm_offset
    if int(factors["hidden"]) != factors["hidden"]:
        _fold_padding(folding, axes, factors, norms, fusing)
    if factors["head_dim"] > 1:
        _fold_head_size(folding, axes, factors, norms, fusing)
    _fold_head(folding, source, axes, factors, tie, fusing)
    return folding


def _fold_padding(folding: Folding, axes, factors: Factors, norms: list[str], fusing) -> None:
    """Make up for the padding of the residual stream."""
    kept = int(factors["hidden"]) / float(factors["hidden"])
    for name, dims in axes.items():
        if not growing(dims, "write") & {"hidden"}:
            continue
        gain = name in norms and not name.endswith("bias")
        folding.fills[name] = "mean" if gain else "zero" if name in norms else fusing.pad
        if gain and fusing.carry != "readers":
            folding.scale(name, math.sqrt(kept))
        elif name not in norms and fusing.carry != "norm":
            folding.scale(name, 1 / math.sqrt(kept))
    for name, dims in axes.items():
        if fusing.carry == "readers" and "hidden" in growing(dims, "read"):
            folding.scale(name, math.sqrt(kept))
        if fusing.carry == "norm" and name in norms and "hidden" not in growing(dims):
            for part in _projection(name, axes):  # its eps changes too, so its input must
                folding.scale(part, math.sqrt(kept))


def _projection(norm: str, axes) -> list[str]:
    """Return the projection whose result a norm of queries or keys takes, by its name."""
    path = norm.rpartition(".")[0]
    outer, _, leaf = path.rpartition(".")
    wanted = f"{outer}.{leaf[0]}_proj."
    return [name for name in axes if name.startswith(wanted)] if norm.endswith("weight") else []


def _fold_head_size(folding: Folding, axes, factors: Factors, norms: list[str], fusing) -> None:
    """Make up for dot products of wider heads, in the norms of queries and keys if there are any.

    Values may be fused with queries and keys; they shrink with them, and what reads them grows.
    """
    shrink = factors["head_dim"] ** -fusing.head_power
    sized = {name: dims for name, dims in axes.items() if "head_dim" in growing(dims)}
    gains = [name for name in sized if name in norms]
    for name, dims in sized.items():
        if gains:
            folding.scale(name, shrink if name in norms else 1.0)
        else:
            folding.scale(name, 1 / shrink if "head_dim" in growing(dims, "read") else shrink)


def _fold_head(folding: Folding, source, axes, factors: Factors, tie: str, fusing) -> None:
    """Make up for scaled embeddings and for a tied head."""
    family, n, head = family_of(source.config), factors["hidden"], f"{_head_path(source)}.weight"
    embedding = embedding_name(source)
    untie = tie == "untie" and ties(source)
    if n == 1 or "hidden" not in growing(axes[embedding]):
        folding.head = head if untie else None
        return
    power = family.embed_power if fusing.embed_power is None else fusing.embed_power
    if power:
        rounded = fusing.embed_power is None
        small, large = (_multiplier(source, power, n, rounded=rounded) for n in (1, n))
        folding.scale(embedding, small / large)
    if not ties(source):
        return
    norm = final_norm(source, axes)
    if untie or not norm:
        folding.head = head
        if fusing.carry == "readers" and n != int(n):
            folding.scale(head, math.sqrt(int(n) / n))
        return
    for name in norm:
        folding.scale(name, 1 / (int(n) * folding.scales.get(embedding, 1.0)))


def eps_fields(config, factors: Factors, fusing: Fusing) -> dict[str, float]:
    """Return the eps of norms that a padded residual stream needs, by configuration field."""
    if int(factors["hidden"]) == factors["hidden"] or fusing.carry != "norm":
        return {}
    kept = int(factors["hidden"]) / float(factors["hidden"])
    found = {k: v for k, v in config.to_dict().items() if EPS.search(k) and isinstance(v, float)}
    return {name: value * kept for name, value in found.items()}


def _norms(source, axes) -> list[str]:
    """Return the names of the gains and biases of norms."""
    found = []
    for name in axes:
        path, _, _ = name.rpartition(".")
        module = source.get_submodule(path)
        kind = f"{path.rpartition('.')[2]} {type(module).__name__}"
        vector = len(axes[name]) == 1 and not isinstance(module, nn.Linear | Conv1D)
        if vector and NORM.search(kind):
            found.append(name)
    return found


def _multiplier(source, power: float, factor: int, *, rounded: bool) -> float:
    """Return the multiplier of a model's embeddings; a listed family keeps it in its own dtype."""
    exact = (source.config.hidden_size * factor) ** power
    return torch.tensor(exact, dtype=torch.float32).to(source.dtype).item() if rounded else exact


def embedding_name(source) -> str:
    """Return the input embedding's name among a model's tensors; a tied head may come first."""
    table = source.get_input_embeddings().weight
    return next(name for name, tensor in tensors(source).items() if tensor is table)


def _head_path(source) -> str:
    """Return the path of the output head."""
    return next(p for p, m in source.named_modules() if m is source.get_output_embeddings())


def final_norm(source, axes) -> list[str]:
    """Return the names of the final norm's gain and bias: the last norm outside the layers."""
    found = [
        path
        for path, module in source.named_modules()
        if not any(part.isdigit() or "emb" in part.lower() for part in path.split("."))
        and getattr(module, "weight", None) is not None
        and module.weight.dim() == 1
        and axes[f"{path}.weight"][0].segments[0].axes() == ("hidden",)
    ]
    if not found:
        return []
    above = _head_path(source).rpartition(".")[0]
    own = [path for path in found if above and path.startswith(f"{above}.")]  # a head with a norm
    last = (own or found)[-1]
    return [f"{last}.{part}" for part in ("weight", "bias") if f"{last}.{part}" in axes]

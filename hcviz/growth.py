"""Grow a whole model: every tensor by its axes, constants folded, the stock class around them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hcviz.blocks import Dim, TensorAxes, wide_shape
from hcviz.errors import CloneError
from hcviz.expansion import Expansion, widen
from hcviz.families import family_of
from hcviz.infer import tensors
from hcviz.widths import resized


def recipe(factors: Mapping[str, int], form: Expansion, config) -> dict:
    """Return what a clone's configuration says of its making, JSON-ready."""
    return {
        "factors": dict(factors),
        "expansion": form.form,
        "snr_db": form.snr_db,
        "seed": form.seed,
        "source": getattr(config, "_name_or_path", "") or None,
    }


def recipe_of(model: PreTrainedModel) -> dict:
    """Return how a clone was made, as its configuration says.

    Raises:
        CloneError: If it does not.
    """
    found = getattr(model.config, "hcviz", None)
    if not found:
        raise CloneError(
            f"This {type(model).__name__} does not say how it was cloned (no config.hcviz). "
            "Pass a model that hcviz.clone made, or one trained from it."
        )
    return found


def ties(model: PreTrainedModel) -> bool:
    """Tell whether the output head is the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor of a source, known from its structure, without its weights."""

    config: PreTrainedConfig
    """The clone's configuration."""
    axes: Mapping[str, TensorAxes]
    factors: Mapping[str, int]
    form: Expansion
    scales: Mapping[str, tuple[float, float]]
    """Folded constants by name: a factor, and what the model adds to a norm's gain."""
    head: str | None
    """The name of the head that the clone gets for itself; its source is the tied embedding."""
    embedding: str
    """The name of the input embedding."""

    def widened(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return one tensor of the clone, given the source's (the embedding for :attr:`head`)."""
        if name == self.head:
            index, write = self.axes[self.embedding]
            axes = (Dim("write", index.segments), Dim("read", write.segments))
            return widen(name, tensor, axes, self.factors, self.form)
        scale, offset = self.scales.get(name, (1.0, 0.0))
        wide = widen(name, tensor, self.axes[name], self.factors, self.form, scale)
        return wide + (scale - 1) * offset if offset and scale != 1 else wide


def plan(
    source: PreTrainedModel,
    axes: Mapping[str, TensorAxes],
    factors: Mapping[str, int],
    form: Expansion,
    tie: str,
    embed_power: float | None = None,
) -> Plan:
    """Decide what becomes of every tensor of a source.

    Args:
        source: The model to widen; it may be on the meta device.
        axes: The axes of its tensors.
        factors: The factor of each axis.
        form: The expansion.
        tie: ``keep`` or ``untie``.
        embed_power: The model multiplies its embeddings by ``hidden_size ** embed_power``; None:
            as its family does.

    Raises:
        CloneError: If the model is tied otherwise than its configuration says.
    """
    config = resized(source.config, **factors)
    config.hcviz = recipe(factors, form, source.config)
    if embed_power is not None:
        config.hcviz["embed_power"] = embed_power
    scales, head = scales_of(source, axes, factors, tie, embed_power)
    odd = sorted(tensors(source).keys() ^ axes.keys())
    if odd and head is None:
        raise CloneError(
            f"{odd[0]} is only in one of the model and the model that its configuration describes. "
            "If the output head was tied or untied by hand, set "
            f"model.config.tie_word_embeddings={ties(source)}."
        )
    if head is not None:
        config.tie_word_embeddings = False
    config.dtype = source.dtype
    return Plan(config, axes, factors, form, scales, head, embedding_name(source))


@torch.no_grad()
def grow(source: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """Build the wide model around the widened tensors; nothing of its size is initialised.

    Args:
        source: The model to widen.
        plan: What becomes of its tensors.

    Raises:
        CloneError: Naming the first tensor whose widened shape is not what the wide model wants.
    """
    with init_empty_weights(include_buffers=False):
        wide = type(source)(plan.config)
    found, expected = tensors(source), tensors(wide)
    check_shapes(plan, found, expected, type(source))
    for name, tensor in found.items():
        assign(wide, name, plan.widened(name, tensor))
    if plan.head:
        assign(wide, plan.head, plan.widened(plan.head, source.get_input_embeddings().weight))
    elif ties(source):
        share_embedding(source, wide)
    missing = [name for name, tensor in tensors(wide).items() if tensor.is_meta]
    if missing:
        raise CloneError(
            f"{missing[0]} has no counterpart in the source; this model cannot be widened yet."
        )
    match_buffers(source, wide)
    trains = {name for name, parameter in source.named_parameters() if parameter.requires_grad}
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(name in trains or name not in found)
    wide.to(source.device)
    wide.generation_config = copy.deepcopy(source.generation_config)
    return wide.eval()


def check_shapes(plan: Plan, found, expected, model_class: type) -> None:
    """Compare the shapes that tensors grow to with those that the wide model has.

    Raises:
        CloneError: Naming the first tensor of ``found`` that does not become ``expected``.
    """
    for name, tensor in found.items():
        shape, target = wide_shape(plan.axes[name], plan.factors), tuple(expected[name].shape)
        if shape != target:
            raise CloneError(
                f"{name}: widened by {dict(plan.factors)} its shape {tuple(tensor.shape)} becomes "
                f"{shape}, but {model_class.__name__} wants {target}. This family cannot grow "
                "these axes apart; leave heads and kv_heads out, so that they follow hidden."
            )


def scales_of(source, axes, factors, tie, embed_power):
    """Return the folded constants ``{name: (scale, offset of the gain)}`` and a new head's name.

    A model that multiplies embeddings by hidden**p gets them divided by n**p. A tied head reads n
    copies of what it would read once; the final norm's gain (and bias) takes its 1/n.
    """
    family, n = family_of(source.config), factors["hidden"]
    embed_name = embedding_name(source)
    reads_hidden = any(s.axes() == ("hidden",) for dim in axes[embed_name] for s in dim.segments)
    if n == 1 or not reads_hidden:
        return {}, f"{_head_path(source)}.weight" if tie == "untie" and ties(source) else None
    power = family.embed_power if embed_power is None else embed_power
    rounded = embed_power is None
    multiplier = [_multiplier(source, power, width, rounded=rounded) for width in (1, n)]
    embed_scale = multiplier[0] / multiplier[1]
    scales = {embed_name: (embed_scale, 0.0)} if power else {}
    if not ties(source):
        return scales, None
    norm = final_norm(source, axes)
    if tie == "keep" and norm:
        for name in norm:
            offset = family.norm_offset if name.endswith("weight") else 0.0
            scales[name] = (1 / (n * embed_scale), offset)
        return scales, None
    return scales, f"{_head_path(source)}.weight"


def _multiplier(source, power: float, factor: int, *, rounded: bool) -> float:
    """Return the multiplier of a model's embeddings; a listed family keeps it in its own dtype."""
    exact = (source.config.hidden_size * factor) ** power
    return torch.tensor(exact, dtype=torch.float32).to(source.dtype).item() if rounded else exact


def match_buffers(source, other) -> None:
    """Cast a model's buffers (rotary tables, constants) to the dtypes that the source has."""
    kinds = {name: buffer.dtype for name, buffer in source.named_buffers()}
    for name, buffer in other.named_buffers():
        if name in kinds:
            assign(other, name, buffer.to(kinds[name]))


def share_embedding(source, wide) -> None:
    """Put the one widened embedding in both of its places, and let the class tie the rest."""
    table = wide.get_parameter(embedding_name(source))
    wide.get_input_embeddings().weight = wide.get_output_embeddings().weight = table
    wide.tie_weights()


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


def assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    else:
        module._buffers[leaf] = tensor

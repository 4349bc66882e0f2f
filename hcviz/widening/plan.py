"""Grow a whole model: every tensor by its axes, constants folded, the stock class around them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hcviz.architecture.axes import Dim, Factors, TensorAxes, wide_shape
from hcviz.architecture.infer import meta_model, origins, tensors
from hcviz.architecture.segments import Fusing
from hcviz.architecture.widths import AXES, check_multiple, resized
from hcviz.errors import CloneError
from hcviz.widening.expansion import PARTS, Expansion, finds, widen
from hcviz.widening.folding import Folding, embedding_name, eps_fields, fold, ties
from hcviz.widening.request import Growth
from hcviz.widening.rotary import rotary_fields


def recipe(growth: Growth, fusing: Fusing, changed: dict) -> dict:
    """Return what a clone's configuration says of its making, JSON-ready.

    Args:
        growth: What it grew by.
        fusing: What was found out about the layout.
        changed: Fields of it, other than widths, that the clone has otherwise, with the old values.
    """
    config, form = growth.config, growth.form
    written = {axis: n if isinstance(n, int) else str(n) for axis, n in growth.factors.items()}
    source = getattr(config, "_name_or_path", "") or None
    before = getattr(config, "hcviz", None)  # a clone of a clone
    made = {"factors": written, **form.to_dict(), "source": source, "fusing": fusing.to_dict()}
    extra = {"changed": changed, "before": before}
    return {**made, **{key: value for key, value in extra.items() if value}}


def recipe_of(model: PreTrainedModel) -> dict:
    """Return how a clone was made, as its configuration says.

    Raises:
        CloneError: If it does not.
    """
    found = getattr(model.config, "hcviz", None)
    if not found or not {*AXES} - {"expert_ffn"} <= found.get("factors", {}).keys():
        raise CloneError(
            f"This {type(model).__name__} does not say how it was cloned (no config.hcviz). "
            "Pass a model that hcviz.clone made, or one trained from it."
        )
    return found


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor of a source, known from its structure, without its weights."""

    wide: PreTrainedModel
    """The clone-to-be, on the meta device."""
    axes: Mapping[str, TensorAxes]
    factors: Factors
    form: Expansion
    folding: Folding
    """Constants by name, and the head that the clone gets for itself."""
    embedding: str
    """The name of the input embedding."""
    origins: Mapping[str, str]
    """Of which tensor of the source one is made that is kept for a head by itself."""

    @property
    def config(self) -> PreTrainedConfig:
        """The clone's configuration."""
        return self.wide.config

    @property
    def head(self) -> str | None:
        """The name of the head that the clone gets for itself; its source is the embedding."""
        return self.folding.head

    def widened(self, name: str, tensor: torch.Tensor, empty=torch.empty) -> torch.Tensor:
        """Return one tensor of the clone, given the source's (the embedding for :attr:`head`).

        ``empty`` gives its memory, as ``torch.empty`` does.
        """
        scale = self.folding.scales.get(name, 1.0)
        if name == self.head:
            index, write = self.axes[self.embedding]
            axes = (Dim("write", index.segments), Dim("read", write.segments))
            return widen(name, tensor, axes, self.factors, self.form, scale, empty=empty)
        offset = self.folding.offsets.get(name, 0.0) if scale != 1 else 0.0
        fill = self.folding.fills.get(name, "zero")
        wide = widen(name, tensor, self.axes[name], self.factors, self.form, scale, fill, empty)
        return wide + (scale - 1) * offset if offset else wide


def plan(
    source: PreTrainedModel, axes: Mapping[str, TensorAxes], growth: Growth, fusing: Fusing
) -> Plan:
    """Decide what becomes of every tensor of a source.

    Args:
        source: The model to widen; it may be on the meta device.
        axes: The axes of its tensors.
        growth: What they grow by.
        fusing: What was found out about the layout.

    Raises:
        CloneError: If the model is tied otherwise than its configuration says, a rule of the
            expansion finds no tensor, or the head size cannot grow under its positions.
    """
    factors, form = growth.factors, growth.form
    folding = fold(source, axes, factors, growth.tie, fusing)
    odd = sorted(tensors(source).keys() ^ axes.keys())
    if odd and folding.head is None:
        raise CloneError(
            f"{odd[0]} is only in one of the model and the model that its configuration describes. "
            "If the output head was tied or untied by hand, set "
            f"model.config.tie_word_embeddings={ties(source)}."
        )
    _check_rules(form, axes)
    config = resized(source.config, **factors)
    check_multiple(source.config, config)
    new = {**rotary_fields(source.config, factors), **eps_fields(source.config, factors, fusing)}
    for name, value in new.items():
        setattr(config, name, value)
    old = {name: copy.deepcopy(getattr(source.config, name)) for name in new}
    config.hcviz = recipe(growth, fusing, old)
    if folding.head is not None:
        config.tie_word_embeddings = False
    config.dtype = source.dtype
    wide = meta_model(config, type(source))
    made_of = origins(source, wide, factors)
    return Plan(wide, axes, factors, form, folding, embedding_name(source), made_of)


def _check_rules(form: Expansion, axes: Mapping[str, TensorAxes]) -> None:
    """Refuse a rule that finds nothing: it is a slip of the pen."""
    for key, _ in form.rules:
        if not any(finds(key, name, dims) for name, dims in axes.items()):
            raise CloneError(
                f"expansion: {key!r} finds no tensor of this model. It is a part "
                f"({', '.join(PARTS)}) or a regular expression over names such as "
                f"{', '.join(list(axes)[1:4])}."
            )


@torch.no_grad()
def grow(source: PreTrainedModel, plan: Plan, memory=torch.empty) -> PreTrainedModel:
    """Build the wide model around the widened tensors; nothing of its size is initialised.

    Args:
        source: The model to widen.
        plan: What becomes of its tensors.
        memory: Gives that of what is widened, as ``torch.empty`` does.

    Raises:
        CloneError: Naming the first tensor whose widened shape is not what the wide model wants.
    """
    wide = empty(type(source), plan.config)
    found = tensors(source)
    check_shapes(plan, found, tensors(wide), type(source))
    kept = {name: parameter.requires_grad for name, parameter in source.named_parameters()}
    for name, own in ({name: name for name in found} | plan.origins).items():
        assign(wide, name, plan.widened(own, found[own], memory))
        if own in kept:
            wide.get_parameter(name).requires_grad_(kept[own])
    if plan.head:
        table = source.get_input_embeddings().weight
        assign(wide, plan.head, plan.widened(plan.head, table, memory))
    finish(source, wide, tie=plan.head is None and ties(source))
    return wide


def empty(model_class: type, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model without initialising any weight; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        return model_class(config)


def finish(source: PreTrainedModel, model: PreTrainedModel, *, tie: bool) -> None:
    """Complete a model whose tensors have been assigned, in the way of its source.

    Args:
        source: The model whose dtypes of buffers, device and generation config it gets.
        model: The model; it is put into eval mode.
        tie: Share the embedding with the head.

    Raises:
        CloneError: Naming the first tensor that was not assigned.
    """
    if tie:
        share_embedding(source, model)
    missing = [name for name, tensor in tensors(model).items() if tensor.is_meta]
    if missing:
        raise CloneError(
            f"{missing[0]} has no counterpart in the source; this model cannot be widened yet."
        )
    match_buffers(source, model)
    model.to(source.device)
    model.generation_config = copy.deepcopy(source.generation_config)
    model.eval()


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


def assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    else:
        module._buffers[leaf] = tensor

"""Grow a whole model: every tensor by its axes, constants folded, the stock class around them."""

import copy
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedModel

from hcviz.blocks import TensorAxes, wide_shape
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


@torch.no_grad()
def grow(
    source: PreTrainedModel,
    axes: Mapping[str, TensorAxes],
    factors: Mapping[str, int],
    form: Expansion,
    tie: str,
    embed_power: float | None = None,
) -> PreTrainedModel:
    """Build the wide model around the widened tensors; nothing of its size is initialised.

    Args:
        source: The model to widen.
        axes: The axes of its tensors.
        factors: The factor of each axis.
        form: The expansion.
        tie: ``keep`` or ``untie``.
        embed_power: The model multiplies its embeddings by ``hidden_size ** embed_power``; None:
            as its family does.

    Raises:
        CloneError: Naming the first tensor whose widened shape is not what the wide model wants.
    """
    config = resized(source.config, **factors)
    config.hcviz = recipe(factors, form, source.config)
    if embed_power is not None:
        config.hcviz["embed_power"] = embed_power
    found = tensors(source)
    scales, head = scales_of(source, axes, factors, tie, embed_power)
    odd = sorted(found.keys() ^ axes.keys())
    if odd and head is None:
        raise CloneError(
            f"{odd[0]} is only in one of the model and the model that its configuration describes. "
            "If the output head was tied or untied by hand, set "
            f"model.config.tie_word_embeddings={ties(source)}."
        )
    if head is not None:
        config.tie_word_embeddings = False
    config.dtype = source.dtype
    with init_empty_weights(include_buffers=False):
        wide = type(source)(config)
    expected = tensors(wide)
    for name, tensor in found.items():
        shape, target = wide_shape(axes[name], factors), tuple(expected[name].shape)
        if shape != target:
            raise CloneError(
                f"{name}: widened by {dict(factors)} its shape {tuple(tensor.shape)} becomes "
                f"{shape}, but {type(source).__name__} wants {target}. This family cannot grow "
                "these axes apart; leave heads and kv_heads out, so that they follow hidden."
            )
        assign(wide, name, _widened(name, tensor, axes[name], factors, form, scales))
    if head is not None:
        name, parameter = head
        assign(wide, name, widen(name, parameter, _axes_of_head(axes, source), factors, form))
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


def _widened(name, tensor, axes, factors, form, scales) -> torch.Tensor:
    """Widen one tensor with the constant that is folded into it."""
    scale, offset = scales.get(name, (1.0, 0.0))
    wide = widen(name, tensor, axes, factors, form, scale)
    return wide + (scale - 1) * offset if offset and scale != 1 else wide


def scales_of(source, axes, factors, tie, embed_power):
    """Return the folded constants ``{name: (scale, offset of the gain)}`` and an untied head.

    A model that multiplies embeddings by hidden**p gets them divided by n**p. A tied head reads n
    copies of what it would read once; the final norm's gain (and bias) takes its 1/n.
    """
    family, n = family_of(source.config), factors["hidden"]
    embed_name = _embedding_name(source)
    reads_hidden = any(s.axes() == ("hidden",) for dim in axes[embed_name] for s in dim.segments)
    if n == 1 or not reads_hidden:
        return {}, _untied(source) if tie == "untie" and ties(source) else None
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
    return scales, _untied(source)


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
    table = wide.get_parameter(_embedding_name(source))
    wide.get_input_embeddings().weight = wide.get_output_embeddings().weight = table
    wide.tie_weights()


def _embedding_name(source) -> str:
    """Return the input embedding's name among a model's tensors; a tied head may come first."""
    table = source.get_input_embeddings().weight
    return next(name for name, tensor in tensors(source).items() if tensor is table)


def _head_path(source) -> str:
    """Return the path of the output head."""
    return next(p for p, m in source.named_modules() if m is source.get_output_embeddings())


def _untied(source):
    """Return the name and the weight of the head that a clone gets for itself."""
    return f"{_head_path(source)}.weight", source.get_output_embeddings().weight


def _axes_of_head(axes: Mapping[str, TensorAxes], source) -> TensorAxes:
    """Return the axes of a tied head used on its own: it reads what the embedding writes."""
    index, write = axes[_embedding_name(source)]
    return type(index)("write", index.segments), type(write)("read", write.segments)


def final_norm(source, axes) -> list[str]:
    """Return the names of the final norm's gain and bias: the last norm outside the layers."""
    found = [
        path
        for path, module in source.named_modules()
        if not any(part.isdigit() for part in path.split("."))
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

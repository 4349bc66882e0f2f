"""deepen(): more layers instead of wider ones, so that both ways of growing can be compared."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hcviz.architecture.axes import TensorAxes, growing
from hcviz.architecture.infer import tensors
from hcviz.architecture.tiny import faithful
from hcviz.errors import CloneError
from hcviz.io.forms import LARGEST
from hcviz.io.models import check_model
from hcviz.widening.folding import ties
from hcviz.widening.layout import layout
from hcviz.widening.plan import assign, empty, finish
from hcviz.widening.twin import TOLERANCE, TrueFloat64, random_twin, relative_error

METHODS = ("identity", "stack")


def deepen(
    model: PreTrainedModel, *, layers: int, method: str = "identity", check: bool = True
) -> PreTrainedModel:
    """Add layers to a causal language model.

    Args:
        model: The source, at most ``layers`` deep. It is not changed.
        layers: The number of layers to reach.
        method: ``identity`` spreads copies of layers among them whose writes to the residual stream
            are zero, so that the logits stay (as LLaMA Pro, arXiv 2401.02415). ``stack`` repeats
            the whole stack (as in arXiv 1907.00775), which does NOT keep the logits.
        check: Deepen a tiny random twin first and compare its logits; ``identity`` only.

    Returns:
        A model of the source's class, in its dtype and on its device, sharing no storage with it.
        ``config.hcviz_depth`` records the source's layer behind each, and which are identities.

    Raises:
        CloneError: If the layers are not found, or the family's layers cannot be identities (a norm
            after the sum, layers that share weights).

    Example:
        >>> import hcviz
        >>> model, _ = hcviz.load("nano:llama")
        >>> depth = model.config.num_hidden_layers
        >>> deepen(model, layers=depth + 2).config.num_hidden_layers - depth
        2
    """
    check_model(model)
    depth = getattr(model.config, "num_hidden_layers", None)
    if method not in METHODS:
        raise CloneError(f"method={method!r} is unknown. Choose one of {', '.join(METHODS)}.")
    if not isinstance(layers, int) or not isinstance(depth, int) or layers <= depth:
        raise CloneError(
            f"layers={layers!r} must be a whole number above the {depth} layers of this "
            f"{type(model).__name__}."
        )
    if check and method == "identity":
        _check(model)
    if layers > LARGEST:
        raise CloneError(f"layers={layers}: hcviz builds {LARGEST} at most. Ask for fewer.")
    return _deepened(model, _sources(depth, layers, method), method)


def _sources(depth: int, layers: int, method: str) -> list[int]:
    """Return the source's layer behind each layer of the deeper model."""
    if method == "stack":
        return [number % depth for number in range(layers)]
    return [number * depth // layers for number in range(layers)]


def _check(model: PreTrainedModel) -> None:
    """Refuse a family whose deepened twin does not compute what the twin did."""
    twin = random_twin(faithful(model.config, type(model)), type(model))
    depth = twin.config.num_hidden_layers
    deep = _deepened(twin, _sources(depth, 2 * depth, "identity"), "identity")
    ids = torch.arange(8).unsqueeze(0) % twin.config.vocab_size
    with torch.no_grad(), TrueFloat64():
        error = relative_error(twin(input_ids=ids).logits, deep(input_ids=ids).logits)
    if error > TOLERANCE:
        raise CloneError(
            f"Layers of {type(model).__name__} with zero writes are no identities (relative logit "
            f"error of a tiny twin {error:.1e}, allowed {TOLERANCE:.0e}): a norm after the sum, or "
            "something else, still changes the residual stream. method='stack' does not need it."
        )


@torch.no_grad()
def _deepened(model: PreTrainedModel, sources: list[int], method: str) -> PreTrainedModel:
    """Build the deeper model; the first of the layers with one source is the source's own."""
    config = copy.deepcopy(model.config)
    depth = config.num_hidden_layers
    for name, value in vars(config).items():  # kinds of layers, layer by layer
        if isinstance(value, list | tuple) and len(value) == depth:
            setattr(config, name, type(value)(value[source] for source in sources))
    config.num_hidden_layers = len(sources)
    new = [n for n, source in enumerate(sources) if source in sources[:n]]
    silent = new if method == "identity" else []
    config.hcviz_depth = {"method": method, "sources": sources, "identity": silent}
    deep = empty(type(model), config)
    found, axes = tensors(model), layout(model)
    for name, (origin, number) in _origins(model, tensors(deep), sources).items():
        if origin not in found and number is None:
            continue  # a tied head, which finish() ties
        if origin not in found:
            raise CloneError(
                f"{name} of the deeper {type(model).__name__} has no counterpart {origin} in the "
                "source: its layers share weights or differ in kind. It cannot be deepened."
            )
        tensor = found[origin].detach().clone()
        assign(deep, name, tensor.zero_() if number in silent and writes(origin, axes) else tensor)
    finish(model, deep, tie=ties(model))
    return deep


def _origins(
    model: PreTrainedModel, names: Iterable[str], sources: Sequence[int]
) -> dict[str, tuple[str, int | None]]:
    """Return the source's tensor behind each of the deeper model's, and that one's layer."""
    stack = _stack(model, model.config.num_hidden_layers)
    inside = re.compile(rf"^{re.escape(stack)}\.(\d+)\.(.+)$")
    found = {name: inside.match(name) for name in names}
    return {
        name: (f"{stack}.{sources[int(at[1])]}.{at[2]}", int(at[1])) if at else (name, None)
        for name, at in found.items()
    }


def deepen_states(
    states: Mapping[str, Mapping[str, Any]], source: PreTrainedModel, deep: PreTrainedModel
) -> dict[str, Mapping[str, Any]]:
    """Return an optimizer's state for a deepened model, by the parameters' names.

    A layer has the state of the source's layer that it was copied from. Layers that are identities
    begin without one: what they read gets no gradient until what they write has moved.

    Args:
        states: What the source's optimizer keeps of each parameter.
        source: The source.
        deep: What :func:`deepen` made of it.
    """
    depth = deep.config.hcviz_depth
    origins = _origins(source, dict(deep.named_parameters()), depth["sources"])
    return {
        name: states[origin]
        for name, (origin, number) in origins.items()
        if origin in states and number not in depth["identity"]
    }


def writes(name: str, axes: Mapping[str, TensorAxes]) -> bool:
    """Tell whether a tensor writes heads' or neurons' results to the residual stream.

    A bias does if the weight beside it does.
    """
    dims = axes.get(re.sub(r"bias$", "weight", name), axes[name])
    return "hidden" in growing(dims, "write") and bool(growing(dims, "read") - {"hidden"})


def _stack(model: nn.Module, depth: int) -> str:
    """Return the path of the model's list of layers."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return path
    raise CloneError(
        f"{type(model).__name__} has no list of {depth} layers (num_hidden_layers); hcviz cannot "
        "deepen it."
    )

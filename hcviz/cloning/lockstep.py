"""Optimizers across widths: parameter groups with which a clone follows its source, grown state."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from hcviz.architecture.axes import Factors, TensorAxes, wide_shape
from hcviz.architecture.factors import parse_factors
from hcviz.architecture.families import family_of
from hcviz.architecture.infer import meta_model, origins
from hcviz.architecture.widths import resized
from hcviz.errors import HcvizError
from hcviz.widening.expansion import Expansion, widen
from hcviz.widening.folding import final_norm, ties
from hcviz.widening.layout import layout
from hcviz.widening.plan import recipe_of


@dataclass(frozen=True)
class Copies:
    """How often a tensor's units are copied: its gradient is the source's over ``written``."""

    written: int
    read: int
    """The copies that share the weight, so that its steps must be this much smaller."""


def copies(model: PreTrainedModel) -> dict[str, Copies]:
    """Return how often each parameter of a clone is copied on either side.

    Args:
        model: A clone; ``config.hcviz`` holds its factors.

    Raises:
        HcvizError: If it is no clone, or parts of one tensor have grown by different factors.
    """
    recipe = recipe_of(model)
    family = family_of(model.config)
    folded = family.norm_offset and ties(model)  # into a final gain that decays to one, not to zero
    if family.embed_power or folded or recipe.get("fusing", {}).get("embed_power"):
        raise HcvizError(
            f"{type(model).__name__} multiplies its embeddings by a constant of its width, or is "
            "tied and adds one to its gains; weight decay then acts otherwise on a clone. Lockstep "
            "does not cover it; choose a family without (Llama, GPT-NeoX, OPT, OLMo, Qwen, Phi)."
        )
    factors = parse_factors(recipe["factors"])
    if factors["head_dim"] > 1 or any(not isinstance(n, int) for n in factors.values()):
        raise HcvizError(
            f"Lockstep needs whole factors and heads of unchanged size, and this clone has "
            f"{recipe['factors']}: its units have unequal numbers of copies, or constants folded "
            "into queries and keys, and one learning rate a tensor cannot serve them."
        )
    small = resized(model.config, **{axis: Fraction(1, n) for axis, n in factors.items()})
    if origins(meta_model(small, type(model)), model, factors):
        raise HcvizError(
            f"{type(model).__name__} keeps a norm for each head by itself, which lockstep does not "
            "cover; choose a family without (Llama, GPT-NeoX, OPT, OLMo, Qwen, Phi)."
        )
    axes = layout(model, factors=factors)
    names = [name for name, _ in model.named_parameters()]
    found = {name: _copies(name, axes[name], factors) for name in names}
    if ties(model):  # the final norm's gain stands for the tied head's 1/n
        for name in final_norm(model, axes):
            found[name] = Copies(found[name].written // factors["hidden"], factors["hidden"])
    return found


def _copies(name: str, axes: TensorAxes, factors: Factors) -> Copies:
    """Count the copies of one tensor."""
    counts = {"write": 1, "read": 1}
    for dim in axes:
        sizes = {math.prod(segment.copies(factors)) for segment in dim.segments}
        if len(sizes) > 1:
            raise HcvizError(
                f"{name} is fused from parts that have grown by {sorted(sizes)}; one learning rate "
                "cannot serve them. Clone with kv_heads equal to heads."
            )
        counts[dim.role] = counts.get(dim.role, 1) * sizes.pop()
    return Copies(counts["write"], counts["read"])


def lockstep_groups(
    model: PreTrainedModel, *, lr: float, eps: float = 1e-8, weight_decay: float = 0.0
) -> list[dict]:
    """Return AdamW parameter groups with which a noiseless clone does what its source would do.

    A weight that n copies share gets lr / n and n times the weight decay; eps follows the gradient,
    which is the source's over the number of written copies. What a clone gains at the source's own
    learning rate, and not in lockstep, is the gain of a larger step.

    Args:
        model: A symmetric clone.
        lr: The source's learning rate.
        eps: The source's epsilon.
        weight_decay: The source's weight decay, applied to every parameter.

    Returns:
        Groups for ``torch.optim.AdamW``; schedules and betas are the source's. Gradients must not
        be clipped by their norm, which is another one for a clone.

    Raises:
        HcvizError: If the model is no clone.

    Example:
        >>> import hcviz
        >>> model, _ = hcviz.load("nano:llama")
        >>> groups = lockstep_groups(hcviz.clone(model), lr=1e-3)
        >>> sorted({group["lr"] for group in groups})
        [0.0005, 0.001]
    """
    found = paces(model, model)
    groups: dict[Pace, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(found[name], []).append(parameter)
    base = Pace(lr, eps, weight_decay)
    return [{"params": some, **base.times(pace)} for pace, some in groups.items()]


class Pace(NamedTuple):
    """AdamW's numbers for one parameter, or what they are multiplied by."""

    lr: float
    eps: float
    weight_decay: float

    def times(self, other: "Pace") -> dict[str, float]:
        """Return the products, as a parameter group has them."""
        return {key: a * b for key, a, b in zip(self._fields, self, other, strict=True)}


def paces(model: PreTrainedModel, clone: PreTrainedModel) -> dict[str, Pace]:
    """Return by what AdamW's numbers are multiplied so that a model goes in lockstep.

    Args:
        model: The clone, which is to do what its source would; or the source, which is to do what
            the clone would: the source at the matched effective learning rate. A source may be a
            clone itself.
        clone: The symmetric clone. Its source is what it was made from last.

    Raises:
        HcvizError: If ``clone`` is none, or ``model`` is neither it nor its source.
    """
    found = copies(clone)
    power = 1 if _is_source(model, clone) else -1
    return {
        name: Pace(float(n.read) ** power, float(n.written) ** power, float(n.read) ** -power)
        for name, n in found.items()
    }


def _is_source(model: PreTrainedModel, clone: PreTrainedModel) -> bool:
    """Tell the source of a clone from the clone, by their shapes: both may say that they are one.

    Raises:
        HcvizError: If ``model`` is neither.
    """
    own, wide = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, clone))
    if own.keys() != wide.keys():
        raise HcvizError(
            f"The {type(model).__name__} and the clone, a {type(clone).__name__}, have other "
            "parameters. Give a source and its own clone."
        )
    asked = recipe_of(clone)["factors"]
    said = (getattr(model.config, "hcviz", None) or {}).get("factors")
    if own == wide:
        if said == asked:
            return False
        raise HcvizError(
            f"The {type(model).__name__} has the shapes of the clone and "
            f"{f'was cloned by {said}' if said else 'does not say how it was cloned'}; the clone "
            f"by {asked}. Whose steps it is to take is not told: give a clone and itself, or a "
            "source and its own clone."
        )
    axes = layout(clone, factors=parse_factors(asked))
    source = {name: wide_shape(axes[name], {}) for name in wide}
    odd = next((name for name in wide if own[name] != source[name]), None)
    if odd:
        raise HcvizError(
            f"The {type(model).__name__} is neither the clone nor what it was cloned from by "
            f"{asked}: {odd} is {own[odd]} in it, {wide[odd]} in the clone and {source[odd]} in "
            "the clone's source. Give a source and its own clone; from what was cloned twice, "
            "make the clone in one step."
        )
    return True


POWERS = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}
"""Which power of the gradient an optimizer's buffer holds (Adam, AdamW, SGD with momentum)."""


def grow_optimizer(
    optimizer: torch.optim.Optimizer,
    source: PreTrainedModel,
    clone: PreTrainedModel,
    grown: torch.optim.Optimizer,
) -> torch.optim.Optimizer:
    """Give a clone's optimizer the state that its source's has, grown by the same map.

    A clone's gradient is the source's over the number of written copies n, in every copy; so first
    moments are repeated over n, second ones over n squared, and the step count is kept.

    Args:
        optimizer: The source's, Adam, AdamW or SGD.
        source: The source, whose parameters it holds.
        clone: A symmetric clone of it.
        grown: The clone's optimizer, of the same class; its state is replaced.

    Returns:
        ``grown``.

    Raises:
        HcvizError: If the optimizer keeps something else, as Adafactor's factored moments, or
            ``source`` is not what ``clone`` was made from.
    """
    states = {name: optimizer.state.get(one, {}) for name, one in source.named_parameters()}
    for name, state in grow_states(states, source, clone, kind=type(optimizer).__name__).items():
        grown.state[clone.get_parameter(name)] = state
    return grown


@torch.no_grad()
def grow_states(
    states: Mapping[str, Mapping[str, Any]],
    source: PreTrainedModel,
    clone: PreTrainedModel,
    *,
    kind: str = "The optimizer",
) -> dict[str, dict[str, Any]]:
    """Grow an optimizer's state as :func:`grow_optimizer` does, by the parameters' names.

    Args:
        states: What the source's optimizer keeps of each parameter; those without are left out.
        source: The source.
        clone: A symmetric clone of it.
        kind: What the optimizer is called in an error.

    Raises:
        HcvizError: As :func:`grow_optimizer`.
    """
    counts = copies(clone)
    if not _is_source(source, clone):
        raise HcvizError(
            "grow_optimizer() got the clone as its own source. Give the model it was made from."
        )
    axes = layout(source)
    factors = parse_factors(clone.config.hcviz["factors"])
    grown = {}
    for name, parameter in source.named_parameters():
        state, reads = {}, _copies(name, axes[name], factors).read  # widen() shares over these
        for key, value in states.get(name, {}).items():
            if key in POWERS and torch.is_tensor(value) and value.shape == parameter.shape:
                share = value / counts[name].written ** POWERS[key]
                state[key] = widen(name, share, axes[name], factors, Expansion()) * reads
            elif key == "step" or value is None:
                state[key] = copy.deepcopy(value)
            else:
                raise HcvizError(
                    f"{kind} keeps {key!r} for {name}, which cannot grow. "
                    "Use AdamW, Adam or SGD with momentum, or start the clone's optimizer afresh."
                )
        if state:
            grown[name] = state
    return grown

"""The guard of every clone: a tiny random twin goes first, through the same code, in float64."""

import contextlib
import copy
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.families import family_of, stuck_by
from hcviz.architecture.infer import infer, meta_model
from hcviz.architecture.segments import Fusing
from hcviz.architecture.tiny import faithful
from hcviz.architecture.widths import axis_of, widths
from hcviz.errors import CloneError
from hcviz.widening.expansion import Expansion
from hcviz.widening.plan import grow, plan
from hcviz.widening.request import Growth
from hcviz.widening.rotary import turns

TOLERANCE = 1e-9
"""Largest relative logit error of a twin in true float64. Exact layouts stay below 1e-12, and wrong
ones are off by the size of the logits. The gap is for what a model computes in float32."""
ROTARY_TOLERANCE = 1e-5
"""The same for heads that grow in size: their frequencies are float32 in every model. A frequency
is off by a few 2^-24 of itself, the angle at position 12 by a few 1e-6."""
LARGEST = 2e8
"""Parameters of the largest twin that is tried: in float64, with its clone, 8 GB."""
SMALLER = {
    "hidden=2, head_dim=2": {"hidden": 2, "head_dim": 2},
    "hidden=1, ffn=2, heads=1": {"hidden": 1, "ffn": 2, "heads": 1},
    "hidden=2, heads=1": {"hidden": 2, "heads": 1},
    "hidden=1, ffn=1, heads=2": {"hidden": 1, "ffn": 1, "heads": 2},
}
"""What is tried when a family does not grow as asked: its heads in size, its neurons,
all but its heads, its heads in number."""
_PASSED: dict[str, Fusing] = {}


class TooLarge(CloneError):
    """A twin that would take too long: nothing else is tried in its stead either."""


def random_twin(config, model_class, seed: int = 0) -> nn.Module:
    """Build a float64 model, every weight, gain and bias random.

    Args:
        config: Its configuration, a tiny one (:func:`~hcviz.architecture.tiny.faithful`).
        model_class: Its class.
        seed: Seed of the weights.

    Raises:
        TooLarge: If even the tiny model is too large to try.
    """
    _check_size(meta_model(config, model_class))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's too
        twin = model_class(_plain(config)).double().eval()
        loop_over_experts(twin)
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
                else:
                    parameter.normal_(std=1.5 / max(1, parameter.shape[-1]) ** 0.5)
    return twin


def _plain(config):
    """Return a configuration whose attention knows float64, and a CPU, as the source's may not."""
    plain = copy.deepcopy(config)
    plain._attn_implementation = "eager"
    return plain


def _check_size(model: nn.Module) -> None:
    """Refuse a twin, or its clone, that is too large to try; it is on the meta device."""
    config, count = model.config, model.num_parameters()
    if count > LARGEST:
        raise TooLarge(
            f"The smallest twin of this {config.model_type} configuration that is made as it is, "
            f"or its clone, has {config.num_hidden_layers} layers and {count:.1e} parameters, too "
            "many to try; no clone was made. Ask for smaller factors, or correct the configuration."
        )


def loop_over_experts(model: nn.Module) -> None:
    """Let a mixture of experts compute one expert at a time: grouped kernels have no float64."""
    if any("Experts" in type(module).__name__ for module in model.modules()):
        model.set_experts_implementation("eager")


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return ``max |a - b| / max |a|`` in float64; infinite when ``b`` is not finite."""
    error = ((a.double() - b.double()).abs().max() / a.double().abs().max()).item()
    return error if error == error else float("inf")


def twin_error(growth: Growth, fusing: Fusing) -> float:
    """Clone a twin and return its relative logit error; infinite if an entry is never written.

    Args:
        growth: What it grows by; its configuration is the twin's, a tiny one.
        fusing: The hypothesis on fused matrices.
    """
    model_class = growth.model_class
    blank = meta_model(_plain(growth.config), model_class).double()
    _check_size(blank)
    axes = infer(blank.config, model_class, fusing)
    planned = plan(blank, axes, growth, fusing)
    _check_size(planned.wide)  # a twin takes seconds and memory
    twin = random_twin(growth.config, model_class)
    clone = grow(twin, planned, memory=_unwritten)
    if clone.num_parameters() == twin.num_parameters():
        grown = dict(growth.factors)
        raise CloneError(f"{model_class.__name__} has no width that {grown} would grow.")
    loop_over_experts(clone)
    return relative_error(_logits(twin), _logits(clone))


def _unwritten(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Give memory that shows where nothing is written into it."""
    return torch.full(shape, math.nan if dtype.is_floating_point else 0, dtype=dtype, device=device)


def random_logits(config, model_class) -> torch.Tensor:
    """Return what the twin of a configuration computes (:func:`random_twin`), in true float64."""
    return _logits(random_twin(config, model_class))


def _logits(twin: nn.Module) -> torch.Tensor:
    """Return the logits of a twin or its clone on a short random text, always the same."""
    config = twin.config
    length = min(12, getattr(config, "max_position_embeddings", 12))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, config.vocab_size, (2, length), generator=generator)
    with torch.no_grad(), TrueFloat64(twin):
        return twin(input_ids=ids).logits


def twin_factors(tiny, factors: Factors) -> dict[str, int | Fraction]:
    """Return the factors nearest to a call's that the twin's few units allow.

    Whole factors stay, one that is not whole stays so, and the residual stream grows with the heads
    if it did.
    """
    size = widths(tiny)
    units = {"hidden": [size.hidden], "ffn": [], "expert_ffn": [], "kv_heads": [size.kv_heads]}
    units |= {"group": [size.group], "head_dim": []}
    for name, count in size.ffn.items():
        units[axis_of(name)].append(count)
    result = {}
    for axis, value in factors.items():
        step = math.gcd(*units[axis])
        if isinstance(value, int) or not step:
            result[axis] = value
            continue
        low, high = math.floor(value) * step + 1, math.ceil(value) * step - 1
        result[axis] = Fraction(min(max(round(value * step), low), high), step)
    heads = Fraction(result["kv_heads"]) * result["group"] * result["head_dim"]
    together = factors["hidden"] == factors["kv_heads"] * factors["group"] * factors["head_dim"]
    if together and (size.hidden * heads).denominator == 1:
        result["hidden"] = int(heads) if heads.denominator == 1 else heads
    return result


def resolve_fusing(growth: Growth, *, check: bool = True, advise: bool = True) -> Fusing:
    """Find how fused matrices are laid out: the first hypothesis whose twin is exact.

    Args:
        growth: What the model is to grow by.
        check: Without it a model with nothing fused is not tried at all.
        advise: Try what grows instead when this does not, and say it.

    Raises:
        CloneError: If no hypothesis passes; the message says why, and what does grow.
    """
    config, model_class = growth.config, growth.model_class
    settings = json.dumps(config.to_dict(), sort_keys=True, default=str)
    grown = f"{sorted(growth.factors.items())} {growth.form} {growth.tie}"
    cached = f"{model_class.__qualname__} {settings} {grown}"
    if cached in _PASSED:
        return _PASSED[cached]
    try:
        fusing = _search(growth, check)
    except Exception as error:  # a family's own code may raise anything on a tiny size
        if not isinstance(error, CloneError):
            first = (str(error).splitlines() or [""])[0][:200]
            why = f"its own code stops on a tiny random twin: {type(error).__name__}: {first}"
            error = CloneError(f"{model_class.__name__}: {why}. No clone was made.")
        elif stuck := stuck_by(config):
            error = CloneError(f"{type(config).__name__}: {stuck}. {error}")
        if not advise or isinstance(error, TooLarge):
            raise error from None
        works = what_works(config, model_class)
        advice = f"What does grow: {'; or '.join(works)}" if works else "Nothing else grows either"
        raise CloneError(f"{error} {advice}.") from error
    if check:
        _PASSED[cached] = fusing
    return fusing


def what_works(config, model_class) -> list[str]:
    """Return which of :data:`SMALLER` a family can do, tried on its twin."""
    found = []
    for words, call in SMALLER.items():
        with contextlib.suppress(Exception):
            factors = resolve_factors(config, **call)
            _search(Growth(config, model_class, factors, Expansion()), True)
            found.append(words)
    return found


def _search(growth: Growth, check: bool) -> Fusing:
    """Return the first hypothesis whose twin is exact."""
    config, model_class, factors = growth.config, growth.model_class, growth.factors
    tiny = faithful(config, model_class)
    hypotheses = _hypotheses(tiny, infer(tiny, model_class, Fusing()), factors)
    plain = len({(fusing.attention, fusing.ffn) for fusing in hypotheses}) == 1
    if plain and not check and factors["head_dim"] == 1 and isinstance(factors["hidden"], int):
        return hypotheses[0]
    allowed = ROTARY_TOLERANCE if factors["head_dim"] > 1 and turns(config) else TOLERANCE
    twin, errors = replace(growth, config=tiny, factors=twin_factors(tiny, factors)), []
    for fusing in hypotheses:
        errors.append(twin_error(twin, fusing))
        if errors[-1] <= allowed:
            return fusing
    size, advice = widths(config), "" if stuck_by(config) else f". {_advice(factors)}"
    raise CloneError(
        f"A tiny random twin of this {config.model_type} configuration (hidden_size {size.hidden}, "
        f"{size.heads} heads) does not compute what its source does: relative logit error "
        f"{min(errors):.1e} in the best of {len(errors)} ways, allowed {allowed:.0e}{advice}; no "
        "clone was made."
    )


def _advice(factors: Factors) -> str:
    """Say what a failed twin probably means, and what to try."""
    if factors["head_dim"] > 1:
        return "Its heads cannot grow in size this way: leave head_dim out"
    heads = not all(isinstance(factors[axis], int) for axis in ("kv_heads", "group"))
    if heads or not isinstance(factors["hidden"], int):
        padded = "its norms do not allow a padded residual stream"
        uneven = "something in it weighs all heads alike, such as a norm over them"
        either = f"Either {padded}, or {uneven}" if heads else padded.capitalize()
        return f"{either}: choose a whole factor of hidden, or hidden=1, heads=1 and grow ffn"
    return "The layout is not known"


def _hypotheses(config, axes: Mapping[str, TensorAxes], factors: Factors) -> list[Fusing]:
    """List what to try: both layouts of what is fused, then with embeddings times sqrt(hidden).

    Wider heads and a padded residual stream have questions of their own.
    """
    fused = {"attention": False, "ffn": False}
    for dims in axes.values():
        for segment in (s for dim in dims for s in dim.segments):
            if segment.part and segment.part not in ("q", "k", "v"):
                heads = "kv_heads" in segment.axes()
                fused["attention" if heads else "ffn"] = True
    options = [
        ("stacked", "interleaved") if fused[kind] else ("stacked",) for kind in ("attention", "ffn")
    ]
    powers = (None,) if family_of(config).embed_power else (None, 0.5)
    heads, pads = [("", 0.25)], [("zero", "norm")]
    if factors["head_dim"] > 1:
        pairings = ("half", "interleaved") if turns(config) else ("plain",)
        heads = list(itertools.product(pairings, (0.25, 0.5)))
    if not isinstance(factors["hidden"], int):
        pads = list(itertools.product(("zero", "mean"), ("norm", "stream", "readers")))
    choices = itertools.product(powers, pads, heads, *options)
    return [
        Fusing(attention, ffn, power, *head, *pad) for power, pad, head, attention, ffn in choices
    ]


class TrueFloat64(TorchFunctionMode):
    """Turn casts of float64 tensors to float32 into no-ops while the context is open.

    Norms and softmaxes of transformers are computed in float32 whatever the model's dtype, so that
    a comparison in float64 stops at 1e-7. Inside this context it reaches 1e-15. What is made in
    float32 from the start (rotary tables) stays so, equally in a source and in its clone.

    Args:
        model: The model that computes in it. Its flags that only ask for float32 (GPT-2's
            ``reorder_and_upcast_attn``, which insists on it) are off while the context is open.

    Example:
        >>> x = torch.tensor([1 / 3], dtype=torch.float64)
        >>> with TrueFloat64():
        ...     x.float().dtype
        torch.float64
    """

    def __init__(self, model: nn.Module | None = None):
        super().__init__()
        self._upcasts = [
            (module, name)
            for module in (model.modules() if model else ())
            for name, value in vars(module).items()
            if value is True and "upcast" in name
        ]

    def __enter__(self):
        for module, name in self._upcasts:
            setattr(module, name, False)
        return super().__enter__()

    def __exit__(self, *error):
        for module, name in self._upcasts:
            setattr(module, name, True)
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if func is torch.Tensor.float:
                return first
            if func in (torch.Tensor.to, torch.Tensor.type):
                args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        if func is torch.full and "dtype" not in kwargs:  # the smallest number of a float64 mask
            fill = args[1] if len(args) > 1 else kwargs["fill_value"]
            if isinstance(fill, float) and abs(fill) > torch.finfo(torch.float32).max:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)

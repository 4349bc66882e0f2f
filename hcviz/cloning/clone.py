"""clone(): a model in, a wider model that computes the same out (HyperCloning, paper section 3)."""

import warnings
from collections.abc import Mapping

from transformers import PreTrainedConfig, PreTrainedModel

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.architecture.factors import factors_to, resolve_factors
from hcviz.architecture.infer import infer
from hcviz.architecture.tiny import heads_follow_hidden
from hcviz.architecture.widths import widths
from hcviz.errors import CloneError
from hcviz.io.forms import naming
from hcviz.io.models import check_model
from hcviz.io.parameters import takes
from hcviz.io.sources import config_of
from hcviz.widening.expansion import Expansion
from hcviz.widening.plan import Plan, grow, plan
from hcviz.widening.request import CloneRequest, Growth
from hcviz.widening.twin import resolve_fusing


@takes(CloneRequest)
def clone(model: PreTrainedModel, *, request: CloneRequest) -> PreTrainedModel:
    """Widen a causal language model so that it computes exactly what it did.

    Args:
        model: The source, on any device, in any floating dtype. It is not changed.
        request: {options}

    Returns:
        The clone, of the source's class: in eval mode, in its dtype and on its device, sharing no
        storage with it, with its generation config. ``clone.config.hcviz`` records how it was made.

    Raises:
        CloneError: If an argument is wrong, the architecture is not understood, or the twin
            differs.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> small = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        ...                     num_attention_heads=4, num_key_value_heads=2, vocab_size=100)
        >>> wide = clone(LlamaForCausalLM(small), hidden=2)
        >>> wide.config.hidden_size, wide.config.num_attention_heads
        (64, 8)
    """
    if isinstance(model, PreTrainedModel) and model.device.type == "meta":
        raise CloneError(
            f"This {type(model).__name__} is on the meta device and has no weights to clone. "
            "Load it with from_pretrained() onto a real device."
        )
    return grow(model, decide(model, request))


def decide(model: PreTrainedModel, request: CloneRequest) -> Plan:
    """Say what :func:`clone` would do with every tensor of a model that may be on the meta device.

    Raises:
        CloneError: As :func:`clone`.
    """
    check_model(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"clone() widens a transformers model, and got {type(model).__name__}. "
            "Load it with AutoModelForCausalLM.from_pretrained(...) first."
        )
    config, model_class = model.config, type(model)
    if not model.can_generate() or config.is_encoder_decoder:
        raise CloneError(
            f"clone() widens causal language models, and {model_class.__name__} is none. "
            "Load the model with AutoModelForCausalLM.from_pretrained(...)."
        )
    _validate(config, "its own configuration", "Correct it first.")
    form = Expansion.of(request.expansion, request.snr_db, request.seed)
    target = request.to_config
    if target is None:
        return _decided(model, request, form, resolve_factors(config, **request.sizes))
    with naming("to_config"):
        sizes = factors_to(config, target if isinstance(target, Mapping) else config_of(target))
        return _decided(model, request, form, resolve_factors(config, **sizes))


def _decided(
    model: PreTrainedModel, request: CloneRequest, form: Expansion, factors: Factors
) -> Plan:
    """Say what becomes of every tensor, given by what the widths grow."""
    config, model_class = model.config, type(model)
    together = factors["hidden"] == factors["kv_heads"] * factors["group"] * factors["head_dim"]
    together &= factors["group"] == 1 or widths(config).group > 1
    if not together and heads_follow_hidden(config, model_class):
        grown = {name: str(factor) for name, factor in factors.items() if factor > 1}
        raise CloneError(
            f"{model_class.__name__} computes its head size as hidden_size / heads, so the two "
            f"grow together only, and the call asks for {grown}. Leave heads and kv_heads out, or "
            f"set heads={factors['hidden']}."
        )
    growth = Growth(config, model_class, factors, form, request.tie)
    fusing = resolve_fusing(growth, check=request.check)
    axes = infer(config, model_class, fusing)
    if form.noisy and not _reads_copies(axes, factors):
        raise CloneError(
            f"expansion={form.form!r}: with the factors {factors} no weight reads a copied unit, "
            "so there is nothing that noise could cancel over. Grow hidden, ffn or heads, or use "
            "'symmetric'."
        )
    result = plan(model, axes, growth, fusing)
    then = "Choose factors that it accepts, such as the same for hidden and heads."
    _validate(result.config, "the widened configuration", then)
    if request.tie == "keep" and result.head:
        warnings.warn(
            f"{model_class.__name__} has no gain in its final norm that could take the tied head's "
            f"1/{int(factors['hidden'])}: the clone's head is untied "
            "(config.tie_word_embeddings=False).",
            stacklevel=5,
        )
    return result


def _validate(config: PreTrainedConfig, which: str, then: str) -> None:
    """Refuse a configuration that its class does not accept."""
    try:
        config.validate()
    except Exception as error:  # its class may raise any kind
        reason = " ".join(str(error.__cause__ or error).split())
        raise CloneError(f"{type(config).__name__} refuses {which}: {reason} {then}") from error


def _reads_copies(axes: dict[str, TensorAxes], factors: Factors) -> bool:
    """Tell whether any weight reads a unit that has copies; a padded residual stream has none."""
    factors = {a: n for a, n in factors.items() if a != "hidden" or isinstance(n, int)}
    reads = (dim for dims in axes.values() for dim in dims if dim.role == "read")
    return any(segment.copies(factors) for dim in reads for segment in dim.segments)

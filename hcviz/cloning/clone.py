"""clone(): a model in, a wider model that computes the same out (HyperCloning, paper section 3)."""

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real

from transformers import PreTrainedModel

from hcviz.architecture.axes import Factors, TensorAxes
from hcviz.architecture.factors import factors_to, resolve_factors
from hcviz.architecture.infer import infer
from hcviz.architecture.tiny import heads_follow_hidden
from hcviz.architecture.widths import widths
from hcviz.errors import CloneError
from hcviz.widening.expansion import Expansion
from hcviz.widening.plan import Plan, grow, plan
from hcviz.widening.twin import resolve_fusing


def clone(
    model: PreTrainedModel,
    *,
    hidden: Real = 2,
    ffn: Real | None = None,
    heads: Real | None = None,
    kv_heads: Real | None = None,
    head_dim: int = 1,
    expert_ffn: Real | None = None,
    to_config=None,
    expansion: str | Sequence | Mapping = "symmetric",
    snr_db: float | Mapping[str, float] | None = None,
    seed: int = 0,
    tie: str = "keep",
    check: bool = True,
) -> PreTrainedModel:
    """Widen a causal language model so that it computes exactly what it did.

    Args:
        model: The source, on any device, in any floating dtype. It is not changed.
        hidden: Factor of the residual stream. A factor need not be whole (1.5, 5/4): the first
            FFN neurons and heads then get one copy more, and the residual stream is padded.
        ffn: Factor of the FFN neurons; as ``hidden`` if None.
        heads: Factor of the query heads; ``hidden / head_dim`` if None.
        kv_heads: Factor of the key/value heads; as ``heads`` if None, but a single one stays
            single.
        head_dim: Factor of the head size, a whole number. Rotary positions then get the rope type
            ``longrope``, whose list of frequencies says those of the source.
        expert_ffn: Factor of the experts' inner width where it has a field of its own; as ``ffn``
            if None.
        to_config: A configuration to reach instead of factors, a folder or hub id with one, or
            some of its fields: ``{"hidden_size": 640}``.
        expansion: How copies that are read share a weight: ``symmetric`` (1/n each), ``diagonal``
            (output copy i reads input copy i), ``noisy-symmetric``, ``noisy-diagonal``, ``random``
            (unequal shares), or a table of shares ``[[0.7, 0.3], ...]`` (a row per written copy).
            ``{key: form}`` gives tensors forms of their own, by a part of the model (``ffn``,
            ``heads``, ``hidden``: what has neither) or a regular expression over names.
        snr_db: Signal-to-noise ratio of a noisy form in dB; 10 if None, as in the paper;
            ``{key: dB}`` as above. It is the ratio in every single tensor.
        seed: Seed of noise and random shares.
        tie: ``keep`` leaves tied embeddings tied (the head's 1/n goes to the final norm's gain;
            where there is none they are untied, with a warning); ``untie`` gives the clone a head
            of its own.
        check: Send a tiny random twin of the configuration through the same code first.

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
    options = {name: value for name, value in locals().items() if name != "model"}
    if isinstance(model, PreTrainedModel) and model.device.type == "meta":
        raise CloneError(
            f"This {type(model).__name__} is on the meta device and has no weights to clone. "
            "Load it with from_pretrained() onto a real device."
        )
    return grow(model, decide(model, **options))


def decide(
    model: PreTrainedModel,
    *,
    hidden=2,
    ffn=None,
    heads=None,
    kv_heads=None,
    head_dim=1,
    expert_ffn=None,
    to_config=None,
    expansion="symmetric",
    snr_db=None,
    seed=0,
    tie="keep",
    check=True,
) -> Plan:
    """Say what :func:`clone` would do with every tensor of a model that may be on the meta device.

    Takes and raises what :func:`clone` does.
    """
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
    if tie not in ("keep", "untie"):
        raise CloneError(f"tie={tie!r} is unknown. Choose 'keep' or 'untie'.")
    form = Expansion.of(expansion, snr_db, seed)
    sizes = {"hidden": hidden, "ffn": ffn, "heads": heads, "kv_heads": kv_heads}
    sizes |= {"head_dim": head_dim, "expert_ffn": expert_ffn}
    if to_config is not None:
        usual = {"hidden": 2, "head_dim": 1}
        asked = {name: value for name, value in sizes.items() if value != usual.get(name)}
        if asked:
            raise CloneError(
                f"to_config and {asked} both say how wide the clone becomes. Leave one of them out."
            )
        sizes = factors_to(config, to_config)
    factors = resolve_factors(config, **sizes)
    together = factors["hidden"] == factors["kv_heads"] * factors["group"] * factors["head_dim"]
    together &= factors["group"] == 1 or widths(config).group > 1
    if not together and heads_follow_hidden(config, model_class):
        grown = {name: str(factor) for name, factor in factors.items() if factor > 1}
        raise CloneError(
            f"{model_class.__name__} computes its head size as hidden_size / heads, so the two "
            f"grow together only, and the call asks for {grown}. Leave heads and kv_heads out, or "
            f"set heads={factors['hidden']}."
        )
    fusing = resolve_fusing(config, model_class, factors, form, tie, check=check)
    axes = infer(config, model_class, fusing)
    if form.noisy and not _reads_copies(axes, factors):
        raise CloneError(
            f"expansion={form.form!r}: with the factors {factors} no weight reads a copied unit, "
            "so there is nothing that noise could cancel over. Grow hidden, ffn or heads, or use "
            "'symmetric'."
        )
    result = plan(model, axes, factors, form, tie, fusing)
    try:
        result.config.validate()
    except Exception as error:  # its class may raise any kind
        reason = " ".join(str(error.__cause__ or error).split())
        raise CloneError(
            f"{type(config).__name__} refuses the widened configuration: {reason} Choose factors "
            "that it accepts, such as the same for hidden and heads."
        ) from error
    if tie == "keep" and result.head:
        warnings.warn(
            f"{model_class.__name__} has no gain in its final norm that could take the tied head's "
            f"1/{int(factors['hidden'])}: the clone's head is untied "
            "(config.tie_word_embeddings=False).",
            stacklevel=3,
        )
    return result


def _reads_copies(axes: dict[str, TensorAxes], factors: Factors) -> bool:
    """Tell whether any weight reads a unit that has copies."""
    reads = (dim for dims in axes.values() for dim in dims if dim.role == "read")
    return any(segment.copies(factors) for dim in reads for segment in dim.segments)

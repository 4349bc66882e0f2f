"""clone(): a model in, a wider model that computes the same out (HyperCloning, paper section 3)."""

import warnings

from transformers import PreTrainedModel

from hcviz.blocks import TensorAxes
from hcviz.errors import CloneError
from hcviz.expansion import Expansion
from hcviz.growth import Plan, grow, plan
from hcviz.infer import heads_follow_hidden, infer
from hcviz.twin import resolve_fusing
from hcviz.widths import resolve_factors, widths


def clone(
    model: PreTrainedModel,
    *,
    hidden: int = 2,
    ffn: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int = 1,
    expansion: str = "symmetric",
    snr_db: float | None = None,
    seed: int = 0,
    tie: str = "keep",
    check: bool = True,
) -> PreTrainedModel:
    """Widen a causal language model so that it computes exactly what it did.

    Args:
        model: The source, on any device, in any floating dtype. It is not changed.
        hidden: Factor of the residual stream.
        ffn: Factor of the FFN neurons; as ``hidden`` if None.
        heads: Factor of the query heads, of unchanged size; ``hidden / head_dim`` if None.
        kv_heads: Factor of the key/value heads; as ``heads`` if None, but a single one stays
            single.
        head_dim: Factor of the head size.
        expansion: How copies that are read share a weight: ``symmetric`` (1/n each), ``diagonal``
            (output copy i reads input copy i), ``noisy-symmetric``, ``noisy-diagonal``, ``random``
            (unequal shares).
        snr_db: Signal-to-noise ratio of a noisy form in dB; 10 if None, as in the paper.
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
    if isinstance(model, PreTrainedModel) and model.device.type == "meta":
        raise CloneError(
            f"This {type(model).__name__} is on the meta device and has no weights to clone. "
            "Load it with from_pretrained() onto a real device."
        )
    found = decide(
        model, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        expansion=expansion, snr_db=snr_db, seed=seed, tie=tie, check=check,
    )  # fmt: skip
    return grow(model, found)


def decide(
    model: PreTrainedModel,
    *,
    hidden: int = 2,
    ffn: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int = 1,
    expansion: str = "symmetric",
    snr_db: float | None = None,
    seed: int = 0,
    tie: str = "keep",
    check: bool = True,
) -> Plan:
    """Say what :func:`clone` would do with every tensor of a model that may be on the meta device.

    Takes and raises what :func:`clone` does.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"clone() widens a transformers model, and got {type(model).__name__}. "
            "Load it with AutoModelForCausalLM.from_pretrained(...) first."
        )
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise CloneError(
            f"clone() widens causal language models, and {type(model).__name__} is none. "
            "Load the model with AutoModelForCausalLM.from_pretrained(...)."
        )
    if tie not in ("keep", "untie"):
        raise CloneError(f"tie={tie!r} is unknown. Choose 'keep' or 'untie'.")
    factors = resolve_factors(
        model.config, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads, head_dim=head_dim
    )
    form = Expansion.of(expansion, snr_db, seed)
    together = factors["hidden"] == factors["kv_heads"] * factors["group"]
    together &= factors["group"] == 1 or widths(model.config).group > 1
    if not together and heads_follow_hidden(model.config, type(model)):
        grown = {name: factor for name, factor in factors.items() if factor > 1}
        raise CloneError(
            f"{type(model).__name__} computes its head size as hidden_size / heads, so the two "
            "grow together "
            f"only, and the call asks for {grown}. Leave heads and kv_heads out, or set "
            f"heads={hidden}."
        )
    fusing = resolve_fusing(model.config, type(model), factors, form, tie, check=check)
    axes = infer(model.config, type(model), fusing)
    if form.form.startswith("noisy") and not _reads_copies(axes, factors):
        raise CloneError(
            f"expansion={form.form!r}: with the factors {factors} no weight reads a copied unit, "
            "so there is "
            "nothing that noise could cancel over. Grow hidden, ffn or heads, or use 'symmetric'."
        )
    result = plan(model, axes, factors, form, tie, fusing.embed_power)
    if tie == "keep" and result.head:
        warnings.warn(
            f"{type(model).__name__} has no gain in its final norm that could take the tied head's "
            f"1/{factors['hidden']}: the clone's head is untied "
            "(config.tie_word_embeddings=False).",
            stacklevel=3,
        )
    return result


def _reads_copies(axes: dict[str, TensorAxes], factors: dict[str, int]) -> bool:
    """Tell whether any weight reads a unit that has copies."""
    reads = (dim for dims in axes.values() for dim in dims if dim.role == "read")
    return any(segment.copies(factors) for dim in reads for segment in dim.segments)

"""Read and set the widths of a model in its Hugging Face configuration."""

import copy
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational, Real

from hcviz.errors import CloneError
from hcviz.families import family_of

FFN_FIELDS = (
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "ffn_config.ffn_hidden_size",
)
"""The names under which configurations keep the number of FFN neurons."""

KV_FIELDS = ("num_key_value_heads", "num_kv_heads", "attn_config.kv_n_heads")
"""The names under which they keep the number of key/value heads."""

AXES = ("hidden", "ffn", "kv_heads", "group", "head_dim")
"""The axes that can grow. ``group``: query heads per key/value head; heads = kv_heads x group."""


@dataclass(frozen=True)
class Widths:
    """The widths of one configuration, in source units."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: dict[str, int]
    """By configuration field; mixtures of experts have several."""
    head_blocks: int = 1
    """Blocks that a fused attention matrix is cut into before its parts."""

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads


def widths(config) -> Widths:
    """Read the widths of a configuration.

    Args:
        config: A Hugging Face configuration of a causal language model.

    Raises:
        CloneError: If it has no hidden size or no attention heads under the usual names.

    Example:
        >>> from transformers import LlamaConfig
        >>> widths(LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)).group
        2
    """
    if getattr(config, "is_encoder_decoder", False):
        raise CloneError(
            f"{type(config).__name__} (model_type {config.model_type!r}) is an encoder-decoder: "
            "its cross attention reads an encoder that would have to grow too. hcviz widens "
            "decoders; pass a causal language model."
        )
    hidden, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if heads is None and getattr(config, "state_size", None):
        heads = 1  # a state-space model attends to nothing
    if not isinstance(hidden, int) or not isinstance(heads, int):
        raise CloneError(_no_widths(config, hidden, heads))
    kv_field = field_of(config, KV_FIELDS)
    kv_heads = read(config, kv_field) if kv_field else heads
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        kv_heads = 1
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    ffn = {}
    for field in FFN_FIELDS:
        value = read(config, field)
        if value is not None or hasattr(config, field):
            # None means four times the hidden size wherever transformers allows it (GPT-2, GPT-J)
            ffn[field] = 4 * hidden if value is None else value
    ffn = {k: v for k, v in ffn.items() if isinstance(v, int)}
    return Widths(hidden, heads, kv_heads, head_dim, ffn, family_of(config).head_blocks)


def read(config, field: str):
    """Return a field of a configuration, dotted inside another one; None if it is not there."""
    for part in field.split("."):
        config = getattr(config, part, None)
    return config


def write(config, field: str, value) -> None:
    """Set a field of a configuration, dotted inside another one."""
    path, _, leaf = field.rpartition(".")
    setattr(read(config, path) if path else config, leaf, value)


def field_of(config, names: Iterable[str]) -> str | None:
    """Return the first of some fields that a configuration has a value for."""
    return next((name for name in names if read(config, name) is not None), None)


def _no_widths(config, hidden, heads) -> str:
    """Say why a configuration has no widths to grow, and what to pass instead."""
    who = f"{type(config).__name__} (model_type {config.model_type!r})"
    if getattr(config, "text_config", None) is not None:
        return (
            f"{who} is a multi-modal configuration, and hcviz widens its text part: pass the model "
            "that AutoModelForCausalLM.from_config(config.get_text_config()) makes."
        )
    return (
        f"{who} has hidden_size={hidden!r} and num_attention_heads={heads!r}; hcviz widens "
        "decoders with both, and there is nothing else to grow."
    )


def whole(name: str, value: Real | None, default: int | None = None) -> int:
    """Return a factor as a whole number of copies, or say why it is none.

    Raises:
        CloneError: If ``value`` is not a whole number of at least one.
    """
    if value is None and default is not None:
        return default
    number = isinstance(value, Rational | float) and math.isfinite(value)
    fraction = Fraction(value) if number else None
    if isinstance(value, bool) or fraction is None or fraction.denominator != 1 or fraction < 1:
        raise CloneError(
            f"{name}={value!r}: a factor is a whole number of copies (1, 2, 3, ...). "
            f"Choose {name}={max(1, round(float(value))) if fraction else 2}."
        )
    return int(fraction)


def resolve_factors(
    config, *, hidden=2, ffn=None, heads=None, kv_heads=None, head_dim=1
) -> dict[str, int]:
    """Turn the factors of a call into one factor per axis.

    Args:
        config: The source's configuration.
        hidden: Factor of the residual stream.
        ffn: Factor of the FFN neurons; as ``hidden`` if None.
        heads: Factor of the number of query heads; ``hidden / head_dim`` if None.
        kv_heads: Factor of the key/value heads; as ``heads`` if None, but one key/value head stays
            one.
        head_dim: Factor of the head size.

    Returns:
        A factor for each of :data:`AXES`.

    Raises:
        CloneError: If a factor is not whole, or the factors do not fit each other.
    """
    size = widths(config)
    hidden = whole("hidden", hidden)
    ffn = whole("ffn", ffn, hidden)
    head_dim = whole("head_dim", head_dim, 1)
    if head_dim != 1:
        raise CloneError(
            f"head_dim={head_dim}: wider heads are not supported, only more of them. "
            f"Use head_dim=1 and heads={hidden}."
        )
    heads = whole("heads", heads, hidden)
    kv_heads = whole("kv_heads", kv_heads, 1 if size.kv_heads == 1 < size.heads else heads)
    if heads % kv_heads:
        raise CloneError(
            f"heads={heads} is not a multiple of kv_heads={kv_heads}: every key/value head "
            "serves a whole "
            f"group of query heads. Choose kv_heads among the divisors of {heads}."
        )
    if max(hidden, ffn, heads) == 1:
        raise CloneError("Every factor is 1, so nothing grows. Give hidden, ffn or heads above 1.")
    group = heads // kv_heads
    return {"hidden": hidden, "ffn": ffn, "kv_heads": kv_heads, "group": group, "head_dim": 1}


def factors_between(source, wide) -> dict[str, int]:
    """Return the factor of each axis that leads from one configuration to a wider one.

    Args:
        source: The source's configuration.
        wide: That of a model of the same family, perhaps its clone.

    Raises:
        CloneError: If the widths are no multiples, or the depths differ.

    Example:
        >>> from transformers import LlamaConfig
        >>> small = LlamaConfig(hidden_size=64, num_attention_heads=4, intermediate_size=128)
        >>> factors_between(small, resized(small, hidden=2, ffn=3, kv_heads=2))["ffn"]
        3
    """
    a, b = widths(source), widths(wide)
    if source.model_type != wide.model_type or source.num_hidden_layers != wide.num_hidden_layers:
        raise CloneError(
            f"A {source.model_type} of {source.num_hidden_layers} layers is no source of a "
            f"{wide.model_type} of {wide.num_hidden_layers}: cloning keeps family and depth."
        )
    ratios = {field: Fraction(b.ffn[field], size) for field, size in a.ffn.items() if size}
    return resolve_factors(
        source,
        hidden=Fraction(b.hidden, a.hidden),
        ffn=max(ratios.values(), default=1),
        heads=Fraction(b.heads, a.heads),
        kv_heads=Fraction(b.kv_heads, a.kv_heads),
        head_dim=Fraction(b.head_dim, a.head_dim),
    )


def resized(config, *, hidden=1, ffn=1, kv_heads=1, group=1, head_dim=1, only_ffn_field=None):
    """Return a copy of a configuration with its widths multiplied, or divided by a ``Fraction``.

    ``head_dim`` is written down explicitly, so that it does not follow ``hidden_size / heads``;
    families without such a field ignore it. ``only_ffn_field`` grows one FFN field alone.
    """
    size, wide = widths(config), copy.deepcopy(config)
    wide.hidden_size = int(size.hidden * hidden)
    if getattr(config, "num_attention_heads", None) is not None:
        heads = int(size.heads * kv_heads * group)
        wide.num_attention_heads = heads
        for field in filter(lambda name: read(config, name), KV_FIELDS):
            write(wide, field, int(read(config, field) * kv_heads))
        apart = hidden * size.hidden != size.head_dim * head_dim * heads
        if (apart or getattr(config, "head_dim", None) is not None) and settable(
            config, "head_dim"
        ):
            wide.head_dim = int(size.head_dim * head_dim)
    for field, value in size.ffn.items():
        write(wide, field, int(value * (ffn if only_ffn_field in (None, field) else 1)))
    for field in family_of(config).follows_hidden:
        if read(config, field) == size.hidden:
            write(wide, field, wide.hidden_size)
    for field in family_of(config).grows_with_hidden:
        setattr(wide, field, int(getattr(config, field) * hidden))
    if getattr(config, "expand", None):  # a reload computes the inner width by it
        wide.expand, rest = divmod(wide.intermediate_size, wide.hidden_size)
        if rest:
            raise CloneError(
                f"{type(config).__name__} keeps its inner width as a whole multiple of hidden_size,"
                f" and {wide.intermediate_size} is none of {wide.hidden_size}. Leave ffn out."
            )
    return wide


def settable(config, name: str) -> bool:
    """Tell whether a configuration's field can be written (it may be a read-only property)."""
    attribute = inspect.getattr_static(type(config), name, None)
    return not (isinstance(attribute, property) and attribute.fset is None)

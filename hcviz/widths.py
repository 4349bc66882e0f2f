"""Read and set the widths of a model in its Hugging Face configuration."""

import copy
import inspect
import math
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
)
"""The names under which configurations keep the number of FFN neurons."""

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
            f"{type(config).__name__} (model_type {config.model_type!r}) is an encoder-decoder; "
            "hcviz widens decoders. Pass a causal language model."
        )
    hidden, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if not isinstance(hidden, int) or not isinstance(heads, int):
        raise CloneError(
            f"{type(config).__name__} (model_type {config.model_type!r}) has "
            f"hidden_size={hidden!r} and "
            f"num_attention_heads={heads!r}; hcviz widens decoders with both. "
            "For an encoder-decoder or a multi-modal model pass its text decoder."
        )
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    ffn = {}
    for field in FFN_FIELDS:
        if hasattr(config, field):
            # None means four times the hidden size wherever transformers allows it (GPT-2, GPT-J)
            value = getattr(config, field)
            ffn[field] = 4 * hidden if value is None else value
    return Widths(
        hidden, heads, kv_heads, head_dim, {k: v for k, v in ffn.items() if isinstance(v, int)}
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
    wide.num_attention_heads = int(size.heads * kv_heads * group)
    if getattr(config, "num_key_value_heads", None) is not None:
        wide.num_key_value_heads = int(size.kv_heads * kv_heads)
    if hidden * size.hidden != size.head_dim * head_dim * wide.num_attention_heads or (
        getattr(config, "head_dim", None) is not None
    ):
        if settable(config, "head_dim"):
            wide.head_dim = int(size.head_dim * head_dim)
    for field, value in size.ffn.items():
        setattr(wide, field, int(value * (ffn if only_ffn_field in (None, field) else 1)))
    for field in family_of(config).follows_hidden:
        if getattr(config, field, None) == size.hidden:
            setattr(wide, field, wide.hidden_size)
    for field in family_of(config).grows_with_hidden:
        setattr(wide, field, int(getattr(config, field) * hidden))
    return wide


def settable(config, name: str) -> bool:
    """Tell whether a configuration's field can be written (it may be a read-only property)."""
    attribute = inspect.getattr_static(type(config), name, None)
    return not (isinstance(attribute, property) and attribute.fset is None)


def shrunk(config):
    """Return a tiny configuration of the same family and flags: the twin's.

    Widths, vocabulary and depth shrink; head size, the kinds of layers and every other field stay.
    """
    size, tiny = widths(config), copy.deepcopy(config)
    kv_heads = min(size.kv_heads, 2)
    heads = kv_heads * min(size.group, 3)
    coupled = size.heads * size.head_dim == size.hidden
    if getattr(config, "head_dim", 0) is None and settable(config, "head_dim"):
        tiny.head_dim = size.head_dim  # None stands for hidden / heads, which the twin keeps
    tiny.num_attention_heads = heads
    if getattr(config, "num_key_value_heads", None) is not None:
        tiny.num_key_value_heads = kv_heads
    tiny.hidden_size = heads * size.head_dim if coupled else min(size.hidden, 96)
    for number, field in enumerate(size.ffn):
        setattr(tiny, field, min(size.ffn[field], 40 + 16 * number))
    for field in family_of(config).follows_hidden:
        same = getattr(config, field, None) == size.hidden
        setattr(tiny, field, tiny.hidden_size - (0 if same else 1))
    tiny.vocab_size = min(config.vocab_size, 96)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(getattr(tiny, name, None), int):
            setattr(tiny, name, min(getattr(tiny, name), tiny.vocab_size - 1))
    _keep_layers(tiny, config)
    return tiny


def _keep_layers(tiny, config) -> None:
    """Keep the first layers of a configuration, at least two and one of every kind."""
    depth = config.num_hidden_layers
    lists = {
        k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == depth
    }
    kinds = list(zip(*lists.values(), strict=True)) if lists else [()] * depth
    seen = set(map(repr, kinds))
    keep = next(n for n in range(1, depth + 1) if set(map(repr, kinds[:n])) == seen)
    keep = min(max(keep, 2), depth)
    tiny.num_hidden_layers = keep
    for name, values in lists.items():
        setattr(tiny, name, values[:keep])

"""Read and set the widths of a model in its Hugging Face configuration."""

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from hcviz.architecture.families import family_of
from hcviz.errors import CloneError

FFN_FIELDS = (
    "intermediate_size",
    "ffn_dim",
    "decoder_ffn_dim",
    "n_inner",
    "dff",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "ffn_config.ffn_hidden_size",
)
"""The names under which configurations keep the number of FFN neurons."""

KV_FIELDS = ("num_key_value_heads", "num_kv_heads", "attn_config.kv_n_heads")
"""The names under which they keep the number of key/value heads."""

EXPERT_FIELDS = ("moe_intermediate_size",)
"""Those of them that are the inner width of experts beside other FFNs: an axis of their own."""

AXES = ("hidden", "ffn", "expert_ffn", "kv_heads", "group", "head_dim")
"""The axes that can grow. ``group``: query heads per key/value head; heads = kv_heads x group."""


def axis_of(field: str) -> str:
    """Return the axis whose units an FFN field counts."""
    return "expert_ffn" if field in EXPERT_FIELDS else "ffn"


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
    try:
        hidden = getattr(config, "hidden_size", None)
        heads = getattr(config, "num_attention_heads", None)
        kv_field, head_dim = field_of(config, KV_FIELDS), getattr(config, "head_dim", None)
    except Exception as error:  # of a configuration whose layers differ
        raise CloneError(
            f"{type(config).__name__} (model_type {config.model_type!r}): "
            f"{str(error).split('. ')[0]}. hcviz widens models whose layers have the same widths."
        ) from error
    if heads is None and field_of(config, ("state_size", "attention_hidden_size")):
        heads = 1  # a state-space or recurrent model attends to nothing
    if not isinstance(hidden, int) or not isinstance(heads, int):
        raise CloneError(_no_widths(config, hidden, heads))
    head_dim = head_dim or hidden // max(heads, 1)
    kv_heads = read(config, kv_field) if kv_field else heads
    if read(config, "multi_query") and not read(config, "new_decoder_architecture"):
        kv_heads = 1
    ffn = {}
    for field in FFN_FIELDS:
        value = read(config, field)
        if value is not None or hasattr(config, field):
            # None means four times the hidden size wherever transformers allows it (GPT-2, GPT-J)
            ffn[field] = 4 * hidden if value is None else value
    ffn = {k: v for k, v in ffn.items() if isinstance(v, int)}
    found = Widths(hidden, heads, kv_heads, head_dim, ffn, family_of(config).head_blocks)
    if not all(isinstance(n, int) and n > 0 for n in (hidden, heads, kv_heads, head_dim)):
        raise CloneError(f"{type(config).__name__}: {found} is no model. Every width is above 0.")
    return found


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


def resized(
    config, *, hidden=1, ffn=1, expert_ffn=1, kv_heads=1, group=1, head_dim=1, only_ffn_field=None
):
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
        apart |= getattr(config, "head_dim", None) is not None
        if apart and settable(config, "head_dim"):
            wide.head_dim = int(size.head_dim * head_dim)
    grown = {"ffn": ffn, "expert_ffn": expert_ffn}
    for field, value in size.ffn.items():
        factor = grown[axis_of(field)] if only_ffn_field in (None, field) else 1
        write(wide, field, int(value * factor))
    for field in family_of(config).follows_hidden:
        if read(config, field) == size.hidden:
            write(wide, field, wide.hidden_size)
    for field in family_of(config).grows_with_hidden:
        setattr(wide, field, int(getattr(config, field) * hidden))
    if field := family_of(config).multiple:
        times = Fraction(getattr(config, field) * size.hidden, wide.hidden_size)
        # past the configuration's own check: sizes that are only tried need not be whole multiples
        vars(wide)[field] = int(times) if times.denominator == 1 else float(times)
    elif getattr(config, "expand", None):  # a reload computes the inner width by it
        wide.expand, rest = divmod(wide.intermediate_size, wide.hidden_size)
        if rest:
            raise CloneError(
                f"{type(config).__name__} keeps its inner width as a whole multiple of hidden_size,"
                f" and {wide.intermediate_size} is none of {wide.hidden_size}. Leave ffn out."
            )
    return wide


def check_multiple(source, wide) -> None:
    """Refuse a hidden size of which the inner width of a state-space mixer is no whole multiple.

    Raises:
        CloneError: Naming both.
    """
    field = family_of(source).multiple
    if field and not isinstance(getattr(wide, field), int):
        times = getattr(source, field)
        raise CloneError(
            f"The inner width of the state-space mixer stays, {field}={times} times hidden_size="
            f"{source.hidden_size}, and is no whole multiple of hidden_size={wide.hidden_size}. "
            f"Choose a factor of hidden that divides {times}, or hidden=1 and grow ffn and heads."
        )


def settable(config, name: str) -> bool:
    """Tell whether a configuration's field can be written (it may be a read-only property)."""
    attribute = inspect.getattr_static(type(config), name, None)
    return not (isinstance(attribute, property) and attribute.fset is None)

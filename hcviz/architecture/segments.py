"""What fills a dimension: its growth under each probe turned into segments of units."""

from collections.abc import Mapping
from dataclasses import dataclass

from hcviz.architecture.axes import Segment
from hcviz.architecture.widths import Widths, axis_of
from hcviz.errors import CloneError

FUSED_NAMES = {3: "qkv", 2: "gate/up"}


@dataclass(frozen=True)
class Fusing:
    """What shapes do not tell: a hypothesis that the tiny twin decides on."""

    attention: str = "stacked"
    """Fused attention matrices hold their parts one after the other, or ``interleaved`` by head."""
    ffn: str = "stacked"
    """The same of fused FFN matrices; interleaved neuron by neuron."""
    embed_power: float | None = None
    """The model multiplies its embeddings by ``hidden_size ** embed_power``; None: see family."""
    head: str = ""
    """How the units of a head pair up under rotary positions, if heads are to grow in size:
    ``half`` (unit j turns with j + d/2), ``interleaved`` (2j with 2j + 1), ``plain`` (no pairs)."""
    head_power: float = 0.25
    """Queries and keys of heads n times as wide shrink by ``n ** -head_power`` each: 1/4 where dot
    products are divided by the root of the head size, 1/2 where the divisor is constant."""
    pad: str = "zero"
    """What padding of the residual stream holds: ``zero``, or the ``mean`` under LayerNorm."""
    carry: str = "norm"
    """What makes up for padding, which lowers the mean square that a norm divides by: ``norm``
    (gains, and eps in the configuration), ``stream`` (gains, and all that is written to it, where
    eps is not to be had) or ``readers`` (what reads it, where norms have no gain)."""

    def to_dict(self) -> dict:
        """Return what differs from the defaults, JSON-ready."""
        return {k: v for k, v in vars(self).items() if v != getattr(type(self), k)}


def segments(
    name: str,
    length: int,
    growth: Mapping[str, int],
    size: Widths,
    fusing: Fusing,
    *,
    heads: bool,
    attends: bool,
) -> tuple[Segment, ...]:
    """Turn the growth of one dimension under each probe into its segments.

    Args:
        name: The tensor and the dimension, for messages.
        length: Its length.
        growth: By how much it grew when one axis doubled, by axis.
        size: The widths of the model.
        fusing: How fused matrices are laid out.
        heads: The dimension holds heads, of a family whose heads grow with the hidden size.
        attends: The tensor is part of an attention.

    Raises:
        CloneError: If this growth is of no known kind.
    """
    grown = {probe: step for probe, step in growth.items() if step}
    if not grown and attends and length == size.head_dim:  # a norm of each head
        return (Segment(_head_units(length, fusing.head)),)
    if not grown:
        return (Segment(((None, length),)),)
    if set(grown) == {"hidden"} and heads:
        sizes = [n * size.head_dim for n in (size.heads, size.kv_heads, size.kv_heads)]
        if size.group > 1 and length == sum(sizes) and fusing.attention == "stacked":
            parts = zip(sizes, "qkv", strict=True)
            found = [(_head_segment(name, n, size, fusing, grouped=p == "q"), p) for n, p in parts]
            return tuple(Segment(segment.levels, part) for segment, part in found)
        grouped = size.group > 1 and length == size.heads * size.head_dim
        return (_head_segment(name, length, size, fusing, grouped=grouped),)
    if grown == {"hidden": size.hidden} and length > size.hidden:  # beside something of its own
        own = Segment(((None, length - size.hidden),))
        return (Segment((("hidden", size.hidden),)), own)
    if set(grown) == {"hidden"}:
        return (_pure(name, length, size.hidden, (("hidden", size.hidden),), fusing.ffn),)
    if len(grown) == 1 and next(iter(grown)).startswith("ffn:"):
        field = next(iter(grown)).removeprefix("ffn:")
        unit = size.ffn[field]
        return (_pure(name, length, unit, ((axis_of(field), unit),), fusing.ffn),)
    if set(grown) == {"heads"} and grown["heads"] == length:  # keys or values
        return (_head_segment(name, length, size, fusing, grouped=False),)
    if set(grown) == {"heads", "query"} and grown["heads"] == grown["query"] == length:
        return (_head_segment(name, length, size, fusing, grouped=True),)
    if set(grown) == {"heads", "query"} and grown["heads"] == length:  # fused query, key and value
        query, rest = grown["query"], length - grown["query"]
        units = rest // 2 // size.kv_heads
        inner = _head_units(units, fusing.head if units == size.head_dim else "")
        key = Segment((("kv_heads", size.kv_heads), *inner), "k")
        first = _head_segment(name, query, size, fusing, grouped=True).levels
        return (Segment(first, "q"), key, Segment(key.levels, "v"))
    raise CloneError(
        f"{name} grows by {grown} when one axis doubles; hcviz does not know this layout."
    )


def _pure(name: str, length: int, unit: int, levels, fusing: str) -> Segment:
    """Return a segment that holds its unit once or several times."""
    if length == unit:
        return Segment(levels)
    axis = levels[0][0]
    if length % unit or fusing == "interleaved":
        return Segment(((axis, length),))
    count = length // unit
    return Segment(((None, count), *levels), FUSED_NAMES.get(count, f"{count} parts"))


def _head_segment(
    name: str, length: int, size: Widths, fusing: Fusing, *, grouped: bool
) -> Segment:
    """Return the levels of a dimension made of heads; ``grouped`` means query heads in groups."""
    heads = size.heads if grouped else size.kv_heads
    levels = (("kv_heads", size.kv_heads), *([("group", size.group)] if grouped else []))
    units = _head_units(size.head_dim, fusing.head)
    if length % heads:
        raise CloneError(
            f"{name} grows with the heads, but is not a multiple of their number {heads}."
        )
    if size.head_blocks > 1:
        count = length // (heads * size.head_dim)
        inside = (("kv_heads", heads // size.head_blocks), *units)
        parts = ((None, count),) if count > 1 else ()
        return Segment(((None, size.head_blocks), *parts, *inside), FUSED_NAMES.get(count, ""))
    each = length // heads
    count, rest = divmod(each, size.head_dim)
    if rest:
        return Segment((*levels, (None, each)))
    if count == 1:
        return Segment((*levels, *units))
    part = FUSED_NAMES.get(count, f"{count} parts")
    if fusing.attention == "stacked":
        return Segment(((None, count), *levels, *units), part)
    inner = ((None, count), *units) if fusing.head else ((None, each),)
    return Segment((*levels, *inner), part if count in FUSED_NAMES else "")


def _head_units(size: int, pairing: str) -> tuple[tuple[str | None, int], ...]:
    """Return the levels of one head's units."""
    if not pairing:
        return ((None, size),)
    if pairing == "plain" or size % 2:
        return (("head_dim", size),)
    if pairing == "half":
        return ((None, 2), ("head_dim", size // 2))
    return (("head_dim", size // 2), (None, 2))

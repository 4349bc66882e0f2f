"""What a call's factors mean: one exact number for every axis that can grow."""

from collections.abc import Mapping
from fractions import Fraction
from numbers import Real
from typing import Any

from hcviz.architecture.widths import EXPERT_FIELDS, widths
from hcviz.errors import CloneError


def factor_of(name: str, value: Real | str | None, default=None) -> int | Fraction:
    """Return a factor as an exact number of at least one, or say why it is none.

    Raises:
        CloneError: If it is no number, or smaller than one.
    """
    if value is None and default is not None:
        return default
    try:
        if isinstance(value, bool):
            raise TypeError
        number = Fraction(str(value))  # 1.1 means 11/10, not its float
    except (TypeError, ValueError, ZeroDivisionError):
        number = None
    if number is None or number < 1:
        raise CloneError(
            f"{name}={value!r}: a factor is a number of at least 1, such as 2, 3 or 1.5. "
            "A clone is wider than its source; hcviz.declone goes back."
        )
    return int(number) if number.denominator == 1 else number


def parse_factors(written: Mapping[str, int | str]) -> dict[str, int | Fraction]:
    """Return the factors that a recipe tells, exactly; JSON has no fractions."""
    return {axis: factor_of(axis, value) for axis, value in written.items()}


def read_factors(
    config, asked: Mapping[str, Any] | None = None, *, wide: bool = True
) -> dict[str, int | Fraction]:
    """Return the factor of each axis that a model was cloned by.

    Args:
        config: Its configuration.
        asked: As in `hcviz.clone`, ``{"hidden": 2}``, or as a recipe tells them, by axis. Without
            it, what the configuration's ``hcviz`` entry tells; {} if that tells nothing.
        wide: The configuration is the clone's; otherwise its source's.

    Raises:
        CloneError: If they do not fit the configuration.

    Example:
        >>> from transformers import LlamaConfig
        >>> wide = LlamaConfig(hidden_size=96, num_attention_heads=6, intermediate_size=192)
        >>> read_factors(wide, {"hidden": "3/2"})["ffn"]
        Fraction(3, 2)
    """
    asked = asked or (getattr(config, "hcviz", None) or {}).get("factors") or {}
    if not asked or "group" in asked:  # a call names the heads, a recipe the group
        return parse_factors(asked)
    known = ("hidden", "ffn", "expert_ffn", "heads", "kv_heads", "head_dim")
    if unknown := asked.keys() - set(known):
        raise CloneError(
            f"factors={dict(asked)!r}: there is no {', '.join(sorted(unknown))}. A model grows in "
            f"{', '.join(known)}."
        )
    return resolve_factors(config, **asked, wide=wide)


def resolve_factors(
    config,
    *,
    hidden=2,
    ffn=None,
    expert_ffn=None,
    heads=None,
    kv_heads=None,
    head_dim=1,
    wide: bool = False,
) -> dict[str, int | Fraction]:
    """Turn the factors of a call into one factor per axis.

    Args:
        config: The source's configuration.
        hidden: Factor of the residual stream.
        ffn: Factor of the FFN neurons; as ``hidden`` if None.
        expert_ffn: Factor of the experts' inner width, where it is a field of its own; as ``ffn``
            if None.
        heads: Factor of the number of query heads; ``hidden / head_dim`` if None.
        kv_heads: Factor of the key/value heads; as ``heads`` if None, but one key/value head stays
            one.
        head_dim: Factor of the head size, a whole number.
        wide: The configuration is not the source's but that of the clone.

    Returns:
        A factor for each of :data:`AXES`, an int where it is whole.

    Raises:
        CloneError: If a factor gives no whole number of units, or the factors do not fit.
    """
    size = widths(config)
    hidden = factor_of("hidden", hidden)
    ffn = factor_of("ffn", ffn, hidden)
    head_dim = factor_of("head_dim", head_dim, 1)
    if not isinstance(head_dim, int):
        raise CloneError(f"head_dim={head_dim}: heads grow by whole numbers. Use head_dim=2.")
    heads = factor_of("heads", heads, max(_tidy(Fraction(hidden) / head_dim), 1))
    single = size.kv_heads == 1 < size.heads
    kv_heads = factor_of("kv_heads", kv_heads, 1 if single else heads)
    group = _tidy(Fraction(heads) / kv_heads)
    if max(hidden, ffn, heads, head_dim, factor_of("expert_ffn", expert_ffn, 1)) == 1:
        raise CloneError(
            "Every factor is 1, so nothing grows. Give hidden, ffn, heads or head_dim above 1."
        )
    units = {"hidden": size.hidden, "heads": size.heads, "kv_heads": size.kv_heads, **size.ffn}
    factors = {"hidden": hidden, "heads": heads, "kv_heads": kv_heads}
    factors |= {f: expert_ffn or ffn if f in EXPERT_FIELDS else ffn for f in size.ffn}
    for name, count in units.items():
        _check_whole(name, count, factor_of(name, factors[name]), wide=wide)
    if wide:
        _check_whole("query heads of a key/value head", size.group, group, wide=True)
    elif (size.group * Fraction(group)).denominator != 1 or group < 1:
        raise CloneError(
            f"heads={heads} and kv_heads={kv_heads} make {size.heads * heads} query heads for "
            f"{size.kv_heads * kv_heads} key/value heads, and every key/value head must serve a "
            f"whole group, of {size.group} now. Leave kv_heads out, or choose another."
        )
    expert_ffn = factor_of("expert_ffn", expert_ffn, ffn)
    return {
        "hidden": hidden,
        "ffn": ffn,
        "expert_ffn": expert_ffn,
        "kv_heads": kv_heads,
        "group": group,
        "head_dim": head_dim,
    }


def _tidy(number: Fraction) -> int | Fraction:
    """Return a whole fraction as an int."""
    return int(number) if number.denominator == 1 else number


def _check_whole(name: str, units: int, factor: int | Fraction, *, wide: bool) -> None:
    """Refuse a factor that cuts a unit, with the nearest one that does not."""
    if wide:
        if (units / Fraction(factor)).denominator != 1:
            raise CloneError(
                f"{name}: {units} in the clone is no whole number times {factor}, so it was not "
                "cloned by this factor. Give the factors of the call of clone(), or the source."
            )
        return
    if (units * Fraction(factor)).denominator != 1:
        near = max(units + 1, round(units * factor))
        raise CloneError(
            f"{name}: {units} units times {factor} is {float(units * factor):g}, which is no whole "
            f"number. The nearest is {near}, a factor of {Fraction(near, units)}"
            f"{'; heads=1 leaves the heads as they are' if 'heads' in name else ''}."
        )

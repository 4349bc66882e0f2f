"""What a call asks for, one exact number for every axis: factors, or the sizes to reach."""

import re
from collections.abc import Mapping
from fractions import Fraction
from numbers import Real
from typing import Any

from hcviz.architecture.widths import FFN_FIELDS, axis_of, resized, widths
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
    return _tidy(number)


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
    known = [name for name in resolve_factors.__kwdefaults__ if name != "wide"]
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
    expert_ffn = factor_of("expert_ffn", expert_ffn, ffn)
    head_dim = factor_of("head_dim", head_dim, 1)
    if not isinstance(head_dim, int):
        raise CloneError(f"head_dim={head_dim}: heads grow by whole numbers. Use head_dim=2.")
    heads = factor_of("heads", heads, max(_tidy(Fraction(hidden) / head_dim), 1))
    single = size.kv_heads == 1 < size.heads
    kv_heads = factor_of("kv_heads", kv_heads, 1 if single else heads)
    group = _tidy(Fraction(heads) / kv_heads)
    if max(hidden, ffn, heads, head_dim, expert_ffn) == 1:
        raise CloneError(
            "Every factor is 1, so nothing grows. Give hidden, ffn, heads or head_dim above 1."
        )
    grown = {"ffn": ffn, "expert_ffn": expert_ffn}
    for name, count, factor in (
        ("hidden", size.hidden, hidden),
        ("heads", size.heads, heads),
        ("kv_heads", size.kv_heads, kv_heads),
        *((field, count, grown[axis_of(field)]) for field, count in size.ffn.items()),
    ):
        _check_whole(name, count, factor, wide=wide)
    if wide:
        _check_whole("query heads of a key/value head", size.group, group, wide=True)
    elif (size.group * Fraction(group)).denominator != 1 or group < 1:
        raise CloneError(
            f"heads={heads} and kv_heads={kv_heads} make {size.heads * heads} query heads for "
            f"{size.kv_heads * kv_heads} key/value heads, and every key/value head must serve a "
            f"whole group, of {size.group} now. Leave kv_heads out, or choose another."
        )
    rest = {"kv_heads": kv_heads, "group": group, "head_dim": head_dim}
    return {"hidden": hidden, **grown, **rest}


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


WIDTH_FIELDS = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    **{field: axis_of(field) for field in FFN_FIELDS},
}
"""Configuration fields that a clone can change, and the factor that changes each."""
FREE = re.compile(
    r"^_|hcviz|architectures|dtype|version|use_cache|_token_ids?$|initializer|drop|head_dim$"
)
"""Fields in which a clone may differ from its target: they do not change what it computes, or
follow from others."""


def factors_to(config: Any, target) -> dict[str, Fraction]:
    """Return the factors that widen a configuration to a target.

    Args:
        config: The source's configuration.
        target: A configuration, or the fields to reach, such as
            ``{"hidden_size": 640}``; what is not named then follows as in :func:`hcviz.clone`.

    Returns:
        Keyword arguments of :func:`hcviz.architecture.factors.resolve_factors`.

    Raises:
        CloneError: Naming every field that cannot be reached, with both values.

    Example:
        >>> from transformers import LlamaConfig
        >>> small = LlamaConfig(hidden_size=64, num_attention_heads=4, intermediate_size=96)
        >>> factors_to(small, {"hidden_size": 96, "intermediate_size": 120})
        {'hidden': Fraction(3, 2), 'ffn': Fraction(5, 4)}
    """
    if isinstance(target, Mapping):
        return _named(config, dict(target))
    if target.model_type != config.model_type:
        raise CloneError(
            f"to_config is a {target.model_type!r} configuration and the source a "
            f"{config.model_type!r}: a clone keeps its family. Choose a target of the same."
        )
    here, there = _sizes(config), _sizes(target)
    factors = _named(config, {field: size for field, size in there.items() if field in here})
    reached = resized(config, **resolve_factors(config, **factors)).to_dict()
    undone = (getattr(target, "hcviz", None) or {}).get("changed", {})  # by cloning, no width
    wanted = {**target.to_dict(), **undone}
    missed = {
        field: (reached.get(field), wanted.get(field))
        for field in sorted({*reached, *wanted})
        if reached.get(field) != wanted.get(field) and not FREE.search(field)
    }
    if missed:
        _refuse(missed)
    return factors


def factors_between(source: Any, wide: Any) -> dict[str, int | Fraction]:
    """Return the factor of each axis that leads from one configuration to a wider one.

    Args:
        source: The source's configuration.
        wide: That of a model of the same family, perhaps its clone; only widths are compared.

    Raises:
        CloneError: If it is narrower anywhere, or the families or depths differ.

    Example:
        >>> from transformers import LlamaConfig
        >>> small = LlamaConfig(hidden_size=64, num_attention_heads=4, intermediate_size=128)
        >>> factors_between(small, resized(small, hidden=2, ffn=3, kv_heads=2))["ffn"]
        3
    """
    if source.model_type != wide.model_type or source.num_hidden_layers != wide.num_hidden_layers:
        raise CloneError(
            f"A {source.model_type} of {source.num_hidden_layers} layers is no source of a "
            f"{wide.model_type} of {wide.num_hidden_layers}: cloning keeps family and depth."
        )
    return resolve_factors(source, **_named(source, _sizes(wide)))


def _sizes(config: Any) -> dict[str, int]:
    """Return the widths of a configuration by field."""
    size = widths(config)
    return {
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        **size.ffn,
    }


def _named(config: Any, fields: dict[str, int]) -> dict[str, Fraction]:
    """Return the factors that bring the named fields to their targets."""
    here, factors, missed = _sizes(config), {}, {}
    for field, wanted in fields.items():
        if field not in here:
            raise CloneError(
                f"to_config names {field!r}, which is no width of {type(config).__name__}; it has "
                f"{', '.join(f'{name}={count}' for name, count in here.items())}."
            )
        if not isinstance(wanted, int) or wanted < here[field]:
            missed[field] = (here[field], wanted)
            continue
        factor, name = Fraction(wanted, here[field]), WIDTH_FIELDS[field]
        if factors.setdefault(name, factor) != factor:  # two FFN widths that would part
            missed[field] = (here[field] * factors[name], wanted)
    if missed:
        _refuse(missed)
    return factors


def _refuse(missed: dict[str, tuple]) -> None:
    """Say precisely which fields are not reached."""
    lines = [f"{field} is {here!r}, target {there!r}" for field, (here, there) in missed.items()]
    advice = " Layers are added by hcviz.deepen." if "num_hidden_layers" in missed else ""
    raise CloneError(
        f"to_config is not reachable by widening: {'; '.join(lines)}. A clone is never narrower, "
        f"and keeps everything that is no width.{advice} To reach only some widths, name them: "
        "to_config={'hidden_size': 640}."
    )

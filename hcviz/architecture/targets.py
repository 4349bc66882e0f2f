"""Target sizes by name: the factors that lead from one configuration to another."""

import re
from collections.abc import Mapping
from fractions import Fraction
from os import PathLike

from transformers import AutoConfig, PreTrainedConfig

from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.widths import EXPERT_FIELDS, FFN_FIELDS, resized, widths
from hcviz.errors import CloneError
from hcviz.io.sources import place_of

WIDTH_FIELDS = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    **{field: "expert_ffn" if field in EXPERT_FIELDS else "ffn" for field in FFN_FIELDS},
}
"""Configuration fields that a clone can change, and the factor that changes each."""
FREE = re.compile(
    r"^_|hcviz|architectures|dtype|version|use_cache|_token_ids?$|initializer|drop|head_dim$"
)
"""Fields in which a clone may differ from its target: they do not change what it computes, or
follow from others."""


def factors_to(config: PreTrainedConfig, target) -> dict[str, Fraction]:
    """Return the factors that widen a configuration to a target.

    Args:
        config: The source's configuration.
        target: A configuration, a folder or hub id with one, or the fields to reach, such as
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
    if isinstance(target, str | PathLike):
        target = _load(target)
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


def factors_between(source: PreTrainedConfig, wide: PreTrainedConfig) -> dict[str, int | Fraction]:
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


def _sizes(config: PreTrainedConfig) -> dict[str, int]:
    """Return the widths of a configuration by field."""
    size = widths(config)
    return {
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        **size.ffn,
    }


def _load(place: str | PathLike) -> PreTrainedConfig:
    """Read a configuration; nothing of the model is loaded."""
    try:
        return AutoConfig.from_pretrained(place_of(place))
    except (OSError, ValueError) as error:
        raise CloneError(
            f"to_config={str(place)!r} has no configuration that opens: {error} Give a folder with "
            "config.json, a hub id, or fields such as hidden_size=640,intermediate_size=1536."
        ) from error


def _named(config: PreTrainedConfig, fields: dict[str, int]) -> dict[str, Fraction]:
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

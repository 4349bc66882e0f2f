"""Wider heads under rotary positions: the stock class turns every copy as the source's heads turn.

Copies of a head's pairs must turn at the source's frequencies, and the wide head's own would be
others. The rope type ``longrope`` divides them by a list, so the list can say anything.
"""

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hcviz.architecture.axes import Factors
from hcviz.architecture.widths import widths
from hcviz.errors import CloneError

FIXED = ("default", "linear", "llama3", "yarn")
"""Rope types whose frequencies do not depend on the length of the text."""
LARGEST = 2**16
"""Units of a head whose frequencies can be listed; heads of today have hundreds."""


def turns(config) -> bool:
    """Tell whether a model's positions are rotary, as its configuration says."""
    return bool(getattr(config, "rope_parameters", None))


def rotary_fields(config, factors: Factors) -> dict[str, dict]:
    """Return the ``rope_parameters`` under which wider heads turn as the source's do.

    Args:
        config: The source's configuration.
        factors: The factor of each axis.

    Returns:
        ``{"rope_parameters": ...}``, or nothing if heads keep their size or do not turn.

    Raises:
        CloneError: If only a part of a head turns, the frequencies depend on the length of the
            text, or heads would be too large to list them.
    """
    n = factors["head_dim"]
    if n == 1 or not turns(config):
        return {}
    given = config.rope_parameters
    if any(isinstance(value, dict) for value in given.values()):  # by the kind of layer
        one = {kind: _longrope(config, values, n, kind) for kind, values in given.items()}
    else:
        one = _longrope(config, given, n, None)
    return {"rope_parameters": one}


def _longrope(config, given: dict, n: int, layers: str | None) -> dict:
    """Return the rope parameters of wider heads, of one kind of layers or of all."""
    kind = given.get("rope_type", "default")
    part = given.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    size, reason = widths(config).head_dim, None
    if part not in (None, 1, 1.0):
        reason = f"only {part:.0%} of a head turns (partial_rotary_factor)"
    elif kind not in FIXED:
        reason = f"its rope_type {kind!r} has frequencies that depend on the length of the text"
    elif size * n > LARGEST:
        reason = f"{size * n:,} units would need a list of as many frequencies"
    if reason:
        raise CloneError(
            f"head_dim={n}: heads of {type(config).__name__} cannot grow in size, as {reason}. "
            "Leave head_dim out and grow their number: heads=2."
        )
    base = given["rope_theta"]
    wanted, attention_factor = _frequencies(config, kind, size, base, layers)
    wide = size * n
    plain = 1.0 / base ** (torch.arange(0, wide, 2, dtype=torch.float64) / wide)
    factor = (plain / wanted.double().repeat(n)).tolist()
    length = given.get("original_max_position_embeddings") or config.max_position_embeddings
    kept = {key: given[key] for key in ("rope_theta", "partial_rotary_factor") if key in given}
    return {
        **kept,
        "rope_type": "longrope",
        "short_factor": factor,
        "long_factor": factor,
        "factor": 1.0,
        "attention_factor": float(attention_factor),
        "original_max_position_embeddings": length,
    }


def _frequencies(config, kind: str, size: int, base: float, layers) -> tuple[torch.Tensor, float]:
    """Return the source's frequencies, one for each pair of a head's units."""
    if kind != "default":
        extra = {"layer_type": layers} if layers else {}
        return ROPE_INIT_FUNCTIONS[kind](config, device="cpu", **extra)
    # as the stock classes compute it, in float32
    return 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size), 1.0

"""What a clone is asked to be, said once: keywords, command line, docs; and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from hcviz.architecture.axes import Factors
from hcviz.architecture.factors import factor_of
from hcviz.errors import CloneError

Factor = Real | str
SIZES = ("hidden", "ffn", "heads", "kv_heads", "head_dim", "expert_ffn")
"""The fields that are factors."""


@dataclass(frozen=True)
class CloneRequest:
    """The keywords of :func:`hcviz.clone`; what can be checked without a model is checked here.

    Raises:
        CloneError: If a value is none that the field can have.
    """

    hidden: Factor = 2
    """Factor of the residual stream: 2, 1.5, 5/4. One that is not whole gives the first FFN neurons
    and heads one copy more, and pads the residual stream."""
    ffn: Factor | None = None
    """Factor of the FFN neurons; None: as hidden."""
    heads: Factor | None = None
    """Factor of the query heads; None: hidden / head_dim."""
    kv_heads: Factor | None = None
    """Factor of the key/value heads; None: as heads, but a single one stays single."""
    head_dim: int = 1
    """Factor of the head size, a whole number. Rotary positions then get the rope type longrope,
    whose list of frequencies says those of the source."""
    expert_ffn: Factor | None = None
    """Factor of the experts' inner width where it has a field of its own; None: as ffn."""
    to_config: Any = None
    """The sizes to reach instead of factors: a configuration, a folder or hub id with one, or some
    of its fields, such as hidden_size=640,intermediate_size=1536."""
    expansion: str | Sequence | Mapping = "symmetric"
    """How copies that are read share a weight: symmetric (1/n each), diagonal (output copy i reads
    input copy i), noisy-symmetric, noisy-diagonal, random (unequal shares), or a table of shares
    (a row per written copy, such as [[0.7, 0.3], [0.4, 0.6]]). Tensors get forms of their own by a
    part of the model (ffn, heads, hidden: what has neither) or a regular expression over names:
    ffn=random,heads=diagonal."""
    snr_db: float | Mapping[str, float] | None = None
    """Signal-to-noise ratio of a noisy form in dB, in every single tensor; None: 10, as in the
    paper. By part or name as above: ffn=20,heads=10."""
    seed: int = 0
    """Seed of noise and random shares."""
    tie: str = "keep"
    """keep leaves tied embeddings tied (the head's 1/n goes to the final norm's gain; where there
    is none they are untied, with a warning); untie gives the clone a head of its own."""
    check: bool = True
    """Send a tiny random twin of the configuration through the same code first."""

    def __post_init__(self):
        """Check what needs no model."""
        if self.tie not in ("keep", "untie"):
            raise CloneError(f"tie={self.tie!r} is unknown. Choose 'keep' or 'untie'.")
        asked = {
            name: value
            for name, value in self.sizes.items()
            if value != next(one.default for one in fields(self) if one.name == name)
        }
        if self.to_config is not None and asked:
            raise CloneError(
                f"to_config and {asked} both say how wide the clone becomes. Leave one of them out."
            )
        for name, value in asked.items():
            factor_of(name, value, 1)

    @property
    def sizes(self) -> dict[str, Any]:
        """The factors, as arguments of :func:`hcviz.architecture.factors.resolve_factors`."""
        return {name: getattr(self, name) for name in SIZES}


@dataclass(frozen=True)
class Growth:
    """A request, resolved for one architecture: what every tensor of it is widened by, and how."""

    config: Any
    """The source's configuration."""
    model_class: type
    factors: Factors
    """The factor of each axis."""
    form: Any
    """The :class:`~hcviz.widening.expansion.Expansion`."""
    tie: str = "keep"
    """``keep`` or ``untie``."""

"""Which families clone: every causal-LM type of transformers, tried on its tiny twin."""

import warnings
from collections.abc import Iterable, Iterator

import pandas as pd

from hcviz.errors import CloneError
from hcviz.expansion import Expansion
from hcviz.quiet import quiet
from hcviz.twin import resolve_fusing
from hcviz.widths import resolve_factors

TRIES = {
    "all": {"hidden": 2},
    "ffn": {"hidden": 1, "ffn": 2, "heads": 1},
}
"""What is tried, best first: everything by two, then the FFN neurons alone."""


def model_types() -> list[str]:
    """Return the ``model_type`` of every causal language model that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def census(types: Iterable[str] | None = None) -> pd.DataFrame:
    """Try to clone the default configuration of each type, as a tiny random twin.

    Args:
        types: Which ones; all that transformers knows if None.

    Returns:
        One row per type: ``type``, ``verdict`` (exact, partly, refused), ``axes`` that grow
        together, and ``why`` for what does not.

    Example:
        >>> census(["llama"]).iloc[0]["verdict"]
        'exact'
    """
    return pd.DataFrame(list(_rows(model_types() if types is None else types)))


def _rows(types: Iterable[str]) -> Iterator[dict[str, str]]:
    for kind in types:
        why, axes = "", ""
        for name, factors in TRIES.items():
            try:
                with quiet(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _try(kind, factors)
                axes = name
                break
            except Exception as error:  # a family's own code may raise anything on a tiny size
                reason = str(error) if isinstance(error, CloneError) else _short(error)
                why = why or reason
        verdict = {"all": "exact", "ffn": "partly"}.get(axes, "refused")
        yield {"type": kind, "verdict": verdict, "axes": axes, "why": why}


def _try(kind: str, factors: dict[str, int]) -> None:
    """Send the twin of a type's default configuration through the cloning code."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind)
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    resolve_fusing(config, model_class, resolve_factors(config, **factors), Expansion(), "keep")


def _short(error: Exception) -> str:
    """Return the kind and the first line of an error that is not ours."""
    first = (str(error).splitlines() or [""])[0]
    return f"its own code stops: {type(error).__name__}: {first}"[:300]

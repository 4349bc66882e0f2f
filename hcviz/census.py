"""Which families clone: every causal-LM type of transformers, tried on its tiny twin."""

import warnings
from collections.abc import Iterable, Iterator

import pandas as pd
from tqdm.auto import tqdm

from hcviz.errors import CloneError, HcvizError
from hcviz.expansion import Expansion
from hcviz.quiet import quiet
from hcviz.twin import resolve_fusing
from hcviz.widths import resolve_factors

TRIES = {
    "all": {"hidden": 2},
    "size": {"hidden": 2, "head_dim": 2},
    "ffn": {"hidden": 1, "ffn": 2, "heads": 1},
}
"""What is tried, best first: everything by two, heads by size instead of number, the FFN
neurons alone."""
VERDICTS = {"all": "exact", "size": "exact", "ffn": "partly", "": "refused"}


def model_types() -> list[str]:
    """Return the ``model_type`` of every causal language model that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def census(types: Iterable[str] | None = None, *, progress: bool = False) -> pd.DataFrame:
    """Try to clone the default configuration of each type, as a tiny random twin.

    Args:
        types: Which ones; all that transformers knows if None (some minutes).
        progress: Show a progress bar.

    Returns:
        One row per type: ``type``, ``verdict`` (exact, partly, refused), ``axes`` that grow
        together, and ``why`` for what does not.

    Raises:
        HcvizError: If transformers knows no such type.

    Example:
        >>> census(["llama"]).iloc[0]["verdict"]
        'exact'
    """
    types = list(model_types() if types is None else types)
    unknown = sorted(set(types) - set(model_types()))
    if unknown:
        raise HcvizError(
            f"{', '.join(unknown)}: no causal-LM type of transformers. One of them is spelt, for "
            f"example, {', '.join(model_types()[60:64])}."
        )
    bar = tqdm(types, desc="families", unit="type", disable=not progress)
    return pd.DataFrame(list(_rows(bar)))


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table as a page: the count of each verdict, then a row per type."""
    from transformers import __version__

    counts = table["verdict"].value_counts()
    summary = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS.values())
    lines = [
        "# Families",
        "",
        f"Every causal-LM type of transformers {__version__}: its default configuration, cloned by "
        "two as a tiny random twin. *exact*: hidden size, FFN and heads grow together, and the "
        "logits are the source's in true float64 (relative error under 1e-9). *partly*: the FFN "
        "alone does. *refused*: `hcviz clone` stops with the reason given.",
        "",
        f"{summary}. Made by `hcviz families --out docs/families.md`.",
        "",
        "| type | verdict | why not more |",
        "|---|---|---|",
    ]
    rows = table.fillna("").itertuples()
    lines += [f"| {row.type} | {row.verdict} | {_cell(row.why)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a reason as one table cell, without the advice that follows it."""
    return " ".join(text.split()).replace("|", "/")[:240]


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
        yield {"type": kind, "verdict": VERDICTS[axes], "axes": axes, "why": why}


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

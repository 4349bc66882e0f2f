"""Which families clone: every causal-LM type of transformers, tried on its tiny twin."""

import warnings
from collections.abc import Iterable, Iterator

import pandas as pd
from tqdm.auto import tqdm

from hcviz.architecture.factors import resolve_factors
from hcviz.errors import CloneError, HcvizError
from hcviz.io.process import quiet
from hcviz.widening.expansion import Expansion
from hcviz.widening.twin import resolve_fusing, what_works
from hcviz.widening.usual import usual_config

VERDICTS = ("exact", "partly", "refused")


def model_types() -> list[str]:
    """Return the ``model_type`` of every causal language model that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def census(types: Iterable[str] | None = None, *, progress: bool = False) -> pd.DataFrame:
    """Try to clone the usual configuration of each type, as a tiny random twin.

    Args:
        types: Which ones; all that transformers knows if None (some minutes).
        progress: Show a progress bar.

    Returns:
        One row per type: ``type``, ``verdict`` (exact, partly, refused), ``grows``: calls of
        :func:`hcviz.clone` that were tried and are exact, and ``why`` no more does.

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
    summary = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
    lines = [
        "# Families",
        "",
        f"Every causal-LM type of transformers {__version__}, cloned by two as a tiny random twin. "
        "*exact*: hidden size, FFN and heads grow together (heads in size where their number is "
        "fixed), and the logits are the source's in "
        "true float64 (relative error under 1e-9; the tests save and reload each one and allow "
        "1e-12); the inner width of a state-space mixer with heads, as of Mamba-2, stays. "
        "*partly*: only what stands under *grows*. *refused*: `hcviz clone` stops with the "
        "reason given. A type whose defaults cannot be built is tried with fields of published "
        "checkpoints (`hcviz/widening/usual.py`); a multi-modal type whose causal language model "
        "is its text part stands for that part.",
        "",
        f"{summary}. Made by `hcviz families --out docs/families.md`.",
        "",
        "| type | verdict | grows | why not more |",
        "|---|---|---|---|",
    ]
    rows = table.fillna("").itertuples()
    lines += [f"| {row.type} | {row.verdict} | {row.grows} | {_cell(row.why)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a reason as one table cell, without the advice that follows it."""
    return " ".join(text.split()).replace("|", "/")[:240]


def _rows(types: Iterable[str]) -> Iterator[dict[str, str]]:
    for kind in types:
        why, works = "", []
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config, model_class = usual_config(kind)
                factors = resolve_factors(config)
                works = ["hidden=2"]
                resolve_fusing(config, model_class, factors, Expansion(), "keep", advise=False)
            except CloneError as error:
                why = str(error)
                works = what_works(config, model_class) if works else []
        exact = works[:1] in (["hidden=2"], ["hidden=2, head_dim=2"])
        verdict = VERDICTS[0 if exact else 1 if works else 2]
        yield {"type": kind, "verdict": verdict, "grows": "; ".join(works), "why": why}

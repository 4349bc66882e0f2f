"""The census of families: every model type of transformers, tried on its usual configuration."""

import warnings
from collections.abc import Iterable, Iterator

import pandas as pd
from tqdm.auto import tqdm

from hcviz.architecture.factors import resolve_factors
from hcviz.errors import CloneError, HcvizError
from hcviz.io.process import quiet
from hcviz.widening.expansion import Expansion
from hcviz.widening.request import Growth
from hcviz.widening.twin import resolve_fusing, what_works

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
        "checkpoints (`hcviz/widening/census.py`); a multi-modal type whose causal language model "
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
                resolve_fusing(Growth(config, model_class, factors, Expansion()), advise=False)
            except CloneError as error:
                why = str(error)
                works = what_works(config, model_class) if works else []
        exact = works[:1] in (["hidden=2"], ["hidden=2, head_dim=2"])
        verdict = VERDICTS[0 if exact else 1 if works else 2]
        yield {"type": kind, "verdict": verdict, "grows": "; ".join(works), "why": why}


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_OPEN_HEADS = "its defaults leave the head size open"
_OPEN_EXPERTS = "its defaults leave the number of experts open"
_NO_ATTENTION = "its defaults have no layer with attention"
_LARGE = "its heads are large, and small ones are tried sooner"

USUAL: dict[str, tuple[dict, str]] = {
    "codegen": ({"n_embd": 1024, "n_head": 16}, _LARGE),
    "cohere_compass_text": (
        {
            "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 10,
            "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
        },
        "its defaults leave the kinds of layers open",
    ),
    "dbrx": (
        {
            "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 500000.0},
            "ffn_config": {"hidden_size": 2048, "moe_num_experts": 4, "moe_top_k": 2},
        },
        "its defaults leave the rotary base open and are of two hidden sizes",
    ),
    "bamba": ({"attn_layer_indices": [9, 18, 27]}, _NO_ATTENTION),
    "deepseek_v2": (
        {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
        "its defaults leave the number of chosen experts open",
    ),
    "dots1": (
        {
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
        },
        _OPEN_EXPERTS,
    ),
    "granitemoehybrid": (
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
        _NO_ATTENTION,
    ),
    "hunyuan_v1_dense": ({"head_dim": 128}, _OPEN_HEADS),
    "hunyuan_v1_moe": ({"head_dim": 128}, _OPEN_HEADS),
    "jamba": ({"hidden_size": 1024}, _LARGE),
    "lfm2_moe": (
        {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
        "its defaults leave the kinds of layers open",
    ),
    "ministral": ({"head_dim": 128}, _OPEN_HEADS),
    "nemotron": ({"head_dim": 128, "num_key_value_heads": 8}, _OPEN_HEADS),
    "nemotron_h": ({"mamba_num_heads": 16}, _LARGE),
    "qwen3_5_text": ({"head_dim": 64}, _LARGE),
    "xmod": ({"default_language": "en_XX"}, "its defaults name no language"),
}
"""By model type: what to set, and why. Checkpoints that were published have such fields set."""


def usual_config(kind: str):
    """Return a configuration of a model type that can be built, and the class of its decoder.

    A multi-modal type whose causal language model is its text part gives the text part's
    configuration, as ``AutoModelForCausalLM.from_config`` does.

    Args:
        kind: A ``model_type`` of transformers.

    Raises:
        CloneError: If the configuration refuses its own defaults.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.for_model(kind, **USUAL.get(kind, ({}, ""))[0])
    except Exception as error:  # configurations check themselves, each in its way
        reason = " ".join(str(error).split())
        raise CloneError(f"{kind}: its own configuration stops: {reason}") from error
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    if model_class.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()
    return config, model_class

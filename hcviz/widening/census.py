"""The census of families: every model type of transformers, as it is usual and flag by flag."""

import contextlib
import dataclasses
import inspect
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from tqdm.auto import tqdm

from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.infer import meta_model
from hcviz.architecture.tiny import faithful, make, shrunk
from hcviz.architecture.widths import read, write
from hcviz.errors import CloneError, HcvizError
from hcviz.io.process import quiet
from hcviz.widening.expansion import Expansion
from hcviz.widening.request import Growth
from hcviz.widening.twin import random_logits, resolve_fusing, what_works

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


def flag_census(table: pd.DataFrame, *, progress: bool = False) -> pd.DataFrame:
    """Try the exact types again with each of their flags, one at a time, set otherwise.

    Args:
        table: What :func:`census` found.
        progress: Show a progress bar.

    Returns:
        One row per type and flag that changes what its tiny model is made of or computes: ``type``,
        ``flag`` (``alibi=True``), ``verdict``, ``grows`` and ``why`` as in :func:`census`, and
        ``differs``: whether it does not grow as the type does without.

    Example:
        >>> list(flag_census(census(["arcee"]))["flag"])
        ['tie_word_embeddings=True', 'attention_bias=True', 'mlp_bias=True']
    """
    rows = table[table["verdict"] == "exact"]
    bar = tqdm(rows.itertuples(), desc="flags", total=len(rows), unit="type", disable=not progress)
    found = [row for usual in bar for row in _flag_rows(usual)]
    return pd.DataFrame(found, columns=["type", "flag", "verdict", "grows", "why", "differs"])


def to_markdown(table: pd.DataFrame, flags: pd.DataFrame) -> str:
    """Return the census as a page: the counts, a row per type, and the flags that matter."""
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
    odd = flags[flags["differs"]]
    lines += [
        "",
        "## Flags",
        "",
        "The same for each exact type with one flag set otherwise: every boolean of its "
        "configuration, and every word that its code compares a field with, if that changes what "
        f"the tiny model is made of or computes. Of {len(flags)} such pairs {len(odd)} grow "
        "otherwise than the type itself:",
        "",
        "| type | flag | verdict | grows | why not more |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.type} | {row.flag} | {row.verdict} | {row.grows} | {_cell(row.why)} |"
        for row in odd.itertuples()
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a reason as one table cell, without the advice that follows it."""
    return " ".join(text.split()).replace("|", "/")[:240]


def _rows(types: Iterable[str]) -> Iterator[dict[str, str]]:
    for kind in types:
        with silent():
            try:
                found = verdict_of(*usual_config(kind))
            except CloneError as error:
                found = {"verdict": "refused", "grows": "", "why": str(error)}
        yield {"type": kind, **found}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Let transformers and torch warn nobody inside the block."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def verdict_of(config, model_class) -> dict[str, str]:
    """Try to clone a configuration by two; if it does not grow as a whole, say what does.

    Args:
        config: A configuration, of any size.
        model_class: Its class.

    Returns:
        ``verdict``, ``grows`` and ``why``, as in :func:`census`.
    """
    why, works = "", []
    try:
        factors = resolve_factors(config)
        works = ["hidden=2"]
        resolve_fusing(Growth(config, model_class, factors, Expansion()), advise=False)
    except CloneError as error:
        why = str(error)
        works = what_works(config, model_class) if works else []
    exact = works[:1] in (["hidden=2"], ["hidden=2, head_dim=2"])
    verdict = VERDICTS[0 if exact else 1 if works else 2]
    return {"verdict": verdict, "grows": "; ".join(works), "why": why}


def _flag_rows(usual) -> Iterator[dict]:
    """Try the flags of one type; ``usual`` is its row of the census."""
    with silent():
        config, model_class = usual_config(usual.type)
        if config.model_type != usual.type and config.model_type in model_types():
            return  # the type of that name has the flags
        tiny = faithful(config, model_class)
        plain = _fingerprint(tiny, model_class)
        for field, value in flags_of(config, model_class):
            try:
                flagged = usual_config(usual.type, {field: value})[0]
                small = shrunk(flagged, tiny.num_hidden_layers)
                if _fingerprint(small, model_class) == plain:
                    continue
            except (CloneError, ValueError):  # the stock class refuses the flag
                continue
            row = verdict_of(small, model_class)
            if odd := row["grows"] != usual.grows:
                row = verdict_of(flagged, model_class)  # the reason names the usual sizes
                odd = row["grows"] != usual.grows
            yield {"type": usual.type, "flag": f"{field}={value}", **row, "differs": odd}


def _fingerprint(tiny, model_class) -> tuple:
    """Return what a tiny model is made of and what it computes; its own code may stop."""
    made = make(meta_model(tiny, model_class))
    try:
        return made, random_logits(tiny, model_class).numpy().tobytes()
    except Exception as error:  # of a modelling file
        return made, repr(error)


def flags_of(config, model_class) -> list[tuple[str, bool | str]]:
    """Return what can be set otherwise in a configuration, a field and a value each.

    Booleans are turned over; words are those that the code of the class compares the field with.
    """
    files = (sys.modules[kind.__module__] for kind in (type(config), model_class))
    code = "".join(map(inspect.getsource, files))
    parts = [name for name in config.sub_configs if read(config, name) is not None]
    found = []
    for path in ["", *(p for p in parts if not hasattr(read(config, p), "num_hidden_layers"))]:
        part = read(config, path) if path else config
        kinds = {field.name: str(field.type) for field in dataclasses.fields(type(part))}
        for name, value in vars(part).items():
            if NO_FLAG.search(name):
                continue
            words = []
            if isinstance(value, bool) or (value is None and "bool" in kinds.get(name, "")):
                words = [not value]
            elif isinstance(value, str):
                words = sorted({*re.findall(rf'\b{name} [=!]= "(\w+)"', code)} - {value})
            found += [(f"{path}.{name}".lstrip("."), word) for word in words]
    return found


NO_FLAG = re.compile(r"^_|^output_|^return_dict|^use_cache$|^is_encoder_decoder$|^summary_")
"""Fields that say what a model returns, not what it computes."""

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
        {"num_experts_per_tok": 6, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2},
        "its defaults leave the number of chosen experts open, and their groups",
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
        {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
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


def usual_config(kind: str, changes: Mapping[str, bool | str] | None = None):
    """Return a configuration of a model type that can be built, and the class of its decoder.

    A multi-modal type whose causal language model is its text part gives the text part's
    configuration, as ``AutoModelForCausalLM.from_config`` does.

    Args:
        kind: A ``model_type`` of transformers.
        changes: Fields to set otherwise, dotted inside another configuration.

    Raises:
        CloneError: If the configuration refuses its own defaults.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    changes = changes or {}
    own = {name: value for name, value in changes.items() if "." not in name}
    try:
        config = AutoConfig.for_model(kind, **{**USUAL.get(kind, ({}, ""))[0], **own})
        for name in changes.keys() - own.keys():
            write(config, name, changes[name])
    except Exception as error:  # configurations check themselves, each in its way
        reason = " ".join(str(error).split())
        raise CloneError(f"{kind}: its own configuration stops: {reason}") from error
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    if model_class.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()
        for name, value in changes.items():
            write(config, name, value)
    return config, model_class

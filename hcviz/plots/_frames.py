"""Read tidy frames: check their columns, choose rows, and name the kind of every tensor."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hcviz.errors import HcvizError
from hcviz.io.files import layer_of

_KINDS = (
    # gate_up_proj and query_key_value are fused: the part says which of their rows are meant.
    ("up-projection", r"dense_h_to_4h|fc1|c_fc|up_proj|fc_in|(^|\.)w3\b"),
    ("gate-projection", r"gate_proj|(^|\.)w1\b"),
    ("down-projection", r"dense_4h_to_h|fc2|mlp\.c_proj|down_proj|fc_out|(^|\.)w2\b"),
    ("QKV", r"query_key_value|c_attn|qkv|[qkv]_proj|[qkv]_lin\b"),
    ("attention output", r"attention\.dense|attn\.c_proj|out_proj|o_proj"),
    ("unembedding", r"embed_out|lm_head|output_projection"),
    ("norm", r"norm|ln_|layernorm"),
    ("positions", r"embed_positions|wpe"),
    ("embedding", r"embed_in|embed_tokens|wte|word_embeddings|embedding"),
)
KINDS = tuple(kind for kind, _ in _KINDS)


def kind(tensor: str, part: str | None = None) -> str:
    """Return what a weight is for, by its name: ``up-projection``, ``QKV``, ``unembedding``, ...

    Example:
        >>> kind("gpt_neox.layers.0.mlp.dense_h_to_4h.weight")
        'up-projection'
        >>> kind("model.layers.0.mlp.gate_up_proj.weight", part="gate")
        'gate-projection'
    """
    if "gate_up" in tensor:
        return "gate-projection" if str(part).startswith("gate") else "up-projection"
    return next((name for name, pattern in _KINDS if re.search(pattern, tensor)), "other")


def need(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse a frame that lacks columns.

    Raises:
        HcvizError: Naming the missing columns and those that are there.
    """
    if not isinstance(frame, pd.DataFrame):
        raise HcvizError(f"{what} needs a pandas DataFrame, and got a {type(frame).__name__}.")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise HcvizError(
            f"{what} needs the columns {', '.join(missing)}; "
            f"the frame has {', '.join(map(str, frame))}. "
            "History frames come from Run.history, the others from hcviz.measure(run)."
        )


def metric(
    frame: pd.DataFrame, name: str, columns: Sequence[str] = (), hue: str | None = None
) -> pd.DataFrame:
    """Return the finite rows of one metric, with the columns ``kind`` and ``weight`` added.

    A weight is a tensor, or one part of a fused tensor (``name:part``).

    Raises:
        HcvizError: If columns are missing or no finite row is left.
    """
    asked = dict.fromkeys(["step", "tensor", "metric", "value", *columns, *([hue] if hue else [])])
    need(frame, [c for c in asked if c != "kind"], f"The {name} figure")
    rows = frame[(frame["metric"] == name) & np.isfinite(frame["value"].astype(float))]
    if rows.empty:
        there = ", ".join(sorted(map(str, frame["metric"].unique()))) or "nothing"
        raise HcvizError(
            f"The frame holds no finite value of the metric {name!r} (it holds {there}). "
            f"Ask for it: hcviz.measure(run, metrics=[{name!r}])."
        )
    parts = rows["part"] if "part" in rows else pd.Series(None, index=rows.index, dtype=object)
    keys = pd.DataFrame({"tensor": rows["tensor"], "part": parts.fillna("")}).astype(str)
    which = keys.groupby(["tensor", "part"], sort=False).ngroup().to_numpy()
    pairs = list(keys.drop_duplicates().itertuples(index=False, name=None))  # in the same order
    kinds = np.array([kind(*pair) for pair in pairs], dtype=object)
    weights = np.array([f"{tensor}:{part}" if part else tensor for tensor, part in pairs], object)
    rows = rows.reset_index(drop=True)  # frames put together by concat repeat their index
    return rows.assign(kind=kinds[which], weight=weights[which])


def choose(values: Iterable[object], asked: Iterable[object] | None, what: str) -> list:
    """Return the asked values, or all; refuse those that are not there.

    Raises:
        HcvizError: Naming the absent ones and what there is.
    """
    there = list(dict.fromkeys(values))
    if asked is None:
        return there
    asked = [asked] if isinstance(asked, str | int) else list(asked)
    absent = [value for value in asked if value not in there]
    if absent or not asked:
        shown = ", ".join(map(str, there[:12])) + (", ..." if len(there) > 12 else "")
        raise HcvizError(f"No {what} {', '.join(map(str, absent))} here; there are {shown}.")
    return asked


def spread(steps: Iterable[int], most: int = 5) -> list[int]:
    """Pick at most ``most`` steps, evenly on a log scale, first and last included.

    Example:
        >>> spread(range(101), 4)
        [0, 4, 21, 100]
        >>> spread([0, 1, 2, 100], 9)
        [0, 1, 2, 100]
    """
    steps = np.unique(np.fromiter(steps, dtype=np.int64))
    if len(steps) <= most:
        return steps.tolist()
    logs = np.log1p(steps - steps[0])
    wanted = np.linspace(0, logs[-1], most)
    return steps[np.unique([np.abs(logs - w).argmin() for w in wanted])].tolist()


def short(weight: str) -> str:
    """Shorten the name of a weight for a title.

    Example:
        >>> short("gpt_neox.layers.3.mlp.dense_h_to_4h.weight")
        'up-projection, layer 3'
        >>> short("model.layers.3.self_attn.q_proj.weight")
        'q_proj, layer 3'
    """
    tensor, _, part = weight.partition(":")
    words = tensor.removesuffix(".weight").split(".")
    layer = layer_of(tensor)
    what = kind(tensor, part)
    if what == "other" or re.fullmatch("[qkv]_(proj|lin)", words[-1]):
        what = words[-1]
    elif part and what == "QKV":
        what = f"{part} of {what}"
    return what + (f", layer {layer}" if layer is not None else "")


def matrices(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out gains and biases: vectors that start near one or zero say little about copies."""
    kept = rows[(rows["kind"] != "norm") & ~rows["tensor"].astype(str).str.endswith("bias")]
    return rows if kept.empty else kept


def matching(rows: pd.DataFrame, tensors: str | Iterable[str] | None) -> pd.DataFrame:
    """Keep the rows of some tensors, in the order asked, each by its full name or its kind.

    Raises:
        HcvizError: If one of them matches nothing.
    """
    if tensors is None:
        return rows
    asked = [tensors] if isinstance(tensors, str) else list(tensors)
    there = [*rows["kind"].unique(), *rows["tensor"].unique()]
    choose(there, asked, "tensor or kind")
    found = [rows[(rows["tensor"] == one) | (rows["kind"] == one)] for one in asked]
    together = pd.concat(found)
    return together[~together.index.duplicated()]

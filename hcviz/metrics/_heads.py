"""Where copied heads look, how alike their attention patterns are, which are induction heads."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.special import entr

from hcviz.architecture.axes import HEADS, SYMMETRY, Dim, Segment
from hcviz.architecture.blocks import pieces
from hcviz.errors import HcvizError
from hcviz.io.files import finder, layer_of
from hcviz.io.sources import tokenizer_for
from hcviz.metrics._activations import Layout, inner_dims
from hcviz.metrics._registry import Row, metric
from hcviz.runs.run import Run

LONGEST = 40
"""Tokens of a text whose attention is shown."""


@metric("heads", of="model")
@torch.no_grad()
def heads(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Agreement of the attention of copied heads, 1 - Jensen-Shannon divergence in bits.

    The mean over the positions of the text after each block's first, and over pairs of copies: 1
    for equal patterns, 0 for patterns without a common position; row is the source's head. ``part``
    is ``copies``, or ``others`` for different heads of the layer (each with the next): the level to
    compare with. The model computes its attention by the eager code meanwhile, a block at a time.
    """
    total: dict[tuple[str, str], torch.Tensor] = {}
    for block in batch.split(1):
        for path, copies in attention(model, block, layout, factors).items():
            if len(copies) < 2:
                continue
            pairs = itertools.combinations(copies, 2)
            found = {"copies": torch.stack([agreement(a, b) for a, b in pairs]).mean(0)}
            if len(copies[0]) > 1:
                found["others"] = agreement(copies[0], copies[0].roll(-1, 0))
            for part, values in found.items():
                total[path, part] = total.get((path, part), 0) + values / len(batch)
    for (path, part), values in total.items():
        for head, value in enumerate(values.tolist()):
            yield {"tensor": path, "axis": HEADS, "part": part, "row": head, "value": value}


@metric("induction", of="model", needs_clone=False)
@torch.no_grad()
def induction(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Prefix matching of every head on random tokens read twice; row is the source's head.

    The attention from a token's second occurrence to what followed the first, mean over the second
    half (Olsson et al. 2022); col is the copy. The tokens are drawn, by a seed: of the given text
    only the shape counts. ``part`` is ``heads``, or ``uniform`` for one that looks at all alike.
    """
    count, length = len(batch), batch.shape[1] // 2
    drawn = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    once = torch.randint(vocabulary, (count, length), generator=drawn).to(batch.device)
    total: dict[str, torch.Tensor] = {}
    for block in torch.cat([once, once], 1).split(1):
        for path, copies in attention(model, block, layout, factors).items():
            total[path] = total.get(path, 0) + prefix_matching(copies) / count
    for path, table in total.items():
        for (copy, head), value in np.ndenumerate(table.cpu().numpy()):
            where = {"tensor": path, "axis": HEADS, "part": "heads", "row": head, "col": copy}
            yield where | {"value": float(value)}
        even = torch.ones(2 * length, 2 * length).tril()
        level = prefix_matching(even / even.sum(-1, keepdim=True)).item()
        yield {"tensor": path, "axis": HEADS, "part": "uniform", "value": level}


def prefix_matching(pattern: torch.Tensor) -> torch.Tensor:
    """Return the mean attention of the second half to what followed the same token: [..., S, S].

    Example:
        >>> looks_at = [0, 0, 1, 0]  # of the tokens 7 9 7 9: the second 7 at the first 9
        >>> prefix_matching(torch.eye(4)[looks_at])
        tensor(0.5000)
    """
    half = pattern.shape[-1] // 2
    return pattern[..., half:, :].diagonal(1, -2, -1)[..., :half].mean(-1)


def attention(
    model: nn.Module, block: torch.Tensor, layout: Layout, factors
) -> dict[str, torch.Tensor]:
    """Return layer by layer the attention on one text, ``[copies, source heads, length, length]``.

    Raises:
        HcvizError: If the model does not tell its attention.
    """
    dims = inner_dims(layout, HEADS)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not tell their patterns
    try:
        out = model.base_model(input_ids=block, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    told = getattr(out, "attentions", None) or ()
    whole = all(one is not None and one.ndim == 4 for one in told)
    if not told or not whole or len(told) != len(dims):
        outputs = f" ({', '.join([*dims][:3])}, ...)" if dims else ""
        raise HcvizError(
            f"{type(model).__name__} returns {len(told) if whole else 'no'} attention patterns for "
            f"its {len(dims)} attention outputs{outputs}; the metrics 'heads' and 'induction' and "
            "the figure 'patterns' need one each. Measure 'twins' instead."
        )
    return {
        path: _copies(pattern[0].double(), dim, factors)
        for (path, dim), pattern in zip(dims.items(), told, strict=True)
    }


@torch.no_grad()
def attended(run: Run, text: str, step: int | None) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the first tokens of a text, and what `attention` tells of them by a run's model."""
    model = run.model(step)
    tokenizer = tokenizer_for(model)
    most = min(LONGEST, getattr(model.config, "max_position_embeddings", None) or LONGEST)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:most]
    if len(ids) < 2:
        raise HcvizError(f"The text {text!r} has {len(ids)} tokens; attention needs two or more.")
    told = attention(model, torch.tensor([ids], device=model.device), run.layout, run.factors)
    words = [tokenizer.decode([one]) for one in ids]
    return words, {path: one.float().numpy(force=True) for path, one in told.items()}


def patterns(
    run: Run,
    text: str,
    *,
    step: int | None = None,
    tensors: str | Iterable[str] | None = None,
    read: Callable[..., tuple[list[str], dict[str, np.ndarray]]] = attended,
) -> pd.DataFrame:
    """Return where every head of a layer and its copies look in a text.

    Args:
        run: A run that started from a clone.
        text: Its first :data:`LONGEST` tokens are read, or as many as the model has positions.
        step: A step at which the whole model was kept; the last by default.
        tensors: Regular expressions; the first attention output that one finds; None: a middle one.
        read: What has the model read the text; a caller may pass one that remembers.

    Returns:
        A row for every query and key: run, step, tensor, layer, head (of the source), copy, query,
        key, query_token, key_token, value. A query's values add up to one.

    Raises:
        HcvizError: If the step has no whole model, the text is short or nothing is found.
    """
    words, told = read(run, text, step)
    names = list(filter(finder(tensors), told))
    if not names:
        raise HcvizError(f"No attention matches {tensors!r}; there are {', '.join(told)}.")
    name = names[0 if tensors else len(names) // 2]
    copies, heads, queries, keys = (index.ravel() for index in np.indices(told[name].shape))
    tokens = np.array(words, dtype=object)
    columns = {"copy": copies, "head": heads, "query": queries, "key": keys}
    columns |= {"query_token": tokens[queries], "key_token": tokens[keys]}
    where = {"run": run.name, "step": run.steps[-1] if step is None else step, "tensor": name}
    value = told[name].ravel().astype(float)
    return pd.DataFrame({**where, "layer": layer_of(name), **columns, "value": value})


def agreement(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return 1 - Jensen-Shannon divergence (bits) of attention patterns, mean over positions.

    Args:
        p: ``[heads, length, length]``; each row adds up to one. The first is left out: it has one
            key to look at.
        q: The same of the copies.

    Returns:
        ``[heads]``.

    Example:
        >>> one = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]])
        >>> agreement(one, one.flip(0)).tolist() == agreement(one.flip(0), one).tolist()
        True
    """
    p, q = p[:, 1:], q[:, 1:]
    divergence = entr((p + q) / 2) - (entr(p) + entr(q)) / 2
    return 1 - divergence.sum(-1).mean(-1) / math.log(2)


def _copies(pattern: torch.Tensor, dim: Dim, factors) -> torch.Tensor:
    """Return attention patterns ``[heads, S, S]`` as ``[copies, source heads, S, S]``."""
    levels = (
        tuple(level for level in segment.levels if SYMMETRY.get(level[0]) == HEADS)
        for segment in dim.segments
    )
    rows, columns = (Dim("keep", (Segment(((None, size),)),)) for size in pattern.shape[1:])
    units = Dim("write", tuple(Segment(one) for one in levels))
    # where heads do not all have as many copies, those of the first stretch
    first = next(pieces(pattern, (units, rows, columns), factors))
    return first.view.reshape(math.prod(first.write_copies), -1, *pattern.shape[1:])

"""Attention patterns: how alike those of copied heads are, and which heads are induction heads."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.special import entr

from hcviz.architecture.axes import HEADS, SYMMETRY, Dim, Segment
from hcviz.architecture.blocks import pieces
from hcviz.errors import HcvizError
from hcviz.metrics._activations import Layout, inner_dims
from hcviz.metrics._registry import Row, metric


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
    for path, dim, pattern in _patterns(model, batch, layout):
        copies = _copies(pattern, dim, factors)
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
    for path, dim, pattern in _patterns(model, torch.cat([once, once], 1), layout):
        value = prefix_matching(_copies(pattern, dim, factors))
        total[path] = total.get(path, 0) + value / count
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


def _patterns(
    model: nn.Module, batch: torch.Tensor, layout: Layout
) -> Iterator[tuple[str, Dim, torch.Tensor]]:
    """Yield every attention's path, heads and pattern ``[heads, S, S]``, a block at a time."""
    dims = inner_dims(layout, HEADS)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not tell their patterns
    try:
        for block in batch.split(1):
            patterns = model.base_model(
                input_ids=block, output_attentions=True, use_cache=False
            ).attentions
            if len(patterns or ()) != len(dims):
                raise HcvizError(
                    f"{type(model).__name__} returns {len(patterns or ())} attention patterns for "
                    f"its {len(dims)} attention outputs ({', '.join([*dims][:3])}, ...); the "
                    "metrics 'heads' and 'induction' need one each. Measure 'twins' instead."
                )
            for (path, dim), pattern in zip(dims.items(), patterns, strict=True):
                yield path, dim, pattern[0].double()
    finally:
        model.set_attn_implementation(before)


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
    found = list(pieces(pattern, (units, rows, columns), factors))
    if len(found) > 1:  # heads that do not all have as many copies: those of the first stretch
        found = found[:1]
    count = len(found[0].write_copies)
    view = found[0].view
    return view.reshape(math.prod(view.shape[:count]), -1, *pattern.shape[1:])

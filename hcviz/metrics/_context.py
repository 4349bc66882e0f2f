"""The loss by position in the context, and what reading more of it is worth."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hcviz.metrics._activations import Layout
from hcviz.metrics._registry import Row, metric

HEAD, BLOCKS, FEWEST = "logits", 64, 16
"""What stands for the tensor, as the loss belongs to no module; how much text is read, as single
positions are noisy; and how many positions tell early from late."""


@metric("in_context", of="model", needs_clone=False, blocks=BLOCKS)
@torch.no_grad()
def in_context(model: nn.Module, batch: torch.Tensor, layout: Layout, factors) -> Iterator[Row]:
    """Loss of the next token by how many were read (row), and what reading is worth, in nats.

    ``part`` is ``loss``, or ``score``: the loss late in the context minus early, below 0 where
    reading helps. Late is the last eighth of the context, early the eighth around its first:
    windows about the 500th and the 50th token of 512 of Olsson et al. 2022.
    """
    found = []
    for block in batch.split(1):
        logits = model(input_ids=block, use_cache=False).logits[0, :-1].float()
        found.append(cross_entropy(logits, block[0, 1:], reduction="none").double())
    loss = torch.stack(found).mean(0)
    for row, value in enumerate(loss.tolist(), start=1):
        yield {"tensor": HEAD, "part": "loss", "row": row, "value": value}
    if len(loss) >= FEWEST:
        yield {"tensor": HEAD, "part": "score", "value": score(loss)}


def score(loss: torch.Tensor) -> float:
    """Return the in-context score of a loss by position.

    Example:
        >>> score(torch.arange(64.0))  # 56 to 63 against 4 to 11
        52.0
    """
    eighth = len(loss) // 8
    early = loss[eighth // 2 :][:eighth]
    return (loss[len(loss) - eighth :].mean() - early.mean()).item()

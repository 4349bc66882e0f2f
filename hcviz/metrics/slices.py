"""loss_slice(): the loss around a run's path, along what copies share and what sets them apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hcviz.errors import HcvizError
from hcviz.metrics._models import text_of
from hcviz.metrics._sectors import average
from hcviz.runs.run import Run

SHARES = tuple(np.linspace(-0.5, 1.5, 9).tolist())
"""How far along each direction: 0 is the start, 1 the later state."""
BLOCKS = 4


@torch.no_grad()
def loss_slice(
    run: Run | str | Path,
    *,
    step: int | None = None,
    shares: Sequence[float] = SHARES,
    batch: torch.Tensor | None = None,
) -> pd.DataFrame:
    """Compute the loss in the plane through a clone's start and a later step.

    The way from the one to the other is split in two directions: the symmetric one, the mean over
    the copies of every piece of every weight, and the antisymmetric rest. Their sum is the whole
    way, so the line between the two states is where both shares are equal.

    Args:
        run: A run that started from a clone, or its folder.
        step: The later step; None: the last.
        shares: How far to go along each direction.
        batch: Token ids ``[batch, length]``; None: four held-out blocks of the run's corpus.

    Returns:
        Columns run, step, symmetric, antisymmetric (shares of the way) and loss (nats a token).

    Raises:
        HcvizError: If the run is no clone, or has no such later step.

    Example:
        >>> loss_slice("runs/demo/symmetric", step=40)  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else Run(run)
    first, later = run.steps[0], run.steps[-1] if step is None else step
    if not run.is_clone or later not in run.steps[1:]:
        raise HcvizError(
            f"{run.name} {'has' if run.is_clone else 'is no clone; it has'} the steps {run.steps}, "
            f"and a slice goes from the first to a later one, here {later}. Give a clone's run."
        )
    model, end = run.model(first), dict(run.model(later).named_parameters())
    batch = text_of(run, model)[:BLOCKS] if batch is None else batch
    batch = batch.to(model.device)
    start, shared, rest = {}, {}, {}
    for name, weight in model.named_parameters():
        start[name], away = weight.clone(), end[name].double() - weight.double()
        shared[name] = away.clone()
        average(shared[name], run.layout[name], run.factors)
        rest[name] = away - shared[name]
    rows = []
    for a in shares:
        for b in shares:
            for name, weight in model.named_parameters():
                weight.copy_(start[name].double() + a * shared[name] + b * rest[name])
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss.item()
            rows.append([run.name, later, a, b, loss])
    return pd.DataFrame(rows, columns=["run", "step", "symmetric", "antisymmetric", "loss"])

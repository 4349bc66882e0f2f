"""What a metric is taken of: a weight, or by a prefix its update, gradient or moments of Adam."""

import torch

from hcviz.errors import HcvizError
from hcviz.metrics._registry import METRICS, Entry
from hcviz.runs.moments import read_moments
from hcviz.runs.run import Run

SUBJECTS = {
    "update": "difference to the snapshot before",
    "grad": "gradient, while training only",
    "exp_avg": "first moment of Adam, where a checkpoint keeps it",
    "exp_avg_sq": "second moment of Adam, where a checkpoint keeps it",
}
"""Prefixes of a metric's name: ``update.ledger`` is the ledger of the update."""


def resolve(label: str) -> tuple[str, Entry]:
    """Return the subject ("" is the weight itself) and the metric of a name like ``grad.ledger``.

    Raises:
        HcvizError: If there is no such metric.

    Example:
        >>> resolve("update.ledger")[0], resolve("cosine.rows")[0]
        ('update', '')
    """
    subject, _, name = label.partition(".")
    if label in METRICS or subject not in SUBJECTS:
        subject, name = "", label
    if name not in METRICS:
        raise HcvizError(
            f"The metric {label!r} is unknown. There are {', '.join(METRICS)}; each may carry a "
            f"prefix: {', '.join(f'{one}.' for one in SUBJECTS)}"
        )
    if subject and METRICS[name].of == "model":
        raise HcvizError(f"{label!r}: {name} measures a whole model, which has no {subject}.")
    if subject and METRICS[name].needs:
        raise HcvizError(
            f"{label!r}: {name} compares a weight with that of an earlier snapshot, which is no "
            f"{subject} to compare with. Leave the prefix out."
        )
    return subject, METRICS[name]


def stored_subject(run: Run, subject: str, name: str, step: int) -> torch.Tensor | None:
    """Read a moment of Adam from a run; None where this snapshot does not keep it.

    Raises:
        HcvizError: For gradients, which no checkpoint keeps.
    """
    if subject == "grad":
        raise HcvizError(
            f"Gradients are not kept in checkpoints, so {run.name} has none; measure them while "
            "the model trains: hcviz.train(..., metrics=['grad.ledger']). Or take the update: "
            "update.ledger."
        )
    folder = run.stored(step).folder
    return read_moments(folder).get(name, {}).get(subject)


def update_of(weight: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor | None:
    """Return by how much a weight changed, in float64; None if there is nothing before it."""
    return None if before is None else weight.double() - before.double()

"""Numbers that see copies: pure functions of a weight or a model, registered by name."""

from hcviz.metrics import (  # noqa: F401  (loading a file registers its metrics)
    _activations,
    _copies,
    _evolution,
    _heads,
    _sectors,
    _spectra,
    _streams,
    _tails,
)
from hcviz.metrics._copies import baseline
from hcviz.metrics._measure import measure
from hcviz.metrics._registry import COLUMNS, METRICS, Entry, metric

__all__ = ["COLUMNS", "METRICS", "Entry", "baseline", "measure", "metric"]

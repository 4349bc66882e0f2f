"""Numbers that see copies: pure functions of one wide weight and its axes, registered by name."""

from hcviz.metrics import (  # noqa: F401  (loading a file registers its metrics)
    _copies,
    _evolution,
    _sectors,
    _spectra,
    _tails,
)
from hcviz.metrics._copies import baseline
from hcviz.metrics._measure import measure
from hcviz.metrics._registry import COLUMNS, METRICS, Entry, metric

__all__ = ["COLUMNS", "METRICS", "Entry", "baseline", "measure", "metric"]

"""Numbers that see copies: pure functions of one wide weight and its axes, registered by name."""

from hcviz.metrics import _copies, _evolution, _sectors, _spectra  # noqa: F401  (registers metrics)
from hcviz.metrics._copies import baseline
from hcviz.metrics._measure import measure
from hcviz.metrics._registry import COLUMNS, METRICS, Entry, metric

__all__ = ["COLUMNS", "METRICS", "Entry", "baseline", "measure", "metric"]

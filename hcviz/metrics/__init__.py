"""Numbers that see copies: pure functions of a weight or a model, registered by name."""

from hcviz.metrics import (  # noqa: F401  (loading a file registers its metrics)
    _activations,
    _context,
    _coordinates,
    _copies,
    _curvature,
    _evolution,
    _experts,
    _explained,
    _heads,
    _matched,
    _sectors,
    _spectra,
    _streams,
    _tails,
)
from hcviz.metrics._copies import baseline
from hcviz.metrics._heads import LONGEST, attended, patterns
from hcviz.metrics._measure import axes_of, fitting, known_layout, measure, metric_rows
from hcviz.metrics._registry import COLUMNS, METRICS, Entry, metric
from hcviz.metrics._subjects import resolve

__all__ = [
    "COLUMNS",
    "LONGEST",
    "METRICS",
    "Entry",
    "attended",
    "axes_of",
    "baseline",
    "fitting",
    "known_layout",
    "measure",
    "metric",
    "metric_rows",
    "patterns",
    "resolve",
]

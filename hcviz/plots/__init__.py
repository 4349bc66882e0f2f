"""Figures: a tidy frame in, matplotlib axes out; nothing here imports torch.

Each function takes ``ax=`` (its axes; None makes a figure) and, where there are arms, ``hue=``.
Functions with one panel return their axes, those with several an array of axes. Enter
``theme.context("talk")`` for larger ones; matplotlib's own settings are never changed.

To add a figure: a function decorated with ``theme.themed`` in one of the files here, or a new one,
that takes its rows from ``_frames.metric`` and its axes from ``_axes.panels``; then its name below.
"""

from hcviz.plots._accuracy import accuracy, tasks
from hcviz.plots._activations import activations, cka, lens, neurons
from hcviz.plots._animate import animate
from hcviz.plots._context import in_context
from hcviz.plots._coordinates import coordinates
from hcviz.plots._cosine import cosine
from hcviz.plots._curvature import curvature, foretold
from hcviz.plots._differences import differences, rates
from hcviz.plots._escape import escape
from hcviz.plots._evolution import evolution, experts, power_law, rank
from hcviz.plots._frames import kind
from hcviz.plots._headline import headline
from hcviz.plots._heads import heads, induction
from hcviz.plots._heatmaps import antisymmetric, blocks, matrix_frame
from hcviz.plots._histograms import histograms
from hcviz.plots._loss import loss
from hcviz.plots._matched import cloning_r2, matched
from hcviz.plots._pairs import pairs
from hcviz.plots._patterns import pattern_panels, patterns
from hcviz.plots._saving import save
from hcviz.plots._sectors import sector_spectra, sectors
from hcviz.plots._slices import loss_slice
from hcviz.plots._spectra import spectrum
from hcviz.plots._speedup import speedup
from hcviz.plots._symmetry import ledger

__all__ = [
    "accuracy",
    "activations",
    "animate",
    "antisymmetric",
    "blocks",
    "cka",
    "cloning_r2",
    "coordinates",
    "cosine",
    "curvature",
    "differences",
    "escape",
    "evolution",
    "experts",
    "foretold",
    "headline",
    "heads",
    "histograms",
    "in_context",
    "induction",
    "kind",
    "ledger",
    "lens",
    "loss",
    "loss_slice",
    "matched",
    "matrix_frame",
    "neurons",
    "pairs",
    "pattern_panels",
    "patterns",
    "power_law",
    "rank",
    "rates",
    "save",
    "sector_spectra",
    "sectors",
    "spectrum",
    "speedup",
    "tasks",
]

"""hcviz: widen a language model by HyperCloning, train it, and see what its copies do.

The names below are loaded on first use, so that ``import hcviz`` and ``hcviz --help`` stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOM = {
    "clone": "cloning.clone",
    "clone_checkpoint": "cloning.clone_checkpoint",
    "verify": "cloning.verify",
    "Report": "cloning.verify",
    "declone": "cloning.declone",
    "deepen": "cloning.deepen",
    "layout": "widening.layout",
    "lockstep_groups": "cloning.lockstep",
    "grow_optimizer": "cloning.lockstep",
    "load": "io.sources",
    "train": "training.train",
    "MetricsCallback": "training.live",
    "BreakerCallback": "training.breakers",
    "Run": "runs.run",
    "measure": "metrics",
    "evaluate": "metrics.accuracy",
    "speedup": "statistics.losses",
    "forgetting": "statistics.losses",
    "escape": "statistics.escape",
    "diff": "metrics.diff",
    "audit": "metrics.audit",
    "loss_slice": "metrics.slices",
    "widen_matrix": "metrics.matrices",
    "measure_matrix": "metrics.matrices",
    "explore": "views.explore",
    "watch": "views.watch",
    "run_arms": "views.arms",
    "grow": "views.growth",
    "recorded": "runs.recorded",
    "HcvizError": "errors",
    "CloneError": "errors",
}
__all__ = [*_ROOM, "plots"]


def __getattr__(name: str) -> Any:
    """Import the room of a public name when it is first asked for."""
    if name == "plots":
        return import_module("hcviz.plots")
    if name in _ROOM:
        value = getattr(import_module(f"hcviz.{_ROOM[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hcviz' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]

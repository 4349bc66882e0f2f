"""What every test gets: no network, fixed seeds, no open figure, no deprecated call unnoticed."""

import logging
import os
import random
import sys

import pytest

collect_ignore = ["browser"]  # `make browser` runs those
pytest_plugins = ["pytester"]  # the safety net is tested too

# Set before the first import of torch, numpy or transformers: they read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "JUPYTER_PLATFORM_DIRS": "1",
}
# Models this small run no faster on two threads, and sums stay the same from machine to machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


class Deprecations(logging.Handler):
    """Keep every message in which transformers says that a call is deprecated."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "deprecat" in message.lower():
            self.messages.append(f"{record.name}: {message}")


@pytest.fixture
def deprecations():
    """Listen to transformers' log; a test that means a deprecated call empties the list."""
    handler = Deprecations()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_deprecated_call(deprecations):
    """Fail a test in which transformers logged a deprecation: the next release would break us."""
    yield
    if deprecations:
        pytest.fail("transformers logged a deprecation:\n" + "\n".join(deprecations))


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same random state, so that order and selection do not matter."""
    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the libraries under test still draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _no_open_figures():
    """Close what a test drew; a test that never drew does not pay for importing matplotlib."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_configure(config: pytest.Config) -> None:
    """Turn deprecations that our own lines cause into errors."""
    for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
        config.addinivalue_line("filterwarnings", f"error::{category}:hcviz")

"""The examples in the docstrings of the data and training rooms run and say what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "room", ["documents", "corpus", "schedule", "dropout", "sources", "training", "runs", "widths"]
)
def test_examples_run(room):
    result = doctest.testmod(importlib.import_module(f"hcviz.{room}"))
    assert result.attempted > 0
    assert result.failed == 0

"""The examples in the docstrings run and say what they show."""

import doctest
import importlib

import pytest

ROOMS = """
    documents corpus schedule dropout sources training runs widths escaping marchenko matrices
    metrics._copies metrics._spectra metrics._subjects
    plots._animate plots._cosine plots._evolution plots._histograms plots._pairs plots._sectors
    plots._spectra plots._symmetry
""".split()


@pytest.mark.parametrize("room", ROOMS)
def test_examples_run(room):
    result = doctest.testmod(importlib.import_module(f"hcviz.{room}"))
    assert result.attempted > 0
    assert result.failed == 0

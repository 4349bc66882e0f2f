"""The examples in the docstrings run and say what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hcviz"
ROOMS = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if any(
        ">>> " in line and "+SKIP" not in line
        for line in path.read_text(encoding="utf-8").splitlines()
    )
]


@pytest.mark.parametrize("room", ROOMS)
def test_examples_run(room):
    result = doctest.testmod(importlib.import_module(room.removesuffix(".__init__")))
    assert result.attempted > 0
    assert result.failed == 0

"""judge(): each verdict once, by numbers whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from hcviz.errors import HcvizError
from hcviz.statistics.verdict import VERDICTS, judge


@pytest.mark.parametrize(
    ("values", "asked", "verdict"),
    [
        ([-0.08, -0.07, -0.06], {"expect": "below"}, "reproduced"),
        ([-0.08, -0.07, 0.05], {"expect": "below"}, "direction only"),  # the interval has 0 in it
        ([-0.08, -0.07], {"expect": "below"}, "direction only"),  # two seeds are too few
        ([-0.08], {"expect": "below"}, "direction only"),
        ([0.08, 0.07, 0.06], {"expect": "below"}, "not reproduced"),
        ([0.0, 0.0, 0.0], {"expect": "below"}, "not reproduced"),  # a tie is no lead
        ([-0.03, -0.03, -0.031], {"expect": "below", "tolerance": 0.05}, "direction only"),
        ([1.4, 1.5, 1.6], {"expect": "above", "bound": 1.0}, "reproduced"),
        ([0.4, 0.5, 0.6], {"expect": "above", "bound": 1.0}, "not reproduced"),
        ([1.0, np.inf, 1.2], {"expect": "above"}, "not at this scale"),
        ([1.0, np.nan, 1.2], {"expect": "equal", "tolerance": 9}, "not at this scale"),
        ([], {"expect": "below"}, "no runs yet"),
        ([0.001, 0.0, -0.001], {"expect": "equal", "tolerance": 0.02}, "reproduced"),
        ([0.03, 0.0, -0.03], {"expect": "equal", "tolerance": 0.02}, "direction only"),
        ([0.03, 0.03, 0.03], {"expect": "equal", "tolerance": 0.02}, "not reproduced"),
        ([0.0], {"expect": "equal"}, "reproduced"),  # exact: one number is enough
        ([0.0, 1e-300], {"expect": "equal"}, "not reproduced"),
    ],
)
def test_each_verdict(values, asked, verdict):
    assert judge(values, **asked).name == verdict
    assert verdict in VERDICTS


def test_the_interval_is_students():
    found = judge([1.0, 2.0, 3.0], expect="above")
    half = 4.302653 * 1.0 / np.sqrt(3)  # 97.5 % of Student's t with two degrees of freedom
    assert (found.effect, found.seeds) == (2.0, 3)
    assert found.low == pytest.approx(2 - half, abs=1e-6)
    assert found.high == pytest.approx(2 + half, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "asked", "verdict"),
    [
        ([-0.5, -0.6, -0.5, -0.6, -0.1, -0.1], {"expect": "below"}, "reproduced"),
        ([-0.5, -0.6, -0.5, -0.6, 0.01, 0.0], {"expect": "below"}, "direction only"),
        ([0.01, 0.02, 0.0, 0.01, 0.03, 0.01], {"expect": "equal", "tolerance": 0.03}, "reproduced"),
        ([0.0, 0.0, 0.0, 0.0, 0.02, 0.03], {"expect": "equal", "tolerance": 0.024},
         "direction only"),
    ],
)  # fmt: skip
def test_a_source_on_the_other_side_is_not_outvoted(values, asked, verdict):
    index = pd.MultiIndex.from_product([["opt", "gpt-neox", "olmo"], [0, 1]])
    found = judge(pd.Series(values, index), **asked)
    assert found.name == verdict
    assert list(found.sources) == ["opt", "gpt-neox", "olmo"]
    assert found.sources["olmo"] == pytest.approx(sum(values[4:]) / 2)
    assert judge(values, **asked).name == "reproduced"


def test_one_number_has_no_interval():
    found = judge([1.0], expect="above")
    assert np.isnan(found.low)
    assert str(found) == "direction only: 1, 1 value"


@pytest.mark.parametrize(
    "asked", [{"expect": "near"}, {"expect": "above", "tolerance": -1.0},
              {"expect": "equal", "tolerance": float("nan")}]
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(asked):
    with pytest.raises(HcvizError, match=r"near|tolerance"):
        judge([1.0], **asked)

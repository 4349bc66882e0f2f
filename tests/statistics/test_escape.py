"""escape(): the growth rate, its interval and the time to leave, on curves that are known."""

import numpy as np
import pandas as pd
import pytest

import hcviz
from hcviz.errors import HcvizError
from hcviz.statistics.escape import foretold

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64])


def ledger(shares, steps=STEPS, **columns):
    return pd.DataFrame(
        {"run": "a", "tensor": "w", "axis": "R", "metric": "ledger", "step": steps, "value": shares}
        | columns
    )


def one(frame, **options):
    (row,) = hcviz.escape(frame, **options).to_dict("records")
    return row


def test_rate_and_time_of_exponential_growth():
    row = one(ledger(1e-8 * np.exp(2 * 0.1 * STEPS)), threshold=1e-3)
    assert row["rate"] == pytest.approx(0.1)
    assert row["r2"] == pytest.approx(1)
    assert row["leaves"] == pytest.approx(np.log(1e5) / 0.2)  # 57.6, between two snapshots
    assert (row["state"], row["first"], row["last"]) == ("left", 0, 32)
    assert row["level"] == pytest.approx(1e-4 * np.exp(0.1 * row["pivot"]))


def test_interval_holds_the_rate_as_often_as_it_says():
    """Of 400 noisy curves 95 % should cover; 3 standard deviations of that count are 3.3 %."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        noisy = 1e-8 * np.exp(0.2 * STEPS + rng.normal(size=len(STEPS)))
        row = one(ledger(noisy), between=(0, 64))
        covered += row["low"] <= 0.1 <= row["high"]
    assert covered / 400 == pytest.approx(0.95, abs=0.033)


def test_only_the_steps_that_grow_are_fitted():
    logs = np.array([-5, -6, -7, -8, -7, -5, -1, -2.0])  # up from step 4 to 32
    row = one(ledger(np.exp(2 * logs)), threshold=0.5)
    assert (row["first"], row["last"]) == (4, 32)
    assert row["rate"] == pytest.approx(np.polyfit([4, 8, 16, 32], [-8, -7, -5, -1], 1)[0])
    assert one(ledger(np.exp(2 * logs)), between=(0, 4))["rate"] < 0
    slow_then_fast = np.array([-5, -4.9, -4.8, -4.7, -4.6, -8, -5, -1])
    assert one(ledger(np.exp(2 * slow_then_fast)))["first"] == 16  # by growth, not by length


def test_growth_beyond_the_threshold_is_not_fitted():
    shares = np.minimum(1e-8 * np.exp(2 * 0.5 * STEPS), 0.3 + 1e-3 * STEPS)
    row = one(ledger(shares))
    assert row["rate"] == pytest.approx(0.5)
    assert (row["first"], row["last"]) == (0, 8)
    outside = one(ledger(0.2 * np.exp(2e-3 * STEPS)))  # never under it: all there is
    assert outside["rate"] == pytest.approx(1e-3)


def test_exact_zeros_are_locked_and_the_first_bit_is_not():
    locked = one(ledger(np.zeros(8)))
    assert locked["state"] == "locked"
    assert np.isnan([locked["rate"], locked["leaves"]]).all()
    bit = one(ledger(np.r_[np.zeros(7), 1e-15]))
    assert bit["state"] == "inside"
    assert np.isnan([bit["rate"], bit["leaves"]]).all()


def test_leaves_at_a_snapshot_where_there_is_no_log_to_interpolate():
    assert one(ledger(np.r_[np.zeros(5), 0.5, 0.5, 0.5]))["leaves"] == 16
    assert one(ledger(np.full(8, 0.5)))["leaves"] == 0


def test_curves_are_means_unless_told_apart():
    frame = pd.concat([ledger(np.full(8, 0.3)), ledger(np.full(8, 1e-4), tensor="v")])
    assert one(frame, threshold=0.1)["leaves"] == 0
    apart = hcviz.escape(frame, by=["run", "tensor"], threshold=0.1)
    assert apart.set_index("tensor")["state"].to_dict() == {"w": "left", "v": "inside"}


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (ledger(0.0).drop(columns="axis"), {}, "axis missing"),
        (ledger(0.0), {"metric": "update.ledger"}, "'update.ledger'.*there are none"),
        (ledger(0.0), {"threshold": 3}, "threshold=3"),
    ],
)
def test_clear_errors(frame, options, message):
    with pytest.raises(HcvizError, match=message):
        hcviz.escape(frame, **options)


@pytest.mark.parametrize(
    ("curvature", "momentum", "decay"), [(-2.0, 0.9, 0.0), (-2.0, 0.0, 0.5), (3.0, 0.9, 0.5)]
)
def test_the_foretold_rate_is_that_of_the_steps_themselves(curvature, momentum, decay):
    weight, moment, lr, before = 1.0, 0.0, 0.05, 1.0
    for _ in range(400):
        before = weight
        moment = momentum * moment + (1 - momentum) * min(curvature, 0) * weight
        weight = (1 - lr * decay) * weight - lr * moment
    found = foretold(curvature, lr, momentum=momentum, weight_decay=decay)
    assert found == pytest.approx(np.log(weight / before), rel=1e-6)

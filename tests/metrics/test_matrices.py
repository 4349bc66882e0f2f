"""One matrix by hand agrees with the paper's table and with the metrics of runs."""

import numpy as np
import pytest
import torch

import hcviz
from hcviz.errors import HcvizError

W = torch.tensor([[1.0, -2.0], [4.0, 8.0], [0.5, 3.0]])
E = 1e-6  # one rounding of float32, of entries below 10


@pytest.mark.parametrize(
    ("written", "read", "expected"),
    [
        (1, 2, torch.cat([W, W], 1) / 2),
        (2, 1, torch.cat([W, W], 0)),
        (2, 2, torch.cat([torch.cat([W, W], 1)] * 2, 0) / 2),
        (3, 2, torch.cat([torch.cat([W, W], 1)] * 3, 0) / 2),
    ],
)
def test_the_three_cases_of_the_paper(written, read, expected):
    wide = hcviz.widen_matrix(W, written=written, read=read)
    assert torch.equal(wide, expected)


def test_shares_and_noise_add_up_to_the_matrix():
    table = [[0.7, 0.3], [0.4, 0.6]]
    wide = hcviz.widen_matrix(W.numpy(), expansion=table)
    assert torch.allclose(wide[:3, :2], 0.7 * W, atol=E)
    assert torch.allclose(wide[3:, 2:], 0.6 * W, atol=E)
    noisy = hcviz.widen_matrix(W, read=3, expansion="noisy-symmetric", snr_db=10)
    assert torch.allclose(noisy.unflatten(1, (3, 2)).sum(1)[:3], W, atol=E)
    assert not torch.allclose(noisy[:, :2], noisy[:, 2:4], atol=1e-2)


def test_measures_are_those_of_an_up_projection():
    halves = {"locked": hcviz.widen_matrix(W), "turned": torch.cat([torch.cat([W, -W], 1)] * 2)}
    frame = hcviz.measure_matrix(halves, metrics=["cosine", "ledger"])
    found = frame.assign(key=frame["metric"] + frame["axis"].fillna("").astype(str))
    found = found.pivot_table(index="run", columns="key", values="value")
    assert found.loc["locked"].to_dict() == {"cosine": pytest.approx(1), "ledgerN": 0, "ledgerR": 0}
    assert found.loc["turned"].to_dict() == {
        "cosine": pytest.approx(-1),
        "ledgerN": 0,
        "ledgerR": pytest.approx(1),  # the halves' mean is zero: nothing is symmetric
    }
    assert not len(hcviz.measure_matrix({"one": W}, written=1, read=1, metrics=["pairs"]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: hcviz.widen_matrix(np.ones(3)),
        lambda: hcviz.widen_matrix(W, read=0),
        lambda: hcviz.widen_matrix(W, read=1.5),
        lambda: hcviz.measure_matrix({"odd": W}),
        lambda: hcviz.measure_matrix({"a": W}, metrics=["distance"]),
        lambda: hcviz.measure_matrix({"a": W}, metrics=["update.ledger"]),
        lambda: hcviz.measure_matrix({"a": W}, metrics=["cosines"]),
    ],
)
def test_what_is_no_matrix_or_needs_a_run_is_refused(call):
    with pytest.raises(HcvizError):
        call()

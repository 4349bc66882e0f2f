"""Metrics of evolution: by hand on 4x4, against numpy on random input, and over a run."""

import numpy as np
import pytest
import tiny
import torch

import hcviz
from hcviz.metrics import METRICS

START = torch.tensor([[3.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
NOW = torch.tensor([[3.0, 0, 0, 0], [0, -4, 0, 0], [0, 0, 6, 0], [0, 0, 0, 0]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolution")
    return hcviz.train(
        tiny.model("gpt_neox"), out=folder / "run", corpus=tiny.write_text(folder),
        tokenizer=tiny.tokenizer(), steps=5, snapshots=3, batch_size=2, context=16, eval_blocks=2,
        progress=False,
    )  # fmt: skip


def rows(name, weight, **extras):
    asked = {extra: extras[extra] for extra in METRICS[name].needs}
    return list(METRICS[name].function(weight, (), {}, **asked))


def value(name, weight, axis=None, **extras):
    (found,) = [r["value"] for r in rows(name, weight, **extras) if r.get("axis") == axis]
    return found


def test_by_hand():
    assert value("norm", START) == 5
    assert value("distance", NOW, start=START) == 2  # (0, 8, 6) of length 10, over 5
    assert value("update", NOW, previous=START, gap=4) == 0.5
    assert value("flips", NOW, start=START) == 1 / 16  # from 0 to 6 is no change of sign
    cosine = (9 - 16) / (5 * 61**0.5)
    turned = {"start": START, "previous": NOW}
    assert value("turn", NOW, "start", **turned) == pytest.approx(np.degrees(np.arccos(cosine)))
    assert value("turn", NOW, "previous", **turned) == 0.0


def test_against_numpy_on_random_input():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 5))
    extras = {"start": torch.as_tensor(a), "previous": torch.as_tensor(a), "gap": 3}
    now = torch.as_tensor(b)
    far = np.sqrt(np.square(b - a).sum() / np.square(a).sum())
    angle = np.degrees(np.arccos(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)))
    assert value("norm", now) == pytest.approx(np.linalg.norm(b), rel=1e-12)
    assert value("distance", now, **extras) == pytest.approx(far, rel=1e-12)
    assert value("update", now, **extras) == pytest.approx(far / 3, rel=1e-12)
    assert value("turn", now, "start", **extras) == pytest.approx(angle, rel=1e-9)
    assert value("flips", now, **extras) == pytest.approx((a * b < 0).mean(), abs=1e-15)


def test_a_tiny_turn_keeps_its_digits():
    """The arc cosine of a cosine that differs from 1 by 5e-21 would be exactly zero."""
    start = torch.eye(2, dtype=torch.float64)
    now = start + torch.tensor([[0.0, 1e-10], [0, 0]], dtype=torch.float64)
    expected = np.degrees(1e-10 / 2**0.5)
    found = value("turn", now, "start", start=start, previous=None)
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_first_snapshot_has_nothing_before_it_and_a_zero_start_no_ratio():
    assert rows("update", NOW, previous=None, gap=None) == []
    assert [r["axis"] for r in rows("turn", NOW, start=START, previous=None)] == ["start"]
    zero = torch.zeros(4, 4)
    assert np.isnan(value("distance", NOW, start=zero))
    assert np.isnan(value("turn", NOW, "start", start=zero, previous=None))


def test_histogram_by_hand_and_against_numpy():
    start = torch.full((4, 4), 2.0)  # root mean square 2: bins of 0.25 from -8 to 8
    weight = torch.tensor([[-9.0, -8, 0.1, 0.2], [8, 8.1, 0.3, 7.9], [0] * 4, [-0.1] * 4])
    found = rows("histogram", weight, start=start)
    ends = {r["axis"]: r["value"] for r in found if "axis" in r}
    assert ends == {"low": -8, "high": 8, "under": 1 / 16, "over": 1 / 16}
    shares = [r["value"] for r in found if "row" in r]
    expected, _ = np.histogram(weight.numpy(), np.linspace(-8, 8, 65))
    assert shares == pytest.approx(expected / 16)
    assert sum(shares) + ends["under"] + ends["over"] == 1
    assert shares[32] == 6 / 16  # four zeros, 0.1 and 0.2
    assert [r["row"] for r in found if "row" in r] == list(range(64))


def test_histogram_of_a_tensor_that_starts_at_zero_has_bins_too():
    found = rows("histogram", torch.ones(4), start=torch.zeros(4))
    assert [r["value"] for r in found if r.get("axis") == "high"] == [4]


def test_over_a_run(trained):
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    asked = ["norm", "distance", "turn", "update", "flips", "histogram"]
    frame = hcviz.measure(trained, metrics=asked, tensors=f"^{name}$")
    first, *others = trained.steps
    start = trained.tensor(name, first).double()
    far = frame[frame["metric"] == "distance"].set_index("step")["value"]
    assert far[first] == 0
    for step in others:
        moved = (trained.tensor(name, step).double() - start).norm() / start.norm()
        assert far[step] == pytest.approx(moved.item(), rel=1e-12)
    ratio = frame[frame["metric"] == "update"].set_index("step")["value"]
    assert list(ratio.index) == others
    before, last = trained.steps[-2:]
    a, b = trained.tensor(name, before).double(), trained.tensor(name, last).double()
    assert ratio[last] == pytest.approx(((b - a).norm() / a.norm()).item() / (last - before))
    edges = frame[(frame["metric"] == "histogram") & (frame["axis"] == "high")]["value"]
    assert len(edges) == len(trained.steps)
    assert edges.nunique() == 1

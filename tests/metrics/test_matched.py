"""Copies reordered or rotated to fit: by hand, and against brute force and scipy."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from hcviz.architecture.axes import Dim, Segment
from hcviz.metrics import METRICS
from hcviz.metrics._matched import matched, plain, procrustes

NAMES = ("cosine.units", "matched", "procrustes")


def up(neurons, hidden):
    """Return the axes of an up-projection."""
    units = (("write", "ffn", neurons), ("read", "hidden", hidden))
    return tuple(Dim(role, (Segment(((axis, size),)),)) for role, axis, size in units)


def values(name, weight, axes, factors=None):
    factors = factors or {"ffn": 2, "hidden": 2}
    return {row["axis"]: row["value"] for row in METRICS[name].function(weight, axes, factors)}


def test_against_all_orders():
    a, b = np.random.default_rng(0).normal(size=(2, 4, 3))
    orders = [plain(a, b[list(order)]) for order in itertools.permutations(range(4))]
    assert matched(a, b) == pytest.approx(max(orders))
    assert matched(a, b) > plain(a, b) == pytest.approx(orders[0])


def test_against_scipy_s_rotation():
    a, b = np.random.default_rng(1).normal(size=(2, 4, 7))
    turn, scale = scipy.linalg.orthogonal_procrustes(b.T, a.T)
    cosine = (a * (turn.T @ b)).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert procrustes(a, b) == pytest.approx(cosine)
    assert procrustes(a, b) == pytest.approx(scale / np.linalg.norm(a) / np.linalg.norm(b))


def test_reordered_neurons_are_found_again_and_turned_ones_by_rotation_only():
    block = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 2) / 2
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    weight, axes = torch.cat([block, block[order]]), up(6, 8)
    assert values("cosine.units", weight, axes)["N"] < 0.5
    assert values("matched", weight, axes)["N"] == 1.0
    assert values("procrustes", weight, axes)["N"] == pytest.approx(1.0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    weight = torch.cat([block, turn @ block])
    assert values("matched", weight, axes)["N"] < 0.9
    assert values("procrustes", weight, axes)["N"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_copies_that_are_equal_bit_by_bit_are_alike_in_every_way(name):
    weight = torch.randn(6, 8).repeat(2, 2) / 2
    assert values(name, weight, up(6, 8)) == pytest.approx({"N": 1.0, "R": 1.0}, abs=1e-12)


def test_three_copies_are_the_mean_over_their_pairs():
    weight = torch.randn(9, 4, dtype=torch.float64)
    a, b, c = weight.numpy().reshape(3, 3, 4)
    found = values("matched", weight, up(3, 4), {"ffn": 3})
    assert found == {"N": pytest.approx((matched(a, b) + matched(a, c) + matched(b, c)) / 3)}


def test_heads_are_units_of_whole_heads():
    heads = Segment((("kv_heads", 2), ("group", 2), (None, 3)))
    axes = (Dim("write", (heads,)), Dim("read", (Segment((("hidden", 4),)),)))
    one = torch.randn(4, 3 * 4)  # four query heads of 3 x 4; the copies come as heads 2 3 0 1
    wide = torch.cat([one, one[[2, 3, 0, 1]]]).view(24, 4)
    found = values("matched", wide, axes, {"kv_heads": 2})
    assert found == {"H": pytest.approx(1.0)}
    assert values("cosine.units", wide, axes, {"kv_heads": 2})["H"] < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_the_level_is_what_other_random_weights_give(name):
    weight, axes = torch.randn(80, 96, generator=torch.Generator().manual_seed(3)), up(40, 48)
    levels = values(f"{name}.baseline", weight, axes)
    assert levels == pytest.approx(values(name, weight, axes), abs=0.03)
    assert levels == values(f"{name}.baseline", 2 * weight, axes)  # of the shape alone

"""Metrics of spectra and their tails: by hand, against scipy, and what copies do to them."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from hcviz.architecture.axes import Dim, Segment
from hcviz.metrics import METRICS
from hcviz.statistics import marchenko

RANKS = ["effective_rank", "stable_rank", "participation", "rank"]


def rows(name, weight):
    return list(METRICS[name].function(torch.as_tensor(weight), (), {}))


def value(name, weight, axis=None):
    (found,) = [r["value"] for r in rows(name, weight) if r.get("axis") == axis and "row" not in r]
    return found


def cloned(weight, n=2):
    return torch.as_tensor(weight).repeat(n, n) / n


def pareto(count, exponent, seed=0):
    """A diagonal matrix whose squared singular values are drawn from a power law."""
    squares = (1 - np.random.default_rng(seed).random(count)) ** (-1 / (exponent - 1))
    return torch.diag(torch.as_tensor(np.sqrt(squares)))


def test_by_hand():
    weight = torch.diag(torch.tensor([2.0, 1, 1, 0]))  # shares of the sum: 1/2, 1/4, 1/4, 0
    assert [r["value"] for r in rows("spectrum", weight)] == pytest.approx([2, 1, 1, 0])
    assert value("effective_rank", weight) == pytest.approx(2**1.5)
    assert value("stable_rank", weight) == pytest.approx((4 + 1 + 1) / 4)
    assert value("participation", weight) == pytest.approx(6**2 / (16 + 1 + 1))
    assert value("rank", weight) == 3


def test_against_scipy_on_random_input():
    weight = np.random.default_rng(0).normal(size=(7, 12))
    s = scipy.linalg.svdvals(weight)
    expected = {
        "effective_rank": np.exp(scipy.stats.entropy(s)),
        "stable_rank": np.linalg.norm(weight) ** 2 / np.linalg.norm(weight, 2) ** 2,
        "participation": np.trace(weight @ weight.T) ** 2 / np.square(weight @ weight.T).sum(),
        "rank": np.linalg.matrix_rank(weight),
    }
    assert {name: value(name, weight) for name in RANKS} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_copies_change_none_of_them(n):
    """The usual instruments are blind: n copies that share a weight have its singular values."""
    weight = torch.randn(60, 80, dtype=torch.float64)
    wide = cloned(weight, n)
    s, t = ([r["value"] for r in rows("spectrum", one)] for one in (weight, wide))
    assert t[:60] == pytest.approx(s, rel=1e-12)
    assert t[60:] == pytest.approx([0] * len(t[60:]), abs=1e-12)
    for name in [*RANKS, "power_law"]:
        assert value(name, wide) == pytest.approx(value(name, weight), rel=1e-9), name


def test_a_diagonal_expansion_has_n_times_the_rank_and_is_no_freer_for_it():
    weight = torch.randn(60, 80, dtype=torch.float64)
    for name in RANKS:
        wide = value(name, torch.block_diag(weight, weight))
        assert wide == pytest.approx(2 * value(name, weight), rel=1e-9), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rank_does_not_count_the_rounding_of_the_stored_dtype(dtype):
    left, right = torch.randn(200, 30).double(), torch.randn(30, 150).double()
    low = (left @ right).to(dtype)
    assert value("rank", low) == 30
    assert value("rank", low.double()) == (30 if dtype is torch.float64 else 150)
    assert value("rank", torch.randn(200, 150).to(dtype)) > 140  # what is not rounding is counted


def test_a_diverged_weight_gives_no_number_and_a_zero_weight_no_ratio():
    broken = torch.full((60, 60), torch.inf)
    for name in [*RANKS, "power_law"]:
        assert np.isnan(value(name, broken))
    assert rows("marchenko_pastur", broken) == []
    assert value("rank", torch.zeros(4, 4)) == 0
    assert np.isnan(value("stable_rank", torch.zeros(4, 4)))
    assert rows("stable_rank", torch.ones(4)) == rows("spectrum", torch.ones(2, 2, 2)) == []


def test_all_numbers_of_a_matrix_come_from_one_decomposition(monkeypatch):
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda m: calls.append(1) or svdvals(m))
    weight = torch.randn(70, 60)
    for name in [*RANKS, "spectrum", "power_law", "marchenko_pastur"]:
        rows(name, weight)
    assert len(calls) == 1
    before = value("stable_rank", weight)
    weight.data[0, 0] += 10  # as an optimizer may do it, unseen by autograd
    assert value("stable_rank", weight) < before
    assert len(calls) == 2


def test_random_matrix_follows_the_law_and_has_no_outliers():
    weight = 0.3 * np.random.default_rng(1).normal(size=(300, 700))
    low, high = value("marchenko_pastur", weight, "low"), value("marchenko_pastur", weight, "high")
    assert (low, high) == pytest.approx(marchenko.edges((300, 700), 0.09), rel=0.01)
    expected = marchenko.expected(300, low, high)
    # at this size a value lies within a few spacings (0.04) of its place
    assert scipy.linalg.svdvals(weight) == pytest.approx(expected, abs=0.15)
    assert value("marchenko_pastur", weight, "outliers") == 0
    spike = weight + 20 * np.outer(np.ones(300), np.ones(700)) / np.sqrt(300 * 700)
    assert value("marchenko_pastur", spike, "outliers") == 1


def test_copies_of_a_random_matrix_leave_the_law():
    """Copies stretch its edge by sqrt(n): this instrument sees them, in a matrix without signal."""
    weight = torch.as_tensor(np.random.default_rng(2).normal(size=(100, 150)))
    wide = cloned(weight)
    assert value("marchenko_pastur", weight, "outliers") == 0
    assert value("marchenko_pastur", wide, "high") * 2**0.5 == pytest.approx(
        value("marchenko_pastur", weight, "high")
    )
    assert value("marchenko_pastur", wide, "outliers") > 20


@pytest.mark.parametrize("shape", [(50, 50), (50, 90), (400, 30)])
def test_density_adds_up_to_one_and_to_the_variance(shape):
    low, high = marchenko.edges(shape, 0.5)
    total, _ = scipy.integrate.quad(marchenko.density, low, high, args=(low, high), limit=200)
    second, _ = scipy.integrate.quad(
        lambda x: x**2 * marchenko.density(x, low, high), low, high, limit=200
    )
    assert total == pytest.approx(1, abs=1e-5)
    assert second == pytest.approx(0.5 * max(shape), rel=1e-5)  # mean of s^2 = v m n / min(m, n)


@pytest.mark.parametrize("exponent", [2.0, 3.5, 6.0])
def test_power_law_finds_the_exponent_that_was_drawn(exponent):
    weight = pareto(600, exponent)
    found, error = value("power_law", weight), value("power_law", weight, "error")
    assert abs(found - exponent) < 3 * error < 0.5 * exponent
    tail = value("power_law", weight, "tail")
    squares = np.sort(np.diag(weight) ** 2)[::-1][: int(tail)]
    assert found == pytest.approx(1 + tail / np.log(squares / squares[-1]).sum(), rel=1e-9)
    expected = scipy.stats.kstest(squares, lambda x: 1 - (x / squares[-1]) ** (1 - found))
    assert value("power_law", weight, "distance") == pytest.approx(expected.statistic, abs=1e-9)


def test_power_law_cuts_off_what_does_not_follow_it_and_refuses_few_values():
    tail = np.diag(pareto(300, 3.0)) ** 2
    body = np.random.default_rng(0).random(700) / 2  # flat, below where the tail starts, 1
    weight = torch.diag(torch.as_tensor(np.sqrt(np.concatenate([tail, body]))))
    assert 100 < value("power_law", weight, "tail") < 350
    assert abs(value("power_law", weight) - 3) < 3 * value("power_law", weight, "error")
    assert np.isnan(value("power_law", pareto(49, 3.0)))
    assert np.isnan(value("power_law", torch.eye(60)))


def test_sketch_bounds_the_true_values_and_leaves_the_random_state_alone():
    """On diagonal matrices above the size that is decomposed whole: their values are known."""
    size = 1030
    for sizes in (np.geomspace(1, 1e-15, size), np.linspace(1, 0, size)):
        weight = torch.diag(torch.as_tensor(sizes[::-1].copy()))
        state = torch.get_rng_state()
        found = rows("spectrum.top", weight)
        assert torch.equal(torch.get_rng_state(), state)
        low = np.array([r["value"] for r in found if r["axis"] is None])
        high = np.array([r["value"] for r in found if r["axis"] == "bound"])
        true = sizes[:64]
        assert (low <= true * (1 + 1e-12)).all()
        assert (true <= high).all()
        assert (low[:16] > 0.95 * true[:16]).all()
        assert found == rows("spectrum.top", weight)
    assert (high / true).max() < 2  # the last one is flat: the worst case


def test_spectrum_top_of_a_small_matrix_is_exact():
    weight = torch.randn(80, 90)
    exact = scipy.linalg.svdvals(weight.double().numpy())[:64]
    for axis in (None, "bound"):
        found = [r["value"] for r in rows("spectrum.top", weight) if r["axis"] == axis]
        assert found == pytest.approx(exact, rel=1e-10)


def test_a_locked_clone_has_the_exponent_of_its_source_and_training_does_not_move_the_level():
    axes = tuple(
        Dim(role, (Segment(((axis, 120),)),))
        for role, axis in (("write", "ffn"), ("read", "hidden"))
    )
    source = pareto(120, 3.0)
    start = cloned(source)
    noise = torch.randn(240, 240, generator=torch.Generator().manual_seed(0)).double() / 10
    found = METRICS["power_law.source"].function(
        start + noise, axes, {"ffn": 2, "hidden": 2}, start=start
    )
    assert [row["value"] for row in found] == [pytest.approx(value("power_law", source))]
    assert value("power_law", start) == pytest.approx(value("power_law", source))
    assert value("power_law", start + noise) != pytest.approx(value("power_law", source), abs=0.1)

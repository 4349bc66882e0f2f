"""Shares and noise: what the copies that are read add up to, how loud noise is, what it needs."""

import math
from fractions import Fraction

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hcviz
from hcviz import CloneError
from hcviz.architecture.axes import Dim, Segment
from hcviz.architecture.blocks import grid
from hcviz.widening.expansion import EXPANSIONS, Expansion, shares, widen

NOISY = ("noisy-symmetric", "noisy-diagonal")


def matrix(rows=6, cols=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, cols, generator=generator, dtype=torch.float64).to(dtype)


def axes_of(source):
    rows, cols = source.shape
    written, read = Segment((("ffn", rows),)), Segment((("hidden", cols),))
    return Dim("write", (written,)), Dim("read", (read,))


def grown(source, n, form, *, written=None, snr_db=None, seed=0, name="w", scale=1.0):
    """Widen a matrix and return its blocks [n_written, n_read, rows, cols]."""
    factors = {"hidden": n, "ffn": n if written is None else written}
    axes = axes_of(source)
    wide = widen(name, source, axes, factors, Expansion.of(form, snr_db, seed), scale)
    return grid(wide, axes, factors)


def rounding(blocks):
    """Half a unit in the last place of the largest copy: what one rounding may cost."""
    return torch.finfo(blocks.dtype).eps / 2 * blocks.double().abs().max().item()


def summing(blocks):
    """What n float64 copies lose to sums in float64: n - 1 differences make the last of them, and
    n - 1 sums add them up here; no partial sum is larger than the sum of the absolute values."""
    sums = 2 * (blocks.shape[1] - 1)
    return sums * torch.finfo(torch.float64).eps / 2 * blocks.abs().sum(1).max().item()


@pytest.mark.parametrize(("written", "read"), [(2, 2), (3, 3), (1, 4), (4, 2)])
@pytest.mark.parametrize("form", EXPANSIONS)
def test_every_row_of_shares_adds_up_to_one(form, written, read):
    table = shares(form, written, read, torch.Generator().manual_seed(0))
    assert table.shape == (written, read)
    assert (table >= 0).all()
    assert torch.allclose(table.sum(1), torch.ones(written, dtype=torch.float64), atol=1e-15)


def test_shares_by_hand():
    def table(form, written, read):
        return shares(form, written, read, torch.Generator().manual_seed(0)).tolist()

    assert table("symmetric", 2, 4) == [[0.25] * 4] * 2
    assert table("diagonal", 2, 2) == [[1, 0], [0, 1]]
    assert table("diagonal", 1, 2) == [[0.5, 0.5]]  # nothing to pair a copy with: equal shares
    assert len({share for row in table("random", 3, 3) for share in row}) == 9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("form", NOISY)
def test_noise_cancels_up_to_one_rounding(form, n, dtype):
    source = matrix(dtype=dtype)
    blocks = grown(source, n, form)
    total = blocks.double().sum(1)  # over the copies that are read
    allowed = summing(blocks) if dtype == torch.float64 else rounding(blocks)
    assert (total - source.double()).abs().max() <= allowed
    plain = grown(source, n, form.removeprefix("noisy-"))
    changed = (blocks != plain).double().mean((2, 3))
    assert (changed > 0.5).all()  # every block is noised, the last of an odd number too


@given(
    rows=st.integers(1, 5),
    cols=st.integers(1, 5),
    n=st.integers(2, 5),
    written=st.integers(1, 5),
    form=st.sampled_from(EXPANSIONS),
    snr_db=st.floats(-20, 80),
    seed=st.integers(-(2**40), 2**40),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1.0, 0.5, 3.0]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_copies_that_are_read_add_up_to_the_source(
    rows, cols, n, written, form, snr_db, seed, dtype, scale
):
    source = matrix(rows, cols, abs(seed) % 97, dtype)
    snr_db = snr_db if form in NOISY else None
    blocks = grown(source, n, form, written=written, snr_db=snr_db, seed=seed, scale=scale)
    assert blocks.shape == (written, n, rows, cols)
    assert blocks.dtype == dtype
    # equal shares are rounded once each, the others leave one (but float64 sums round too); the
    # factor of two is for scale * source, which is rounded as well
    allowed = 2 * (n if form == "symmetric" else 1) * rounding(blocks)
    allowed += summing(blocks) if dtype == torch.float64 else 0
    assert (blocks.double().sum(1) - scale * source.double()).abs().max() <= allowed


def decibels(signal, noise):
    return 10 * math.log10(signal.square().mean() / noise.square().mean())


@pytest.mark.parametrize("snr_db", [-5, 3, 10, 40])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_noisy_symmetric_has_the_requested_ratio(n, snr_db):
    source = matrix(20, 30)
    blocks = grown(source, n, "noisy-symmetric", snr_db=snr_db)
    signal = (source / n).expand_as(blocks)
    for row in range(n):  # the signal is the divided block, as in the official code
        measured = decibels(signal[row], blocks[row] - signal[row])
        assert measured == pytest.approx(snr_db, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3])
def test_noisy_diagonal_has_the_requested_ratio_over_a_row_of_blocks(n):
    source = matrix(20, 30)
    plain = grown(source, n, "diagonal")
    noise = grown(source, n, "noisy-diagonal", snr_db=10) - plain
    for row in range(n):  # the signal is the row [0, W, 0]: its zeros count
        assert decibels(plain[row], noise[row]) == pytest.approx(10, abs=1e-3)


def test_paired_halves_start_at_the_cosine_of_the_paper():
    blocks = grown(matrix(300, 400), 2, "noisy-symmetric", snr_db=10)
    cosine = torch.cosine_similarity(blocks[:, 0], blocks[:, 1], dim=-1).mean().item()
    assert cosine == pytest.approx((1 - 0.1) / (1 + 0.1), abs=0.005)


@pytest.mark.parametrize("snr_db", [-1000, 1e4])
def test_noise_that_rounding_would_eat_is_refused_by_its_own_name(snr_db):
    with pytest.raises(CloneError, match=rf"snr_db={snr_db}: below -60 dB .* above 300 dB"):
        Expansion.of("noisy-symmetric", snr_db)


def test_noise_of_tiny_and_large_weights_is_as_loud():
    for size in (1e-30, 1e30):  # whose squares leave float32
        source = matrix(dtype=torch.float32) * size
        blocks, plain = grown(source, 2, "noisy-symmetric"), grown(source, 2, "symmetric")
        found = decibels(plain.double() / size, (blocks.double() - plain.double()) / size)
        assert found == pytest.approx(10, abs=1e-4)


def test_noise_follows_seed_and_name_and_nothing_else():
    def one(**given):
        return grown(matrix(), 2, "noisy-symmetric", **given)

    first, state = one(), torch.random.get_rng_state()
    other = one(name="v")
    torch.rand(3)
    assert torch.equal(one(), first)  # whatever was drawn or widened in between
    assert not torch.equal(one(seed=1), first)
    assert not torch.equal(other, first)
    assert not torch.equal(first[0], first[1])  # each written copy has noise of its own
    torch.random.set_rng_state(state)
    one()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_noised_that_is_not_read_twice():
    source = matrix()
    factors = {"ffn": 3}
    wide = widen("w", source, axes_of(source), factors, Expansion.of("noisy-symmetric", 0, 0))
    assert torch.equal(wide, source.repeat(3, 1))
    bias = source[:, 0]
    wide = widen("b", bias, axes_of(source)[:1], factors, Expansion.of("random", None, 0))
    assert torch.equal(wide, bias.repeat(3))


def test_zero_matrix_stays_zero_under_noise():
    blocks = grown(torch.zeros(3, 3), 2, "noisy-symmetric")
    assert torch.equal(blocks, torch.zeros_like(blocks))


def test_symmetric_copies_of_a_clone_are_bit_identical_and_noisy_ones_are_not():
    source = models.source("llama")
    axes = hcviz.layout(source)
    for form, same in (("symmetric", True), ("noisy-symmetric", False)):
        wide = hcviz.clone(source, hidden=3, expansion=form, check=False)
        name = "model.layers.0.mlp.down_proj.weight"
        blocks = grid(wide.state_dict()[name], axes[name], wide.config.hcviz["factors"])
        assert torch.equal(blocks, blocks[:1, :1].expand_as(blocks)) == same


def test_noisy_form_has_ten_decibels_unless_told():
    assert Expansion.of("noisy-symmetric", None, 0).snr_db == 10.0
    assert Expansion.of("noisy-diagonal", 4, 0).snr_db == 4.0
    assert Expansion.of("diagonal", None, 0).snr_db is None


@pytest.mark.parametrize(
    ("form", "snr_db", "seed", "message"),
    [
        ("cyclic", None, 0, r"'cyclic' is unknown.*symmetric, diagonal, noisy-symmetric"),
        (None, None, 0, "expansion=None is unknown"),
        ("symmetric", 10, 0, r"snr_db=10 goes with a noisy form.*noisy-symmetric"),
        ("random", 10, 0, "snr_db=10 goes with a noisy form"),
        ("noisy-symmetric", math.nan, 0, "snr_db=nan is not a finite"),
        ("noisy-symmetric", math.inf, 0, "snr_db=inf is not a finite"),
        ("noisy-symmetric", "10", 0, "snr_db='10' is not a finite"),
        ("noisy-symmetric", 10, "a", "seed='a' is not a whole number"),
        ("noisy-symmetric", 10, 1.5, "seed=1.5 is not a whole number"),
        ("symmetric", None, None, "seed=None is not a whole number"),
    ],
)
def test_wrong_parameters_are_named(form, snr_db, seed, message):
    with pytest.raises(hcviz.CloneError, match=message):
        Expansion.of(form, snr_db, seed)


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_what_reads_padding_is_as_large_as_what_is_there_and_nothing_is_left_unwritten(fill):
    source = matrix(40, 40)
    axes = tuple(Dim(role, (Segment((("hidden", 40),)),)) for role in ("write", "read"))
    garbage = lambda shape, **kind: torch.full(shape, 1e30, **kind)  # noqa: E731
    wide = widen(
        "w", source, axes, {"hidden": Fraction(3, 2)}, Expansion(), fill=fill, empty=garbage
    )
    assert torch.equal(wide[:40, :40], source)
    assert wide[:40, 40:].std().item() == pytest.approx(source.std().item(), rel=0.3)
    padded = {"zero": torch.zeros(20, 60), "mean": wide[:40].mean(0).expand(20, 60)}
    torch.testing.assert_close(wide[40:], padded[fill].double())

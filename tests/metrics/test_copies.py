"""Metrics of copies beyond the ledger: rows, heads, angles, sectors; by hand and by projectors."""

import itertools
import math

import numpy as np
import pytest
import tiny
import torch

import hcviz
from hcviz.architecture.axes import Dim, Segment, wide_shape
from hcviz.architecture.blocks import pieces
from hcviz.cloning.declone import declone
from hcviz.metrics import METRICS, baseline
from hcviz.metrics._sectors import sectors

NR = (Dim("write", (Segment((("ffn", 2),)),)), Dim("read", (Segment((("hidden", 2),)),)))
TWO = {"hidden": 2, "ffn": 2}
QUERIES = (
    Dim("write", (Segment((("kv_heads", 2), ("group", 2), (None, 3)), "q"),)),
    Dim("read", (Segment((("hidden", 5),)),)),
)


def rows(name, weight, axes=NR, factors=TWO, **needs):
    return list(METRICS[name].function(torch.as_tensor(weight), axes, factors, **needs))


def table(found):
    return {(row["row"], row["col"]): row["value"] for row in found}


def test_cosine_of_every_row_by_hand():
    weight = [[1.0, 2, 1, 2], [1, 0, -1, 0], [1, 0, 0, 3], [1, 0, 2, 2]]
    found = rows("cosine.rows", weight)
    assert [row["row"] for row in found] == [0, 1, 2, 3]
    assert [row["value"] for row in found] == pytest.approx([1, -1, 0, 0.5**0.5], abs=1e-12)


def test_mean_over_rows_is_the_cosine():
    weight = torch.randn(6, 6)
    factors = {"hidden": 3, "ffn": 3}
    found = [row["value"] for row in rows("cosine.rows", weight, factors=factors)]
    assert np.mean(found) == pytest.approx(rows("cosine", weight, factors=factors)[0]["value"])


def test_cosine_of_heads_by_hand():
    heads = (Dim("write", (Segment((("kv_heads", 2), (None, 1))),)), NR[1])
    # two heads of one row, twice: the first copy of the second head is turned by 90 degrees
    weight = [[1.0, 2, 1, 2], [0, 1, 0, 0], [2, 4, 2, 4], [0, 0, 1, 0]]
    found = rows("cosine.heads", weight, heads, {"kv_heads": 2, "hidden": 2})
    assert [(row["row"], row["value"]) for row in found] == [(0, pytest.approx(1)), (1, 0)]


def test_cosine_of_grouped_heads_against_numpy():
    """Wide rows run over key/value copies, key/value heads, group copies, group heads, entries."""
    factors = {"kv_heads": 2, "group": 3, "hidden": 2}
    weight = torch.randn(2 * 2 * 3 * 2 * 3, 10, dtype=torch.float64)
    wide = weight.numpy().reshape(2, 2, 3, 2, 30)
    expected = []
    for head in range(2):
        for query in range(2):
            copies = wide[:, head, :, query].reshape(6, 30)
            full = copies @ copies.T
            norms = np.sqrt(np.diag(full))
            cosines = full / np.outer(norms, norms)
            expected.append(cosines[np.triu_indices(6, 1)].mean())
    found = rows("cosine.heads", weight, QUERIES, factors)
    assert [row["value"] for row in found] == pytest.approx(expected, abs=1e-12)
    assert {row["part"] for row in found} == {"q"}


def test_heads_that_are_read_have_cosines_too():
    output = (NR[0], Dim("read", (Segment((("kv_heads", 2), (None, 1))),)))
    weight = torch.tensor([[1.0, 1, 2, -1], [1, 0, 2, 0]])
    found = rows("cosine.heads", weight, output, {"kv_heads": 2})
    assert [row["value"] for row in found] == pytest.approx([1, -1])
    assert rows("cosine.heads", torch.ones(4, 4)) == []  # neurons are no heads


def test_angle_by_hand():
    source = torch.tensor([[1.0, 0], [0, 0]])
    turned = torch.tensor([[1.0, 1], [0, 0]])
    start = source.repeat(2, 2) / 2
    weight = torch.cat([torch.cat([source, turned], 1), torch.cat([-source, source.T * 0], 1)])
    found = table(rows("angle", weight, start=start))
    assert (found[0, 0], found[0, 1], found[1, 0]) == (0.0, pytest.approx(45), pytest.approx(180))
    assert math.isnan(found[1, 1])


def test_angle_sees_what_a_cosine_cannot():
    """1 - cos of a turn by 1e-9 is 5e-19, which no float64 near 1 holds."""
    start = torch.tensor([[1.0, 0], [0, 0]], dtype=torch.float64).repeat(2, 2)
    weight = start.clone()
    weight[0, 1] = 1e-9
    assert table(rows("angle", weight, start=start))[0, 0] == pytest.approx(np.rad2deg(1e-9))


@pytest.mark.parametrize("expansion", ["noisy-symmetric", "random"])
def test_angle_finds_the_source_in_the_start_of_a_clone(expansion):
    source = tiny.model("llama")
    wide = hcviz.clone(source, hidden=2, expansion=expansion)
    name = "model.layers.0.mlp.up_proj.weight"
    axes = hcviz.layout(wide, factors=wide.config.hcviz["factors"])[name]
    start = wide.get_parameter(name).detach()
    weight = source.get_parameter(name).detach().repeat(2, 2)
    found = table(rows("angle", weight, axes, wide.config.hcviz["factors"], start=start))
    assert max(found.values()) < 1e-4  # degrees; float32 noise cancels to about 1e-7 radians
    small, _ = declone(wide)
    torch.testing.assert_close(small.get_parameter(name), source.get_parameter(name))


@pytest.mark.parametrize("name", ["cosine", "pairs", "cosine.rows", "angle"])
def test_baseline_is_the_spread_of_unrelated_weights(name):
    """500 draws give a standard deviation to sqrt(1 / 1000) = 3 %; 5 of those are allowed."""
    generator = torch.Generator().manual_seed(0)
    axes = (Dim("write", (Segment((("ffn", 4),)),)), Dim("read", (Segment((("hidden", 6),)),)))
    factors, draws = {"hidden": 3, "ffn": 2}, []
    entries = {"cosine": 8 * 6 * 3, "pairs": 4 * 6, "cosine.rows": 6 * 3, "angle": 4 * 6}[name]
    for _ in range(500):
        weight = torch.randn(8, 18, generator=generator)
        needs = {"start": torch.randn(8, 18, generator=generator)} if name == "angle" else {}
        row = rows(name, weight, axes, factors, **needs)[1 if name == "pairs" else 0]
        draws.append(math.cos(math.radians(row["value"])) if name == "angle" else row["value"])
    assert np.std(draws) == pytest.approx(baseline(entries, sigmas=1), rel=0.16)
    if name == "cosine":
        found = rows("cosine.baseline", weight, axes, factors)[0]["value"]
        assert found == pytest.approx(baseline(entries))


def test_sectors_by_hand():
    a, b = torch.eye(2), torch.tensor([[0.0, 3], [0, 0]])
    weight = torch.cat([torch.cat([a + b, a - b], 1), torch.cat([a + b, a - b], 1)])
    found = {row["axis"]: row["value"] for row in rows("sectors", weight)}
    # four blocks a (squared norm 2 each) and four blocks b (9 each) set the read copies apart
    assert found == pytest.approx({"symmetric": 8 / 44, "R": 36 / 44, "N": 0, "NR": 0})
    assert found["N"] == found["NR"] == 0.0
    spectra = rows("sectors.spectrum", weight)
    assert [row["value"] for row in spectra if row["axis"] == "symmetric"] == pytest.approx([2, 2])
    assert [row["value"] for row in spectra if row["axis"] == "R"] == pytest.approx([6, 0])
    assert {row["axis"]: row["col"] for row in spectra} == {"symmetric": 0, "R": 1, "N": 2, "NR": 3}


@pytest.mark.parametrize("factors", [TWO, {"hidden": 3, "ffn": 2}, {"hidden": 4, "ffn": 5}])
def test_sectors_are_the_fourier_transform_and_keep_squares(factors):
    weight = torch.randn(2 * factors["ffn"], 2 * factors["hidden"], dtype=torch.float64)
    (blocks,) = pieces(weight, NR, factors)
    wide = weight.numpy().reshape(factors["ffn"], 2, factors["hidden"], 2)
    expected = np.fft.fft2(wide, axes=(0, 2), norm="ortho").transpose(0, 2, 1, 3)
    np.testing.assert_allclose(sectors(blocks).numpy(), expected, atol=1e-12)
    found = rows("sectors", weight, factors=factors)
    assert sum(row["value"] for row in found) == pytest.approx(1, abs=1e-12)
    squares = sum(row["value"] ** 2 for row in rows("sectors.spectrum", weight, factors=factors))
    assert squares == pytest.approx(weight.square().sum().item(), rel=1e-12)


def test_sectors_add_up_to_the_ledger_over_two_levels_of_heads():
    factors = {"kv_heads": 2, "group": 3, "hidden": 2}
    weight = torch.randn(72, 10, dtype=torch.float64)
    shares = rows("sectors", weight, QUERIES, factors)
    assert len(shares) == len(table(shares)) == 2 * 3 * 2
    for row in rows("ledger", weight, QUERIES, factors):
        apart = sum(one["value"] for one in shares if row["axis"] in one["axis"])
        assert apart == pytest.approx(row["value"], abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_sectors_of_equal_copies_are_exactly_zero(n):
    weight = torch.randn(2, 2).repeat(n, n)
    found = rows("sectors", weight, factors={"hidden": n, "ffn": n})
    assert {row["value"] for row in found if row["axis"] != "symmetric"} == {0.0}
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(100.0))
    assert min(row["value"] for row in rows("sectors", weight, factors={"hidden": n, "ffn": n})) > 0


def test_the_symmetric_sector_of_a_clone_is_its_source():
    source = torch.randn(4, 3, dtype=torch.float64)
    axes = (Dim("write", (Segment((("ffn", 4),)),)), Dim("read", (Segment((("hidden", 3),)),)))
    found = rows("sectors.spectrum", (source / 2).repeat(2, 2), axes)
    values = [row["value"] for row in found if row["axis"] == "symmetric"]
    assert values == pytest.approx(np.linalg.svd(source.numpy(), compute_uv=False))
    assert {row["value"] for row in found if row["axis"] != "symmetric"} == {0.0}


def large(spread, *, scale=1.0, seed=0):
    """Return a weight of 2 x 2 blocks that are so far apart, for their own length."""
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(256, 256, generator=generator).repeat(2, 2)
    return scale * (block + spread * torch.randn(512, 512, generator=generator))


def side(role, axis, size=256):
    return Dim(role, (Segment(((axis, size),)),))


SQUARE = (side("write", "ffn"), side("read", "hidden"))
SHAPES = {
    "matrix": (SQUARE, TWO),
    "conv1d": ((SQUARE[1], SQUARE[0]), TWO),
    "embedding": ((side("read", None, 512), side("write", "hidden")), TWO),
    "one axis on both sides": ((side("write", "hidden"), side("read", "hidden")), TWO),
    "neurons alone": ((side("write", "ffn"), side("read", None, 512)), TWO),
    "two levels": (
        (Dim("write", (Segment((("kv_heads", 2), ("group", 4), (None, 16)), "q"),)), SQUARE[1]),
        {"kv_heads": 2, "group": 2, "hidden": 2},
    ),
    "experts": (
        (
            Dim("keep", (Segment(((None, 4),)),)),
            Dim("write", (Segment((("expert_ffn", 64),)),)),
            Dim("read", (Segment((("hidden", 256),)),)),
        ),
        {"hidden": 2, "expert_ffn": 2},
    ),
}


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.03, 1e-3, 1e-6, 0.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_gives_the_numbers_of_float64(shape, spread):
    """It loses 1e-7 of a distance, however close the copies are."""
    axes, factors = SHAPES[shape]
    wide = large(spread).view(wide_shape(axes, factors))
    for name in ("ledger", "cosine"):
        exact = rows(name, wide.double(), axes, factors)
        found = rows(name, wide, axes, factors)
        assert [row.keys() for row in found] == [row.keys() for row in exact]
        for a, b in zip(found, exact, strict=True):
            assert a["value"] == pytest.approx(b["value"], rel=1e-6 if name == "ledger" else 1e-7)
            assert (a["value"] == 0.0) == (b["value"] == 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [0.5, 0.0])
def test_large_weights_in_half_precision(dtype, spread):
    wide = large(spread).to(dtype)
    for name in ("ledger", "cosine"):
        exact = [row["value"] for row in rows(name, wide.double(), *SHAPES["matrix"])]
        found = [row["value"] for row in rows(name, wide, *SHAPES["matrix"])]
        assert found == pytest.approx(exact, rel=1e-5)


def test_one_bit_of_one_entry_is_seen_in_a_large_weight():
    wide = large(0.0)
    wide[3, 5] = torch.nextafter(wide[3, 5], torch.tensor(100.0))
    assert min(row["value"] for row in rows("ledger", wide, *SHAPES["matrix"])) > 0


def test_rows_of_zeros_have_no_direction():
    wide = large(0.0)
    wide[:64] = wide[256:320] = 0
    assert [row["value"] for row in rows("cosine", wide, *SHAPES["matrix"])] == [0.75]
    assert rows("cosine", wide.double(), *SHAPES["matrix"])[0]["value"] == pytest.approx(0.75)


def test_what_float32_cannot_square_is_measured_all_the_same():
    """Adam's second moments are as small as this; their squares are below float32's range."""
    tiny_ones = large(0.5, scale=1e-25)
    tiny_row, hidden = large(0.5), large(0.0)
    tiny_row[7] *= 1e-25
    hidden[0, :256] = 0.0
    hidden[256, :256] = 1e-25  # differs from the copy above it by less than can be squared
    for wide in (tiny_ones, tiny_row, hidden):
        for name in ("ledger", "cosine"):
            exact = [row["value"] for row in rows(name, wide.double(), *SHAPES["matrix"])]
            found = [row["value"] for row in rows(name, wide, *SHAPES["matrix"])]
            assert found == pytest.approx(exact, rel=1e-5)
            assert name == "cosine" or min(found) > 0


@pytest.mark.parametrize("value", [1e25, math.inf, math.nan])
def test_what_is_too_large_or_no_number_is_not_hidden(value):
    wide = large(0.5)
    wide[3, 7] = value
    for name in ("ledger", "cosine"):
        exact = [row["value"] for row in rows(name, wide.double(), *SHAPES["matrix"])]
        found = [row["value"] for row in rows(name, wide, *SHAPES["matrix"])]
        assert found == pytest.approx(exact, nan_ok=True)
        assert all(map(math.isnan, found)) != math.isfinite(value)


def test_one_weight_under_two_axis_maps_has_the_numbers_of_each():
    """Nothing of one answer is kept for another: a square may hold tokens or outputs as rows."""
    wide = large(0.5)
    wide[:, :256] *= 0.1
    asked = list(itertools.product(("ledger", "cosine"), ("matrix", "embedding", "conv1d")))
    apart = [rows(name, wide.clone(), *SHAPES[shape]) for name, shape in asked]
    assert [rows(name, wide, *SHAPES[shape]) for name, shape in asked] == apart
    assert apart[0] != apart[2]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_copies_are_exactly_locked_and_alike(n):
    wide, factors = torch.randn(64, 96).repeat(n, n), {"hidden": n, "ffn": n}
    axes = (side("write", "ffn", 64), side("read", "hidden", 96))
    assert [row["value"] for row in rows("ledger", wide, axes, factors)] == [0.0, 0.0]
    assert [row["value"] for row in rows("cosine", wide, axes, factors)] == [1.0]


@pytest.mark.parametrize("name", ["ledger", "cosine"])
def test_numbers_follow_a_weight_that_changes_in_place(name):
    """``data`` and numpy change it without torch's counter of changes."""
    wide = large(0.5)
    before = rows(name, wide, *SHAPES["matrix"])
    for change in (wide.data[:, :256], torch.from_numpy(wide.numpy())[:, :128]):
        change.mul_(-0.5)
        now = rows(name, wide, *SHAPES["matrix"])
        assert now == rows(name, wide.clone(), *SHAPES["matrix"])
        assert now != before
        before = now

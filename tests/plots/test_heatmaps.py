"""Heat maps: values in the right cells, one scale over steps, and lines between blocks."""

import frames
import numpy as np
import pytest

from hcviz import plots
from hcviz.errors import HcvizError


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def lines(ax):
    return [one for one in ax.lines if one.get_label() == "_block"]


def test_pairs_puts_the_cosines_of_arms_and_steps_where_they_belong():
    frame = frames.pairs()
    grid = plots.pairs(frame, tensor=frames.UP.format(0), steps=[0, 34, 120])
    assert grid.shape == (3, 3)
    assert [ax.get_title(loc="left") for ax in grid[0]] == ["step 0", "step 34", "step 120"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["symmetric", "noisy 10 dB", "random init"]
    np.testing.assert_array_equal(shown(grid[0, 2]), np.ones((4, 4)))
    rows = frame[
        (frame["run"] == "noisy 10 dB")
        & (frame["step"] == 120)
        & frame["tensor"].eq(frames.UP.format(0))
    ]
    cell = rows[(rows["row"] == 1) & (rows["col"] == 2)]["value"].item()
    assert shown(grid[1, 2])[1, 2] == cell
    assert {ax.images[0].get_clim() for ax in grid.ravel()} == {(-1, 1)}
    assert len({"".join(t.get_text() for t in ax.texts) for ax in grid[1]}) == 3  # numbers change


def test_pairs_names_blocks_by_the_copies_they_read_and_write():
    grid = plots.pairs(frames.pairs(), runs=["symmetric"])
    names = [
        label.get_text().replace("\N{RIGHTWARDS ARROW}", ">")
        for label in grid[0, 0].get_yticklabels()
    ]
    assert names == ["1>1", "2>1", "1>2", "2>2"]
    assert grid.shape == (1, 5)
    assert "mean of 2 weights" in grid[0, 0].figure.get_suptitle()
    with pytest.raises(HcvizError, match=r"shape=\(3, 1\) does not give the 4 blocks"):
        plots.pairs(frames.pairs(), shape=(3, 1))


def test_pairs_refuses_a_mixture_and_absent_runs():
    frame = frames.pairs()
    mixed = frame.assign(tensor=frame["tensor"].replace(frames.UP.format(1), frames.HEAD))
    with pytest.raises(
        HcvizError, match=r"mixes up-projection, unembedding; choose one with tensor="
    ):
        plots.pairs(mixed)
    assert plots.pairs(mixed, tensor="unembedding").shape == (3, 5)
    with pytest.raises(HcvizError, match="No run nobody here; there are symmetric"):
        plots.pairs(frame, runs=["nobody"])


def test_only_exact_ones_are_written_plainly():
    frame = frames.pairs()
    near = frame.assign(value=frame["value"].where(frame["row"] == frame["col"], 1 - 1e-4))
    ax = plots.pairs(near, runs=["symmetric"], steps=[0])[0, 0]
    assert sorted({text.get_text() for text in ax.texts}) == ["1", "1.00"]


def test_blocks_draws_whole_matrices_on_one_scale_with_their_grid():
    weights = frames.weights(rows=6, columns=4)
    axes = plots.blocks(weights, 2, 2)
    for ax, matrix in zip(axes, weights.values(), strict=True):
        np.testing.assert_array_equal(shown(ax), matrix)
        horizontal = [
            one.get_ydata()[0] for one in lines(ax) if one.get_ydata()[0] == one.get_ydata()[1]
        ]
        assert 5.5 in horizontal
        assert len(lines(ax)) == 2
    limits = {ax.images[0].get_clim() for ax in axes}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert [ax.get_title(loc="left") for ax in axes] == ["step 0", "step 12", "step 120"]


def test_blocks_cuts_the_same_corner_from_every_block_and_says_so():
    whole = frames.weights()[120]
    ax = plots.blocks(whole, 2, 2, corner=3)[0]
    picked = np.block([[whole[r : r + 3, c : c + 3] for c in (0, 32)] for r in (0, 64)])
    np.testing.assert_array_equal(shown(ax), picked)
    assert "top left 3 \N{MULTIPLICATION SIGN} 3" in ax.figure.get_supxlabel()


def test_blocks_takes_the_four_dimensions_of_a_run_and_three_copies():
    grid = np.arange(3 * 2 * 4 * 5.0).reshape(3, 2, 4, 5)
    ax = plots.blocks(grid)[0]
    np.testing.assert_array_equal(shown(ax), grid.transpose(0, 2, 1, 3).reshape(12, 10))
    assert len(lines(ax)) == 2 + 1
    with pytest.raises(HcvizError, match=r"\(3, 2\), not 2 x 2"):
        plots.blocks(grid, 2, 2)


def test_antisymmetric_is_zero_for_copies_and_half_the_difference_otherwise():
    weights = frames.weights(rows=6, columns=4)
    first, _, last = plots.antisymmetric(weights, 2, 2)
    assert not shown(first).any()
    left, right = weights[120][:, :4], weights[120][:, 4:]
    np.testing.assert_allclose(shown(last), np.hstack([left - right, right - left]) / 2)
    assert "times finer than the weight's" in first.figure.get_supxlabel()
    (written,) = plots.antisymmetric(weights[120], 2, 2, along="written")
    top, bottom = weights[120][:6], weights[120][6:]
    np.testing.assert_allclose(shown(written), np.vstack([top - bottom, bottom - top]) / 2)


def test_antisymmetric_of_a_locked_weight_says_locked():
    ax = plots.antisymmetric(frames.weights()[0], 2, 2)[0]
    assert "All exactly 0: locked." in ax.figure.get_supxlabel()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.blocks(np.ones((4, 5)), 2, 2), r"shape \(4, 5\) is not a grid of 2 x 2"),
        (lambda: plots.blocks(np.ones((4, 4))), "not a grid of None x None"),
        (lambda: plots.blocks({}, 2, 2), "empty"),
        (lambda: plots.blocks({0: np.ones((2, 2)), 1: np.ones((4, 2))}, 2, 2), "differ in shape"),
        (
            lambda: plots.antisymmetric(np.ones((4, 4)), 2, 1),
            "one copy along the read side.*'written'",
        ),
        (lambda: plots.antisymmetric(np.ones((4, 4)), 2, 2, along="up"), "'up' is no side"),
    ],
)
def test_bad_matrices_are_refused_with_a_remedy(call, message):
    with pytest.raises(HcvizError, match=message):
        call()


def test_matrix_frame_is_what_is_drawn():
    weights = frames.weights()
    frame = plots.matrix_frame(weights, 2, 2, corner=5)
    assert list(frame) == ["step", "written", "read", "row", "col", "value"]
    assert len(frame) == 3 * 4 * 25
    cell = frame.query("step == 120 and written == 1 and read == 0 and row == 4 and col == 2")
    assert cell["value"].item() == weights[120][64 + 4, 2]
    apart = plots.matrix_frame(weights, 2, 2, corner=5, along="read")
    drawn = shown(plots.antisymmetric(weights, 2, 2, corner=5)[2])
    assert apart.query("step == 120")["value"].abs().sum() == pytest.approx(np.abs(drawn).sum())

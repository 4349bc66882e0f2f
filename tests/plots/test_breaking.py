"""Figures of copies beyond ledger and cosine: angles, heads, layers, sectors, escape.

Those of `_cosine`, `_symmetry`, `_pairs`, `_sectors` and `_escape`.
"""

import re

import frames
import numpy as np
import pandas as pd
import pytest

from hcviz import escape, plots
from hcviz.errors import HcvizError


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def legend_names(ax):
    return [text.get_text() for text in ax.figure.legends[0].get_texts()]


def sectors(values, **columns):
    """Four sectors of one weight over three steps; the symmetric one takes the rest."""
    rows = [
        {"run": run, "step": step, "tensor": frames.UP.format(0), "axis": axis, "row": row,
         "col": col, "metric": "sectors", "value": value * (step + 1)}
        for run, scale in (("symmetric", 0.0), ("dropout 0.1", 1.0))
        for step in (0, 5, 9)
        for (axis, row, col), value in [(key, scale * v) for key, v in values.items()]
        + [(("symmetric", 0, 0), (1 - scale * sum(values.values()) * (step + 1)) / (step + 1))]
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def ends(**values):
    """Both ends of the Hessian of two arms at two steps, by sector."""
    rows = [
        {"run": run, "step": step, "tensor": "model", "metric": name, "axis": axis, "part": part,
         "value": sign * value * (1 + step)}
        for run in ("symmetric", "noisy 10 dB") for step in (0, 230)
        for name in ("curvature", "curvature.adam") for axis, value in values.items()
        for part, sign in (("smallest", -1), ("smallest error", 0.1), ("largest", 2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_both_ends_of_the_curvature_are_drawn_by_sector():
    axes = plots.curvature(ends(symmetric=1.0, R=2.0, H=3.0))
    assert len(axes) == 2 * 2
    np.testing.assert_allclose(line(axes[0], "H, smallest").get_ydata(), [-3, -3 * 231])
    np.testing.assert_allclose(line(axes[0], "symmetric, largest").get_ydata(), [2, 2 * 231])
    assert legend_names(axes[0]) == ["symmetric", "R", "H"]
    with pytest.raises(HcvizError, match="no finite value of the metric 'curvature'"):
        plots.curvature(ends(R=1.0).assign(metric="ledger"))


def test_foretold_rates_lie_over_the_measured_ones_and_those_that_shrink_at_the_foot():
    rows = {"axis": ["R", "R", "H"], "foretold": [0.1, 0.2, 0.3], "rate": [0.1, -0.1, 0.03]}
    ax = plots.foretold(pd.DataFrame(rows))
    np.testing.assert_allclose(line(ax, "H: attention heads").get_xydata(), [[0.3, 0.03]])
    (under,) = [one for one in ax.lines if one.get_label() == "_under" and len(one.get_xdata())]
    assert under.get_xdata().tolist() == [0.2]
    same = line(ax, "_same")
    np.testing.assert_allclose(same.get_xdata(), same.get_ydata())
    with pytest.raises(HcvizError, match="needs the columns rate"):
        plots.foretold(pd.DataFrame(rows)[["axis", "foretold"]])


SHARES = {("R", 0, 1): 1e-3, ("N", 1, 0): 2e-3, ("NR", 1, 1): 4e-3}


def test_angle_and_heads_are_drawn_with_a_thin_line_per_block_or_head():
    frame = pd.concat([frames.cosine().assign(metric="angle", row=k, value=k) for k in range(3)])
    (up, *_) = plots.cosine(frame, metric="angle")
    assert "angle" in up.get_ylabel()
    assert "Angle to the source's weight" in up.figure.get_suptitle()
    np.testing.assert_allclose(line(up, "symmetric").get_ydata(), 1)
    assert sum(one.get_label() == "_thin" for one in up.lines) == 4 * 3 * 4  # layers x rows x arms
    heads = plots.cosine(frame.assign(metric="update.cosine.heads"), metric="update.cosine.heads")
    assert "(update)" in heads[0].figure.get_suptitle()
    with pytest.raises(HcvizError, match="an angle needs no log"):
        plots.cosine(frame, metric="angle", log=True)


def test_seeds_of_a_weight_are_one_thin_line_their_mean():
    one = frames.cosine().query("run == 'dropout 0.1' and layer < 2")
    frame = pd.concat([one.assign(seed=k, value=one["value"] - 0.1 * k) for k in range(3)])
    (up, *_) = plots.cosine(frame)
    thin = [line for line in up.lines if line.get_label() == "_thin"]
    assert len(thin) == 2
    for line in thin:
        assert (np.diff(line.get_xdata()) > 0).all()
        assert line.get_ydata()[0] == pytest.approx(1 - 0.1)


def test_many_rows_are_a_shade_of_nine_in_ten():
    one = frames.cosine().query("run == 'dropout 0.1' and step == 120 and layer == 0")
    frame = pd.concat([one.assign(metric="cosine.rows", row=k, value=k / 100) for k in range(101)])
    (ax, *_) = plots.cosine(frame, metric="cosine.rows")
    (shade,) = ax.collections
    box = shade.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == pytest.approx((0.05, 0.95))
    assert not [one for one in ax.lines if one.get_label() == "_thin"]


def test_pairs_say_how_far_unrelated_blocks_reach():
    ax = plots.pairs(frames.pairs(), tensor=frames.UP.format(0), baseline=0.0123)[0, 0]
    assert "within 0.012 of zero" in ax.figure.get_supxlabel()


def test_cosine_takes_the_band_of_unrelated_weights_from_the_frame():
    frame = frames.cosine()
    spread = frame[frame["step"] == 0].assign(metric="cosine.baseline", value=0.2)
    axes = plots.cosine(pd.concat([frame, spread]))
    for ax in axes:
        (band,) = [patch for patch in ax.patches if patch.get_label() == "_band"]
        assert (band.get_y(), band.get_height()) == pytest.approx((-0.2, 0.4))
    assert "unrelated weights" in legend_names(axes[0])


def test_ledger_by_layer_has_a_row_of_panels_per_axis():
    frame = frames.ledger()
    axes = plots.ledger(frame, col="layer")
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == [f"{letter}, layer {i}" for letter in "RHN" for i in range(4)]
    rows = frame[(frame["layer"] == 2) & (frame["axis"] == "H") & (frame["run"] == "dropout 0.1")]
    shown = line(axes[6], "dropout 0.1").get_ydata()[1:]
    np.testing.assert_allclose(shown, rows.groupby("step")["value"].mean()[1:])
    assert {ax.get_xlabel() for ax in axes[:-4]} == {""}


def test_ledger_of_updates_says_so():
    frame = frames.ledger().assign(metric="update.ledger")
    assert "(update)" in plots.ledger(frame, metric="update.ledger")[0].get_ylabel()


def test_sectors_have_a_panel_per_set_of_axes_and_zeros_in_the_strip():
    axes = plots.sectors(sectors(SHARES))
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == ["R: residual stream", "N: FFN neurons", "N and R"]
    for ax, share in zip(axes, (1e-3, 2e-3, 4e-3), strict=True):
        steps = np.array([1, 6, 10])
        np.testing.assert_allclose(line(ax, "dropout 0.1").get_ydata(), share * steps)
        edge = line(ax, "_edge").get_ydata()[0]
        assert (line(ax, "symmetric").get_ydata() < edge).all()
        assert line(ax, "_unrelated").get_ydata()[0] == 0.25


def test_sectors_of_three_copies_are_added_up_within_a_panel():
    frame = sectors({("R", 0, 1): 1e-3, ("R", 0, 2): 1e-3})
    (ax,) = plots.sectors(frame)
    np.testing.assert_allclose(line(ax, "dropout 0.1").get_ydata(), [2e-3, 12e-3, 20e-3])
    assert line(ax, "_unrelated").get_ydata()[0] == pytest.approx(2 / 3)


def test_sector_spectra_have_a_line_per_sector_first_thin_and_last_thick():
    spectra = [
        {"run": "a", "step": step, "tensor": frames.UP.format(1), "axis": axis, "row": row,
         "col": col, "metric": "sectors.spectrum", "value": scale * (2.0 - row)}
        for step in (0, 9)
        for col, (axis, scale) in enumerate({"symmetric": 1, "R": 0.1 * step}.items())
        for row in (0, 1)
    ]  # fmt: skip
    (ax,) = plots.sector_spectra(pd.DataFrame(spectra))
    np.testing.assert_allclose(line(ax, "R sector, step 9").get_ydata(), [0.9, 0.45])
    thin, thick = (line(ax, f"symmetric sector, step {step}") for step in (0, 9))
    assert thin.get_linewidth() < thick.get_linewidth()
    assert (line(ax, "R sector, step 0").get_ydata() < line(ax, "_edge").get_ydata()[0]).all()
    assert {"symmetric sector", "R sector"} <= set(legend_names(ax))


def test_escape_draws_the_fit_its_interval_and_the_time_to_leave():
    frame = frames.ledger()
    axes = plots.escape(frame, threshold=0.003)
    found = escape(frame, threshold=0.003).set_index(["run", "axis"])
    for ax, letter in zip(axes, "RHN", strict=True):
        one = found.loc["dropout 0.1", letter]
        (fit,) = [f for f in ax.lines if f.get_label() == "_fit" and f.get_xdata()[0] == 1]
        slope = np.polyfit(fit.get_xdata(), np.log(fit.get_ydata()), 1)[0]
        assert slope == pytest.approx(one["rate"])
        assert line(ax, "_leaves").get_xdata()[0] == pytest.approx(one["leaves"])
        assert f"dropout 0.1: {100 * one['rate']:.2f} [" in ax.get_xlabel()
        assert "symmetric: locked (exactly 0)" in ax.get_xlabel()
        assert len(ax.collections) == 2  # the intervals of dropout and of noise
    assert "left: over 0.3 % of squared norm" in legend_names(axes[0])


@pytest.mark.parametrize("draw", [plots.cosine, plots.ledger, plots.evolution])
def test_panels_are_ordered_as_numbers(draw):
    layers = [10, 2, 1]
    rows = pd.DataFrame(
        [
            {"run": "a", "step": step, "tensor": f"layers.{k}.fc1", "layer": k,
             "metric": {"evolution": "norm"}.get(draw.__name__, draw.__name__), "value": 0.5}
            for k in layers for step in (0, 9)
        ]
    )  # fmt: skip
    rows["axis"] = None if draw is plots.evolution else "N"
    by = "by" if draw is plots.evolution else "col"
    for column in ("tensor", "layer"):
        titles = [ax.get_title(loc="left") for ax in draw(rows, **{by: column})]
        found = [int(re.findall(r"\d+", title.replace("fc1", ""))[0]) for title in titles]
        assert found == sorted(layers)

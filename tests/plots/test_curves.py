"""Figures of numbers over training: the artists that are drawn, never their pixels.

Those of `_loss`, `_symmetry`, `_cosine`, `_sectors` and what all figures share.
"""

import itertools
import subprocess
import sys

import frames
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.text import Text

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.plots import theme


def line(ax, label):
    """The one line of a label."""
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend_names(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_plots_never_import_torch():
    code = "import sys, hcviz.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loss_draws_every_arm_in_its_look():
    history = frames.history()
    ax = plots.loss(history)
    for arm in frames.ARMS:
        rows = history[(history["run"] == arm) & (history["split"] == "heldout")]
        drawn = line(ax, arm)
        np.testing.assert_array_equal(drawn.get_xdata(), rows["tokens"])
        np.testing.assert_array_equal(drawn.get_ydata(), rows["loss"])
        assert same_color(drawn.get_color(), theme.ARMS[arm].color)
        assert drawn.get_marker() == theme.ARMS[arm].marker
    assert set(legend_names(ax.figure)) == {*frames.ARMS, "source at start 3.41"}
    assert "held-out loss (nats per token)" in ax.get_ylabel()


def test_loss_marks_the_level_where_the_source_starts():
    history = frames.history()
    ax = plots.loss(history, against=None)
    assert line(ax, "_reference").get_ydata()[0] == pytest.approx(3.412)
    assert "source at start 3.41" in legend_names(ax.figure)
    _, mine = plt.subplots()
    ax = plots.loss(history, reference=3.0, ax=mine)
    assert line(ax, "_reference").get_ydata()[0] == 3.0
    assert "reference 3.00" in texts(ax)
    _, mine = plt.subplots()
    ax = plots.loss(history, reference=None, ax=mine)
    assert not [one for one in ax.lines if "_reference" in one.get_label()]


def test_loss_shows_near_arms_from_close_by_and_their_gap_to_the_source():
    history = frames.history()
    _, near, gap = plots.loss(history).figure.axes
    assert {one.get_label() for one in near.lines if one.get_label()[0] != "_"} == set(
        frames.ARMS
    ) - {"random init"}
    heldout = history[history["split"] == "heldout"].pivot_table(
        index="tokens", columns="run", values="loss"
    )
    wanted = heldout["noisy 10 dB"] - heldout["source"]
    np.testing.assert_allclose(line(gap, "noisy 10 dB").get_ydata(), wanted)
    assert not [one for one in gap.lines if one.get_label() == "random init"]
    assert any("random init +2.17" in text for text in texts(gap))  # off the scale, but said
    assert "\N{MINUS SIGN}0.026" in texts(gap)
    late = (history["run"] == "random init") & (history["tokens"] == history["tokens"].max())
    *_, gap = plots.loss(history.assign(loss=history["loss"].mask(late, 3.25))).figure.axes
    assert line(gap, "random init").get_ydata()[0] > gap.get_ylim()[1]  # it comes from far above
    assert not any("at the end" in text for text in texts(gap))
    base = history[history["run"] == "source"]
    both = pd.concat([base, base.assign(run="a", loss=base["loss"] - 1e-5)])
    *_, gap = plots.loss(both).figure.axes
    assert {"0", "0.000"} == set(texts(gap))  # what rounds to zero is no exact zero, nor has a sign


def test_loss_ends_are_written_apart_from_each_other():
    ax = plots.loss(frames.history())
    ax.figure.draw_without_rendering()
    values = [text for text in ax.texts if text.get_text()[:4] in ("3.23", "3.25", "3.26")]
    boxes = [Text.get_window_extent(text) for text in values]  # without the line to the curve
    assert len(boxes) == 4
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert all(box.x0 > ax.get_window_extent().x1 for box in boxes)


def test_a_loss_that_ends_early_is_written_beside_its_last_point():
    history = frames.history()
    history["tokens"] = history["tokens"].astype(float).mask(history["run"] == "source", 1.0)
    ax = plots.loss(history, against=None)
    (early,) = [t for t in ax.texts if ax.transAxes.transform(t.xy)[0] < ax.bbox.x0 + 99]
    assert (early.arrow_patch, early.get_position()) == (None, (6, 0))


def test_loss_ends_that_would_read_alike_get_a_digit_more_and_equal_ones_are_said_once():
    ends = {"symmetric": 3.1912, "diagonal": 3.1912, "noisy 10 dB": 3.1883, "random init": 4.0}
    rows = {"run": list(ends), "tokens": 9, "split": "heldout", "loss": list(ends.values())}
    history = pd.DataFrame(rows)
    said = texts(plots.loss(history, reference=None))
    assert said == ["3.188", "3.191 (2 arms)", "4.000"]
    _, mine = plt.subplots()
    plots.loss(history, reference=None, ax=mine)
    assert texts(mine) == ["noisy 10 dB 3.188", "symmetric, diagonal 3.191", "random init 4.000"]
    _, mine = plt.subplots()
    plots.loss(history.iloc[2:], reference=None, ax=mine)
    assert texts(mine) == ["noisy 10 dB 3.19", "random init 4.00"]


def test_loss_of_seeds_is_a_mean_with_a_band():
    one = pd.DataFrame({"run": "a", "tokens": [0, 10], "split": "heldout", "loss": [3.0, 2.0]})
    ax = plots.loss(pd.concat([one, one.assign(loss=[4.0, 3.0])]))
    np.testing.assert_array_equal(line(ax, "a").get_ydata(), [3.5, 2.5])
    (band,) = ax.collections
    assert band.get_paths()[0].get_extents().y0 == 2.0
    assert band.get_paths()[0].get_extents().y1 == 4.0


def test_loss_in_own_axes_draws_one_panel_with_names_and_no_title():
    fig, ax = plt.subplots()
    assert plots.loss(frames.history(), ax=ax) is ax
    assert fig.axes == [ax]
    assert any(text.startswith("random init 5.43") for text in texts(ax))
    assert fig.get_suptitle() == ""


def test_loss_leaves_unfinished_values_out_and_refuses_nothing_at_all():
    history = frames.history().assign(loss=np.nan)
    with pytest.raises(
        HcvizError, match=r"no finite loss of the split 'heldout'; it has heldout, train"
    ):
        plots.loss(history)
    with pytest.raises(HcvizError, match=r"needs the columns tokens;.*run, step"):
        plots.loss(history.drop(columns="tokens"))
    with pytest.raises(HcvizError, match="DataFrame, and got a list"):
        plots.loss([1, 2])


def test_cosine_has_a_panel_per_kind_with_means_and_single_weights():
    frame = frames.cosine()
    axes = plots.cosine(frame, baseline={"QKV": (-0.1, 0.1)})
    assert [ax.get_title(loc="left") for ax in axes] == ["up-projection", "QKV", "unembedding"]
    rows = frame[frame["tensor"].str.contains("query_key") & (frame["run"] == "dropout 0.1")]
    np.testing.assert_allclose(
        line(axes[1], "dropout 0.1").get_ydata(), rows.groupby("step")["value"].mean()
    )
    assert sum(one.get_label() == "_thin" for one in axes[1].lines) == 4 * 4  # layers x arms
    assert (
        sum(one.get_label() == "_thin" for one in axes[2].lines) == 0
    )  # one weight is its own mean
    assert [len(ax.patches) for ax in axes] == [0, 1, 0]
    assert "unrelated weights" in legend_names(axes[0].figure)
    assert axes[0].get_ylim()[1] > 1 > frame["value"].min() > axes[0].get_ylim()[0]


def test_cosine_of_a_tied_model_shows_the_embedding_and_can_be_split_by_layer():
    frame = frames.cosine()
    tied = frame.assign(tensor=frame["tensor"].replace(frames.HEAD, "model.embed_tokens.weight"))
    assert plots.cosine(tied)[-1].get_title(loc="left") == "embedding"
    layers = plots.cosine(frame.astype({"layer": "Int64"}), col="layer")
    assert [ax.get_title(loc="left") for ax in layers] == [f"layer {i}" for i in range(4)]
    with pytest.raises(HcvizError, match=r"No kind nonsense here; there are up-projection, QKV"):
        plots.cosine(frame, kinds=["nonsense"])


def test_cosine_on_a_log_axis_shows_small_departures_and_rests_equal_halves_in_a_strip():
    frame = frames.cosine()
    frame = frame[frame["run"] != "random init"]
    ax = plots.cosine(frame.assign(value=frame["value"] - 1e-16), log=True, baseline=(-0.1, 0.1))[0]
    edge = line(ax, "_edge").get_ydata()[0]
    assert (line(ax, "symmetric").get_ydata() < edge).all()
    rows = frame[frame["tensor"].str.contains("h_to_4h") & (frame["run"] == "dropout 0.1")]
    wanted = 1 - rows.groupby("step")["value"].mean()
    np.testing.assert_allclose(line(ax, "dropout 0.1").get_ydata()[1:], wanted[1:])
    assert edge > 1e-12  # the axis ends near the data, not at what counts as equal
    (band,) = [patch for patch in ax.patches if patch.get_label() == "_band"]
    assert (band.get_y(), band.get_height()) == pytest.approx((0.9, 0.2))


def test_step_axis_has_room_for_step_zero():
    ax = plots.cosine(frames.cosine())[0]
    assert list(ax.get_xticks()) == [0, 1, 10, 100]
    at = ax.transData.transform([(step, 0.5) for step in frames.STEPS])[:, 0]
    assert (np.diff(at) > 3).all()


def test_ledger_draws_zeros_in_the_strip_and_each_arm_in_its_lane():
    axes = plots.ledger(frames.ledger())
    assert [ax.get_title(loc="left")[0] for ax in axes] == ["R", "H", "N"]
    for ax in axes:
        edge = line(ax, "_edge").get_ydata()[0]
        locked, dropout = (line(ax, name).get_ydata() for name in ("symmetric", "dropout 0.1"))
        assert (locked < edge).all()
        assert len(set(locked)) == 1
        assert dropout[0] < edge < dropout[1]
        assert dropout[0] != locked[0]
        assert (line(ax, "noisy 10 dB").get_ydata() > edge).all()
        assert min(locked[0], dropout[0]) > ax.get_ylim()[0]
        assert "locked (exactly 0)" in texts(ax)
        assert ax.get_yscale() == "log"


def test_ledger_mean_of_a_weight_that_left_and_one_that_did_not_is_not_locked():
    frame = frames.ledger()
    frame = frame[(frame["run"] == "dropout 0.1") & (frame["axis"] == "H")]
    (ax,) = plots.ledger(frame)
    assert frame[frame["layer"] == 0]["value"].eq(0).all()
    np.testing.assert_allclose(
        line(ax, "dropout 0.1").get_ydata()[1:], frame.groupby("step")["value"].mean()[1:]
    )


def test_ledger_scale_holds_the_smallest_share_and_an_all_locked_run():
    frame = frames.ledger()
    tiny = frame.assign(value=frame["value"].where(frame["value"] == 0, 3e-15))
    ax = plots.ledger(tiny)[0]
    assert line(ax, "_edge").get_ydata()[0] < 3e-15
    ax = plots.ledger(frame[frame["run"] == "symmetric"])[0]
    assert (line(ax, "symmetric").get_ydata() < line(ax, "_edge").get_ydata()[0]).all()
    assert "0" in [label.get_text() for label in ax.get_yticklabels()]


def test_ledger_leaves_gains_and_biases_out_unless_asked():
    frame = frames.ledger()
    gain = frame.iloc[:1].assign(tensor="layers.0.input_layernorm.weight", value=1e-15, step=7)
    bias = gain.assign(tensor="layers.0.mlp.dense_h_to_4h.bias")
    ax = plots.ledger(pd.concat([frame, gain, bias]))[0]
    assert line(ax, "_edge").get_ydata()[0] > 1e-8
    ax = plots.ledger(pd.concat([frame, gain]), tensors="norm")[0]
    assert line(ax, "symmetric").get_xdata().tolist() == [7]


def test_ledger_refuses_what_is_no_share():
    frame = frames.ledger()
    with pytest.raises(HcvizError, match="between 0 and 1; the frame holds 0 to 5"):
        plots.ledger(frame.assign(value=frame["value"] * 10))
    with pytest.raises(
        HcvizError,
        match=r"no finite value of the metric 'ledger' \(it holds cosine\).*hcviz.measure",
    ):
        plots.ledger(frames.cosine().assign(axis=None))


def test_several_panels_go_into_own_axes_of_the_right_number():
    fig, mine = plt.subplots(1, 3)
    assert list(plots.ledger(frames.ledger(), ax=mine)) == list(mine)
    assert mine[-1].get_legend().get_texts()[0].get_text() == "symmetric"
    fig.draw_without_rendering()
    assert (
        mine[-1].get_legend().get_window_extent().x0 >= mine[-1].get_window_extent().x1
    )  # beside, not over
    with pytest.raises(HcvizError, match="needs 3 axes, and 2 were given"):
        plots.ledger(frames.ledger(), ax=mine[:2])


def test_spectrum_normalises_and_marks_the_half_that_starts_at_zero():
    frame = frames.spectrum(size=64)
    axes = plots.spectrum(frame)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "up-projection, layer 0", "QKV, layer 2", "down-projection, layer 3",
    ]  # fmt: skip
    ax = axes[0]
    assert line(ax, "_half").get_xdata()[0] == 0.5
    assert "starts at zero" in texts(ax)
    edge = line(ax, "_edge").get_ydata()[0]
    after = line(ax, "dropout 0.1, after").get_ydata()
    before = line(ax, "dropout 0.1, before").get_ydata()
    assert after[0] == before[0] == 1
    assert (before[32:] < edge).all()
    assert (after > edge).all()
    assert (np.diff(after) <= 0).all()
    assert (
        line(ax, "symmetric, before").get_linewidth() < line(ax, "symmetric, after").get_linewidth()
    )


def test_spectrum_draws_what_was_asked_and_marks_no_empty_half_where_there_is_none():
    frame = frames.spectrum(size=64)
    asked = plots.spectrum(frame, tensors=["down-projection", "up-projection"])
    titles = [ax.get_title(loc="left") for ax in asked]
    assert titles == ["down-projection, layer 3", "up-projection, layer 0"]
    (ax,) = plots.spectrum(frame[frame["run"] == "random init"], tensors="QKV", steps=(0, 0))
    assert not [one for one in ax.lines if one.get_label() == "_half"]
    assert len([one for one in ax.lines if one.get_label()[0] != "_"]) == 1
    with pytest.raises(HcvizError, match="No step 3 here; there are 0, 120"):
        plots.spectrum(frame, steps=(0, 3))


def test_figures_leave_the_settings_alone_and_fit_a_page():
    before = dict(mpl.rcParams)
    drawn = [
        plots.loss(frames.history()).figure,
        plots.cosine(frames.cosine())[0].figure,
        plots.ledger(frames.ledger())[0].figure,
        plots.spectrum(frames.spectrum(32))[0].figure,
        plots.pairs(frames.pairs())[0, 0].figure,
        plots.blocks(frames.weights(), 2, 2)[0].figure,
    ]
    assert dict(mpl.rcParams) == before
    for fig in drawn:
        assert fig.get_figwidth() <= 7
        assert fig.get_figheight() <= 7
        fig.draw_without_rendering()
        box = fig.get_tightbbox()
        assert box.x0 > -0.05
        assert box.x1 < fig.get_figwidth() + 0.05  # nothing is cut off at the edges


def test_the_legend_covers_no_panel():
    for fig in (plots.loss(frames.history()).figure, plots.ledger(frames.ledger())[0].figure):
        fig.draw_without_rendering()
        box = fig.legends[0].get_window_extent()
        assert all(ax.get_tightbbox().y0 >= box.y1 - 1 for ax in fig.axes)


@pytest.mark.parametrize(
    ("tensor", "part", "kind"),
    [
        (frames.UP, "", "up-projection"),
        ("model.decoder.layers.0.fc1.weight", None, "up-projection"),
        ("model.layers.0.mlp.gate_up_proj.weight", "up", "up-projection"),
        ("model.layers.0.mlp.gate_up_proj.weight", "gate", "gate-projection"),
        ("transformer.h.0.mlp.c_proj.weight", "", "down-projection"),
        ("transformer.h.0.attn.c_proj.weight", "", "attention output"),
        ("gpt_neox.layers.0.attention.dense.weight", "", "attention output"),
        (frames.QKV, "q", "QKV"),
        ("model.layers.0.self_attn.q_norm.weight", "", "norm"),
        ("model.decoder.layers.0.self_attn_layer_norm.bias", "", "norm"),
        ("model.decoder.embed_positions.weight", "", "positions"),
        ("lm_head.weight", "", "unembedding"),
        ("gpt_neox.embed_in.weight", "", "embedding"),
        ("something.else", "", "other"),
    ],
)
def test_kinds_of_weights(tensor, part, kind):
    assert plots.kind(tensor, part) == kind


def test_labels_are_moved_no_further_than_needed():
    ends = {"a": 3.0, "b": 2.0, "c": 2.001, "d": 2.002, "e": 1.0}
    rows = [{"run": n, "tokens": x, "loss": (4, y)[x]} for n, y in ends.items() for x in (0, 1)]
    _, ax = plt.subplots()
    plots.loss(pd.DataFrame(rows).assign(split="heldout"), reference=None, ax=ax)
    ax.figure.draw_without_rendering()
    boxes = {text.get_text()[0]: Text.get_window_extent(text) for text in ax.texts}
    middle = {n: (box.y0 + box.y1) / 2 for n, box in boxes.items()}
    wanted = {n: ax.transData.transform((1, y))[1] for n, y in ends.items()}
    moved = {n: middle[n] - wanted[n] for n in ends}
    near = sorted(moved[n] for n in "bcd")
    assert [moved["a"], near[1], moved["e"]] == pytest.approx([0, 0, 0], abs=2)  # pixels
    assert near[2] == pytest.approx(-near[0], abs=2)
    heights = sorted(boxes[n].y0 for n in "bcd")
    assert np.diff(heights).min() > 0.9 * boxes["b"].height


def test_loss_by_flops_compares_at_equal_compute():
    rows = {"run": ["a"] * 3 + ["source"] * 3, "split": "heldout", "step": [0, 1, 2] * 2}
    history = pd.DataFrame(rows | {"flops": [0, 4, 8, 0, 2, 6], "loss": [3, 2, 1, 3, 2.0, 1.0]})
    *_, gap = plots.loss(history, x="flops").figure.axes
    drawn = line(gap, "a")
    assert drawn.get_xdata().tolist() == [0, 4]  # the source was not trained to 8
    assert drawn.get_ydata().tolist() == [0, 0.5]
    with pytest.raises(HcvizError, match="did not log it"):
        plots.loss(history.assign(flops=np.nan), x="flops")


def test_loss_marks_where_a_token_begins_to_cost_more():
    rows = {"run": ["a"] * 4 + ["b"] * 4, "split": "heldout", "step": [0, 1, 2, 3] * 2}
    rows |= {"tokens": [0, 8, 16, 24] * 2, "flops": [0, 2, 4, 12, 0, 2, 4, 6]}
    ax = plots.loss(pd.DataFrame(rows | {"loss": [4, 3, 2, 1] * 2}), x="flops")
    marks = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "D"]
    assert marks == [[[4.0, 2.0]]]


def test_loss_of_seeds_is_averaged_step_by_step_also_where_x_differs():
    rows = {"run": "a", "split": "heldout", "step": [0, 1, 0, 1], "seconds": [0.0, 2.0, 0.0, 4.0]}
    ax = plots.loss(pd.DataFrame(rows | {"loss": [4.0, 2.0, 4.0, 3.0]}), x="seconds")
    assert line(ax, "a").get_xdata().tolist() == [0, 3]
    assert line(ax, "a").get_ydata().tolist() == [4, 2.5]

"""Figures of single weights: spectra, evolution, ranks, histograms; and animations.

Those of `_spectra`, `_evolution`, `_histograms`, `_heatmaps`, `_slices` and `_animate`.
"""

import itertools
import sys

import frames
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.statistics import marchenko


def line(ax, label):
    """The one line of a label."""
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def heads(axes):
    return [ax.get_title(loc="left") for ax in axes]


def law():
    """The edges of the random law for every weight of the made-up spectra."""
    spectra = frames.spectrum(size=64)
    one = spectra[["run", "step", "tensor", "layer", "part"]].drop_duplicates()
    ends = [
        one.assign(metric="marchenko_pastur", axis=a, value=v)
        for a, v in (("low", 2.0), ("high", 9.0))
    ]
    return pd.concat([spectra, *ends], ignore_index=True)


def test_spectrum_draws_the_random_law_of_an_arm_over_its_largest_value():
    frame = law()
    ax = plots.spectrum(frame, random="random init")[0]
    drawn = line(ax, "_random")
    rows = frame[(frame["metric"] == "spectrum") & (frame["tensor"] == frames.UP.format(0))]
    top = rows[(rows["run"] == "random init") & (rows["step"] == 120)]["value"].max()
    np.testing.assert_allclose(drawn.get_ydata(), marchenko.expected(64, 2.0, 9.0) / top)
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert "random entries, as large as random init's" in names
    assert line(ax, "_edge").get_linestyle() == "--"  # the floor under which all is zero
    with pytest.raises(HcvizError, match="No arm nobody here; there are symmetric"):
        plots.spectrum(frame, random="nobody")
    with pytest.raises(HcvizError, match="marchenko_pastur"):
        plots.spectrum(frames.spectrum(32), random="random init")


def test_the_legend_of_many_words_stays_inside_the_figure():
    frame = law()
    for arms in (["symmetric", "random init"], list(frame["run"].unique())):
        fig = plots.spectrum(frame[frame["run"].isin(arms)], random="random init")[0].figure
        fig.draw_without_rendering()
        box = fig.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= fig.bbox.width


def test_spectrum_keeps_its_axis_from_step_to_step_and_names_the_steps():
    frame = frames.spectrum(size=64)
    pair, same = (plots.spectrum(frame, steps=steps) for steps in ((0, 120), (0, 0)))
    assert pair[0].get_ylim() == same[0].get_ylim()
    names = [text.get_text() for text in pair[0].figure.legends[0].get_texts()]
    assert names[-2:] == ["thin: step 0", "thick: step 120"]


def test_evolution_has_a_panel_per_metric_with_means_and_single_weights():
    frame = frames.evolution()
    axes = plots.evolution(frame)
    assert heads(axes) == [
        "distance from the start", "angle to the start", "turn since the snapshot before",
        "update / weight", "effective rank", "numerical rank",
    ]  # fmt: skip
    rows = frame[(frame["metric"] == "distance") & (frame["run"] == "noisy 10 dB")]
    rows = rows[~rows["tensor"].str.endswith("bias")]
    drawn = line(axes[0], "noisy 10 dB").get_ydata()
    np.testing.assert_allclose(drawn, rows.groupby("step")["value"].mean())
    assert sum(one.get_label() == "_thin" for one in axes[0].lines) == 2 * 4
    assert axes[3].get_yscale() == "log"
    assert axes[1].get_ylabel() == "degrees"
    assert axes[0].figure.legends


def test_equal_lines_show_the_markers_of_both():
    frame = frames.evolution()
    ax = plots.rank(frame, metrics="rank")[0]
    np.testing.assert_array_equal(
        line(ax, "symmetric").get_ydata(), line(ax, "noisy 10 dB").get_ydata()
    )
    assert line(ax, "symmetric").get_markevery()[0] != line(ax, "noisy 10 dB").get_markevery()[0]


def test_one_panel_has_its_names_at_the_ends_and_no_legend():
    ax = plots.evolution(frames.evolution(), metrics="distance")[0]
    assert {text.get_text() for text in ax.texts} == {"symmetric", "noisy 10 dB"}
    assert not ax.figure.legends
    assert ax.get_legend() is None


def test_the_power_law_has_the_source_s_exponent_as_a_level():
    rows = {"run": "symmetric", "step": [0, 9], "tensor": "fc1", "axis": None}
    frame = pd.DataFrame(rows | {"metric": "power_law", "value": [2.0, 2.5]})
    error = pd.DataFrame(rows | {"metric": "power_law", "axis": "error", "value": 0.1})
    source = pd.DataFrame(rows | {"metric": "power_law.source", "value": 2.0})
    ax = plots.power_law(pd.concat([frame, error, source]))
    np.testing.assert_array_equal(line(ax, "symmetric").get_ydata(), [2.0, 2.5])
    assert line(ax, "_source").get_ydata()[0] == 2.0
    assert all(one.get_label() != "_source" for one in plots.power_law(frame).lines)


def test_experts_have_a_thin_line_each_and_a_panel_for_every_number():
    rows = {"run": "a", "step": [0, 9], "tensor": "gate", "metric": "experts"}
    loads = [
        pd.DataFrame(rows | {"axis": "load", "row": row, "value": 0.3 + 0.4 * row})
        for row in (0, 1)
    ]
    even = pd.DataFrame(rows | {"axis": "balance", "row": None, "value": 0.9})
    axes = plots.experts(pd.concat([*loads, even]))
    assert heads(axes) == ["load (mean: even)", "evenness of loads"]
    thin = [one.get_ydata()[0] for one in axes[0].lines if one.get_label() == "_thin"]
    assert sorted(thin) == pytest.approx([0.3, 0.7])


def test_the_loss_slice_has_a_panel_per_arm_and_the_way_between_the_states():
    cells = [(arm, 9, x, y, x * x + y) for arm in "ab" for x in (0.0, 1.0) for y in (0.0, 1, 2)]
    names = ["run", "step", "symmetric", "antisymmetric", "loss"]
    axes = plots.loss_slice(pd.DataFrame(cells, columns=names))
    assert heads(axes) == ["a, step 9", "b, step 9"]
    np.testing.assert_array_equal(line(axes[0], "_way").get_xydata(), [[0, 0], [1, 1]])
    levels = axes[0].collections[0].levels
    assert (levels[0], levels[-1]) == (0, 2)  # what lies beyond the states is above the scale
    with pytest.raises(HcvizError, match="needs the columns symmetric"):
        plots.loss_slice(pd.DataFrame({"run": ["a"], "step": 9}))


def test_evolution_by_layer_takes_one_metric():
    frame = frames.evolution().astype({"layer": "Int64"})
    axes = plots.evolution(frame, metrics="effective_rank", by="layer")
    assert heads(axes) == [f"layer {i}" for i in range(4)]
    drawn = line(axes[3], "symmetric").get_ydata()
    assert drawn[-1] == pytest.approx(100 + 50 * 1.3)
    assert heads(plots.evolution(frame, metrics="distance", by="tensor-kind")) == ["up-projection"]
    with pytest.raises(HcvizError, match="Panels by 'layer' need one metric; choose of distance"):
        plots.evolution(frame, by="layer")


def test_rank_draws_ranks_only_and_says_what_is_missing():
    frame = frames.evolution()
    assert heads(plots.rank(frame)) == ["effective rank", "numerical rank"]
    _, mine = plt.subplots(1, 2)
    assert list(plots.rank(frame, ax=mine)) == list(mine)
    with pytest.raises(HcvizError, match=r"holds none of effective_rank.*hcviz.measure"):
        plots.rank(frames.ledger())
    with pytest.raises(HcvizError, match="No metric norm here; there are distance, turn"):
        plots.evolution(frame, metrics="norm")


def test_histograms_are_ridges_in_the_same_bins_over_the_start():
    frame = frames.histogram()
    axes = plots.histograms(frame, steps=[0, 120])
    assert heads(axes) == ["symmetric", "random init"]
    for ax in axes:
        ridges = {one.get_label(): one for one in ax.patches if one.get_label() != "_start"}
        assert list(ridges) == ["_0", "_120"]
        first, last = (ridges[label].get_data() for label in ridges)
        np.testing.assert_array_equal(first.edges, np.linspace(-4, 4, 9))
        assert (first.baseline, last.baseline) == (0, -1)
        start = [one.get_data()[0] for one in ax.patches if one.get_label() == "_start"]
        np.testing.assert_allclose(start[0], start[1] + 1)
        assert last[0][0] + 1 > first[0][0]  # the tail has grown, and the log shows it
        assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "120"]
    assert "Beyond the bins: 0.01 of" in axes[0].figure.get_supxlabel()
    with pytest.raises(HcvizError, match="No step 5 here"):
        plots.histograms(frame, steps=[5])


def test_histograms_of_a_kind_have_a_panel_per_arm_and_weight():
    frame = frames.histogram()
    second = frame.assign(tensor=frames.UP.format(1))
    axes = plots.histograms(pd.concat([frame, second]), tensors="up-projection")
    assert heads(axes)[1] == "random init\nup-projection, layer 0"
    assert len(axes) == 4


def test_blocks_of_one_step_keep_the_scale_of_all():
    grids = frames.weights()
    (ax,) = plots.blocks(grids, 2, 2, steps=[0])
    assert ax.get_title(loc="left") == "step 0"
    assert ax.images[0].get_clim() == plots.blocks(grids, 2, 2)[0].images[0].get_clim()
    assert ax.images[0].get_clim() != plots.blocks({0: grids[0]}, 2, 2)[0].images[0].get_clim()
    with pytest.raises(HcvizError, match="No step 5 here; there are 0, 12, 120"):
        plots.antisymmetric(grids, 2, 2, steps=[5])


def square(step):
    """A figure of 30 x 20 pixels at 100 dpi in one of four colours."""
    figure = plt.figure(figsize=(0.3, 0.2))
    figure.set_facecolor(["white", "red", "blue", "black"][step])
    return figure


def test_gif_holds_a_frame_per_step_in_its_colours(tmp_path):
    before = dict(mpl.rcParams)
    path = plots.animate(square, range(4), tmp_path / "new" / "colours.gif", fps=5, dpi=100)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert [one.name for one in path.parent.iterdir()] == ["colours.gif"]
    with Image.open(path) as movie:
        assert (movie.n_frames, movie.size, movie.info["duration"]) == (4, (30, 20), 200)
        colours = []
        for i in range(4):
            movie.seek(i)
            colours.append(movie.convert("RGB").getpixel((15, 10)))
    assert colours == [(255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]


def test_page_holds_its_frames_and_asks_for_nothing_else(tmp_path):
    path = plots.animate(square, range(3), tmp_path / "colours.html", dpi=100)
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") == 3
    assert len(set(page.split("data:image/png;base64,"))) == 4


def test_video_asks_for_ffmpeg_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "animation.ffmpeg_path", "/no/ffmpeg")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as where it is not installed
    with pytest.raises(HcvizError, match=r"ffmpeg, which was not found.*\.gif or \.html"):
        plots.animate(square, range(3), tmp_path / "colours.mp4")


def test_video_holds_its_frames(tmp_path, monkeypatch):
    """Written by the ffmpeg of imageio-ffmpeg, where no other is on the path."""
    import imageio_ffmpeg

    monkeypatch.setitem(mpl.rcParams, "animation.ffmpeg_path", "/no/ffmpeg")
    path = plots.animate(square, range(3), tmp_path / "colours.mp4", dpi=100, fps=5)
    frames = imageio_ffmpeg.read_frames(path)
    about = next(frames)
    pixels = [np.frombuffer(f, np.uint8).reshape(20, 30, 3)[10, 15].astype(int) for f in frames]
    assert (about["size"], about["fps"]) == ((30, 20), 5)
    near = [(255, 255, 255), (255, 0, 0), (0, 0, 255)]
    assert np.abs(np.array(pixels) - near).max() < 12, "video rounds colours, and is no other"


def test_animations_that_cannot_be_are_refused(tmp_path):
    sizes = itertools.cycle([(1, 1), (2, 1)])
    with pytest.raises(HcvizError, match=r"ends in \.gif, \.mp4 or \.html"):
        plots.animate(square, range(3), tmp_path / "colours.avi")
    with pytest.raises(HcvizError, match="no step was given"):
        plots.animate(square, [], tmp_path / "colours.gif")
    with pytest.raises(HcvizError, match="frames of one size"):
        plots.animate(lambda _: plt.figure(figsize=next(sizes)), range(2), tmp_path / "a.gif")
    with pytest.raises(HcvizError, match="figure or axes, and got a int"):
        plots.animate(lambda step: step, range(2), tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(HcvizError, match="Choose a writable place"):
        plots.animate(square, range(2), tmp_path / "file" / "a.gif")

"""The picture of explore(): what it reads, draws, shares between arms, and says on hover."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import hcviz
from hcviz.metrics import METRICS
from hcviz.plots.grids import CORNER
from hcviz.views import readings
from hcviz.views.explore import CHOICE


@pytest.mark.parametrize("metric", CHOICE)
def test_a_curve_and_the_map_of_layers_are_what_measure_says(runs, metric):
    names = [f"gpt_neox.layers.{layer}.attention.dense.weight" for layer in (0, 1)]
    of_model = METRICS[metric].of == "model"
    frame = hcviz.measure(runs[2], metrics=[metric], tensors=None if of_model else names)
    rows = frame[(frame["layer"] == 1) & (of_model | (frame["tensor"] == names[1]))]
    lines = readings.curves(runs[2], names[1], metric)
    found = {(axis, step): v for axis, line in lines.items() for step, v in line.items()}
    wanted = rows.assign(axis=rows["axis"].fillna("")).groupby(["axis", "step"])["value"].mean()
    assert found
    assert found == pytest.approx(wanted.to_dict(), nan_ok=True)
    cells = readings.by_layer(runs[2], names, metric)
    assert list(cells) == ["0", "1"]
    wanted = rows.groupby("step")["value"].mean()
    assert cells["1"] == pytest.approx(wanted.to_dict(), nan_ok=True)


def test_the_chosen_metric_is_drawn(view):
    view.metric.value = "norm"
    assert list(view.canvas.lines) == ["loss", "cosine", "ledger", "norm"]
    for run, look, lines in zip(view.shown, view.canvas.looks, view.canvas.curves, strict=True):
        [drawn] = [
            line for line in view.canvas.panels["norm"].lines if line.get_color() == look.color
        ]
        assert dict(zip(*drawn.get_data(), strict=True)) == lines[""]
        assert lines[""] == readings.curves(run, view.tensor.value, "norm")[""]


def test_one_cursor_moves_through_all(view):
    canvas = view.canvas
    for step in canvas.steps:
        view.slider.value = step
        assert {tuple(line.get_xdata()) for line in canvas.cursors} == {(step, step)}
        assert len(canvas.cursors) == len(canvas.panels) == 3
        column = canvas.steps.index(step) - 0.5
        marks = [mark.get_x() for marks in canvas.boxes for mark in marks]
        assert marks == [column] * 4  # a column and a cell for each of two arms
        assert {text.get_text() for text in canvas.steps_said} == {f"step {step:,}"}
        for run, values in zip(view.shown, canvas.spectra, strict=True):
            assert np.array_equal(values.get_ydata(), readings.spectrum(run, canvas.name, step))


def test_the_name_of_the_map_of_layers_keeps_off_its_neighbours(view):
    view.state = "layer=1&tensor=attention.query_key_value&metric=cosine"
    name = view.canvas.bar.xaxis.label.get_window_extent()
    maps = [image.axes for both in view.canvas.maps.values() for image in both]
    for ax in (*view.canvas.panels.values(), *maps, *view.canvas.overviews):
        assert not name.overlaps(ax.get_tightbbox())


def test_arms_share_their_scales_unless_each_is_to_have_its_own(view):
    def ends(row):
        return [images[row].get_clim() for images in view.canvas.maps.values()]

    assert len(set(ends(0))) == len(set(ends(1))) == 1
    maps = [ax.images[0].get_clim() for ax in view.canvas.overviews]
    assert len(set(maps)) == 1
    low = view.canvas.maps[view.shown[0]][1].axes
    assert "one scale" in low.get_ylabel()
    view.own.value = True
    assert len(set(ends(0))) == 1
    assert len(set(ends(1))) == 2
    assert "own scales" in view.canvas.maps[view.shown[0]][1].axes.get_ylabel()


def test_a_locked_weight_shows_nothing_that_sets_its_copies_apart(view):
    view.layer.value = "0"
    view.tensor.value = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    (_, plain), (_, noisy) = view.canvas.maps.values()
    assert not np.asarray(plain.get_array()).any()
    assert plain.axes.get_title() == "locked"
    assert np.asarray(noisy.get_array()).any()


def test_spectrum_is_that_of_the_matrix(view):
    run, name = view.shown[1], view.tensor.value
    values = torch.linalg.svdvals(run.tensor(name, 3).double())
    # a Gram matrix in float64 is good to sqrt(2e-16), 1.5e-8 of the largest
    assert readings.spectrum(run, name, 3) == pytest.approx(
        (values / values[0]).clamp_min(readings.FLOOR).numpy(), abs=2e-8
    )


def test_a_large_matrix_shows_the_top_of_its_spectrum():
    class Large:
        """A run of one diagonal matrix, whose singular values are known."""

        values = torch.logspace(0, -9, readings.LARGE + 1)
        steps = (0,)

        def stored(self, step):
            return ["weight"]

        def tensor(self, name, step):
            return torch.diag(self.values.flip(0))

    top = readings.spectrum(Large(), "weight", 0)
    assert len(top) == readings.TOP < readings.LARGE
    assert top[:4] == pytest.approx(Large.values[:4].numpy(), rel=0.02)


def test_hover_tells_the_copies_of_an_entry(view):
    view.slider.value = 3
    drawing = ElementTree.fromstring(view.overlay.drawing)
    groups = list(drawing.iter("g"))
    assert len(groups) == len(view.shown)
    grid = view.runs["noisy"].blocks(view.tensor.value, 3)
    corner = [min(size, CORNER) for size in grid.shape[2:]]
    titles = [title.text for title in groups[1].iter("title")]
    assert len(titles) == corner[0] * corner[1]
    row, col = 2, 5
    said = titles[row * corner[1] + col].split(":\n")
    assert said[0] == "row 2, column 5 of each copy"
    found = [[float(word) for word in line.split()] for line in said[1].splitlines()]
    assert np.allclose(found, grid[:, :, row, col], atol=6e-6)  # five digits
    uses = [use for use in drawing.iter("use") if use.get("href") == f"#{groups[1].get('id')}"]
    assert len(uses) == 2 * grid.shape[0] * grid.shape[1]

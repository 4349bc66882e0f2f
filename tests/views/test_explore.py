"""The slider view: what it offers, and that a move changes the picture."""

import io
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

import hcviz
from hcviz.errors import HcvizError
from hcviz.plots.grids import CORNER
from hcviz.views import canvas
from hcviz.views import explore as exploring

NORM = "gpt_neox.final_layer_norm.weight"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    corpus = tiny.write_text(folder)
    small = tiny.model("gpt_neox", hidden_size=32)
    starts = {"source": small, "plain": hcviz.clone(small)}
    starts["noisy"] = hcviz.clone(small, expansion="noisy-symmetric")
    return [
        hcviz.train(
            model,
            out=folder / name,
            corpus=corpus,
            tokenizer=tiny.tokenizer(),
            steps=3,
            snapshots=3,
            batch_size=2,
            context=16,
            eval_blocks=2,
            lr=1e-2,
            progress=False,
        )
        for name, model in starts.items()
    ]


@pytest.fixture
def view(runs):
    return hcviz.explore(runs)


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.picture.value)).convert("RGB"), dtype=int)


def choices(dropdown):
    return [value for _, value in dropdown.options]


def test_it_offers_the_clones_their_layers_and_matrices(view):
    assert list(view.arms) == ["plain", "noisy"]
    assert choices(view.layer) == ["none", "0", "1"]
    assert "lm_head.weight" in choices(view.tensor)
    assert not [name for name in view.names if "norm" in name or "bias" in name]
    assert choices(view.slider) == view.runs["plain"].steps


def test_a_layer_offers_its_own_tensors_and_keeps_the_kind(view):
    view.layer.value = "0"
    view.tensor.value = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"
    view.layer.value = "1"
    assert view.tensor.value == "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    assert all(".1." in name for name in choices(view.tensor))
    assert ("mlp.dense_4h_to_h", view.tensor.value) in view.tensor.options


def test_moving_the_slider_changes_the_picture_and_back_restores_it(view):
    view.slider.value = 0
    first = pixels(view)
    view.slider.value = 3
    assert np.abs(pixels(view) - first).sum() > 0
    view.slider.value = 0
    assert np.array_equal(pixels(view), first)


def test_playing_moves_the_slider_and_the_slider_the_play(view):
    view.slider.value = 0
    view.play.value = 2
    assert view.slider.value == view.canvas.steps[2]
    view.slider.value = view.canvas.steps[1]
    assert view.play.value == 1
    assert view.play.max == len(view.canvas.steps) - 1


def test_choosing_keeps_tensor_and_step(view):
    view.slider.value = 0
    view.tensor.value = "lm_head.weight"
    before = pixels(view)
    view.arms["plain"].value = False
    assert [run.name for run in view.shown] == ["noisy"]
    assert view.tensor.value == "lm_head.weight"
    assert view.slider.value == 0
    assert pixels(view).shape[1] < before.shape[1]
    view.arms["noisy"].value = False
    assert [run.name for run in view.shown] == ["plain"]


def test_a_locked_weight_shows_nothing_that_sets_its_copies_apart(view):
    view.layer.value = "0"
    view.tensor.value = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    (_, plain), (_, noisy) = view.canvas.maps
    assert not np.asarray(plain.get_array()).any()
    assert plain.axes.get_title() == "apart: locked"
    assert np.asarray(noisy.get_array()).any()


@pytest.mark.parametrize("metric", exploring.CHOICE)
def test_the_curve_is_what_measure_says(view, metric):
    view.metric.value = metric
    frame = hcviz.measure(
        view.shown, metrics=[metric], tensors=[f"^{view.tensor.value}$"], progress=False
    )
    for run, lines in zip(view.shown, view.canvas.curves, strict=True):
        rows = frame[frame["run"] == run.name]
        found = {(axis, step): v for axis, line in lines.items() for step, v in line.items()}
        wanted = rows.assign(axis=rows["axis"].fillna("")).groupby(["axis", "step"])["value"].mean()
        assert found == pytest.approx(wanted.to_dict(), nan_ok=True)
        assert found


def test_spectrum_is_that_of_the_matrix(view):
    run, name = view.shown[1], view.tensor.value
    values = torch.linalg.svdvals(run.tensor(name, 3).double())
    # a Gram matrix in float64 is good to sqrt(2e-16), 1.5e-8 of the largest
    assert canvas.spectrum(run, name, 3) == pytest.approx(
        (values / values[0]).clamp_min(canvas.FLOOR).numpy(), abs=2e-8
    )


def test_a_large_matrix_shows_the_top_of_its_spectrum():
    class Large:
        """A run of one diagonal matrix, whose singular values are known."""

        values = torch.logspace(0, -9, canvas.LARGE + 1)
        steps = (0,)

        def stored(self, step):
            return ["weight"]

        def tensor(self, name, step):
            return torch.diag(self.values.flip(0))

    top = canvas.spectrum(Large(), "weight", 0)
    assert len(top) == canvas.TOP < canvas.LARGE
    assert top[:4] == pytest.approx(Large.values[:4].numpy(), rel=0.02)


def test_hover_tells_the_copies_of_an_entry(view):
    view.slider.value = 3
    drawing = ElementTree.fromstring(view.hover.value)
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


def test_only_the_tensors_on_show_are_read(runs, monkeypatch):
    read = set()
    tensor = hcviz.Run.tensor
    monkeypatch.setattr(
        hcviz.Run, "tensor", lambda run, name, step=None: read.add(name) or tensor(run, name, step)
    )
    view = hcviz.explore([hcviz.Run(run.path) for run in runs])
    view.slider.value = 0
    assert read == {view.tensor.value}


def test_frames_are_the_pictures_of_every_step(view):
    frames = view.frames(most=2)
    assert next(iter(frames)) == view.tensor.value
    assert len(frames) == 2
    for number, step in enumerate(view.canvas.steps):
        view.slider.value = step
        baked = Image.open(io.BytesIO(frames[view.tensor.value][number])).convert("RGB")
        # 128 colours for the whole picture, and the losses of JPEG: a few levels of 256
        assert np.abs(np.asarray(baked, dtype=int) - pixels(view)).mean() < 4


def test_arms_without_a_common_matrix_are_refused(runs, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(runs[1].path, kept)
    for step in runs[1].steps:
        weights = {NORM: runs[1].tensor(NORM, step)}
        save_file(weights, kept / f"checkpoint-{step}" / "model.safetensors", {"format": "pt"})
    with pytest.raises(HcvizError, match=r"No matrix .* plain"):
        hcviz.explore(kept)


def test_without_a_clone_there_is_nothing_to_explore(runs):
    with pytest.raises(HcvizError, match="source"):
        hcviz.explore(runs[0])


def test_a_run_that_goes_on_is_looked_at_again(runs, tmp_path):
    """The same run, shown before and after: its new snapshots, and what lies in the old places."""
    run = hcviz.Run(shutil.copytree(runs[2].path, tmp_path / "noisy"))
    before = hcviz.explore([run])
    name, steps = before.tensor.value, before.canvas.steps
    first = canvas.corners(run, name, steps[0])
    shutil.copytree(run.path / f"checkpoint-{steps[-1]}", run.path / "checkpoint-7")
    shutil.copy(
        run.path / f"checkpoint-{steps[-1]}" / "model.safetensors",
        run.path / f"checkpoint-{steps[0]}" / "model.safetensors",
    )
    after = hcviz.explore([run])
    assert after.canvas.steps == [*steps, 7]
    assert not np.array_equal(canvas.corners(run, name, steps[0]), first)

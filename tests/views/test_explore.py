"""The slider view: what it offers, and that a move changes the picture."""

import html
import io
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

import hcviz
from hcviz.errors import HcvizError
from hcviz.views import explore as exploring
from hcviz.views import readings

NORM = "gpt_neox.final_layer_norm.weight"


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.picture.value)).convert("RGB"), dtype=int)


def choices(dropdown):
    return [value for _, value in dropdown.options]


def test_it_offers_the_clones_their_layers_and_matrices(view):
    assert list(view.arms) == ["plain", "noisy"]
    assert choices(view.layer) == ["none", "0", "1"]
    assert view.layer.value == "0"
    view.layer.value = "none"
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
    view.layer.value = "none"
    view.tensor.value = "lm_head.weight"
    before = pixels(view)
    view.arms["plain"].value = False
    assert [run.name for run in view.shown] == ["noisy"]
    assert view.tensor.value == "lm_head.weight"
    assert view.slider.value == 0
    assert pixels(view).shape[1] < before.shape[1]
    view.arms["noisy"].value = False
    assert [run.name for run in view.shown] == ["plain"]


def where(view, ax, x, y):
    """Return the place in the picture of a point in axes, as the browser sends it."""
    wide, tall = view.canvas.size
    across, up = ax.transData.transform((x, y))
    return {"x": across / wide, "y": 1 - up / tall}


def test_a_click_in_the_map_opens_that_layer_and_step(view):
    kind = readings.tail(view.tensor.value)
    send = view.overlay._handle_custom_msg
    send(where(view, view.canvas.overviews[1], 1.3, 0.8), [])
    assert (view.layer.value, view.slider.value) == ("1", view.canvas.steps[1])
    assert readings.tail(view.tensor.value) == kind
    before = view.canvas
    send(where(view, before.overviews[0], 0, 1), [])
    assert view.slider.value == before.steps[0]
    assert view.canvas is before  # the layer is the same: only the cursor moves
    send(where(view, before.panels["cosine"], 2.9, 0.99), [])
    assert view.slider.value == 3
    send({"x": 0.001, "y": 0.999}, [])
    assert (view.layer.value, view.slider.value) == ("1", 3)


def test_arrow_keys_move_step_and_layer(view):
    view.state = f"layer=0&step={view.canvas.steps[0]}"
    for key, wanted in (
        ("Right", ("0", 1)),
        ("Down", ("1", 1)),
        ("Up", ("0", 1)),
        ("Left", ("0", 0)),
    ):
        view.overlay._handle_custom_msg({"key": key}, [])
        assert (view.layer.value, view.canvas.steps.index(view.slider.value)) == wanted
    view.overlay._handle_custom_msg({"key": "Left"}, [])
    assert view.slider.value == view.canvas.steps[0]


def test_a_bookmark_opens_what_was_shown(runs, view):
    view.arms["plain"].value = False
    view.layer.value = "1"
    view.tensor.value = "gpt_neox.layers.1.attention.dense.weight"
    view.metric.value = "norm"
    view.own.value = True
    view.slider.value = 1
    assert view.bookmark.value == view.state
    again = hcviz.explore(runs, state=view.state)
    assert again.state == view.state
    assert np.array_equal(pixels(again), pixels(view))
    again.bookmark.value = "arm=plain&step=3&metric=cosine.rows"  # the rest stays
    assert [run.name for run in again.shown] == ["plain"]
    assert again.tensor.value == view.tensor.value
    assert (again.slider.value, again.metric.value) == (3, "cosine.rows")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("layer=7", r"no layer '7'.* none, 0, 1"),
        ("step=2000", "no step '2000'"),
        ("arm=nobody", "no arm 'nobody'.* plain, noisy"),
        ("metric=cosign", "cosign"),
        ("colour=red", "bookmark 'colour=red'.* entry 'colour'"),
        ("whatever", "bookmark 'whatever' cannot be read"),
    ],
)
def test_a_bookmark_of_what_is_not_there_changes_nothing(view, state, said):
    before = view.state
    with pytest.raises(HcvizError, match=said):
        view.state = state
    assert view.state == view.bookmark.value == before


def test_a_bookmark_that_is_typed_wrong_is_said_and_taken_back(view):
    before = view.state
    view.bookmark.value = "layer=7"
    assert "no layer '7'" in html.unescape(view.said.value)
    assert view.state == view.bookmark.value == before
    view.slider.value = view.canvas.steps[0]
    assert view.said.value == ""


def test_what_is_shown_is_saved_with_data_and_command(view, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view.slider.value = 1
    view.metric.value = "norm"
    view.button.click()
    paths = {end: Path(f"figures/explore.{end}") for end in ("png", "svg", "csv", "json")}
    first = {end: path.read_bytes() for end, path in paths.items()}
    assert "figures/explore.svg" in view.said.value
    frame = pd.read_csv(paths["csv"])
    assert set(frame["metric"]) >= {"loss", "cosine", "ledger", "norm"}
    last = frame[frame["metric"].str.startswith("weight")].iloc[-1]
    grid = readings.corners(view.shown[-1], view.tensor.value, 1)
    assert (last["step"], last["value"]) == (1, pytest.approx(grid[-1, -1, -1, -1]))
    for path in paths.values():
        path.unlink()
    python, flag, code = shlex.split(json.loads(first["json"])["command"])
    assert (python, flag) == ("python", "-c")
    exec(code)
    assert {end: path.read_bytes() for end, path in paths.items()} == first
    before = pixels(view)
    view.slider.value = 3
    view.slider.value = 1
    assert np.array_equal(pixels(view), before)  # the saving left the picture as it was


@pytest.fixture(scope="module")
def recorded():
    return hcviz.explore(hcviz.recorded("demo").runs)


def test_a_recording_has_all_layers_and_says_which_weights_were_not_kept(recorded):
    assert choices(recorded.layer) == ["none", "0", "1", "2", "3"]
    assert (recorded.layer.value, recorded.tensor.label) == ("2", "attention.dense")
    assert len(recorded.canvas.maps) == 3
    frame = hcviz.recorded("demo").metric("cosine")
    name = "gpt_neox.layers.0.attention.dense.weight"
    values = frame[(frame["tensor"] == name) & (frame["run"] == "noisy 10 dB")]["value"]
    assert np.allclose(recorded.canvas.overviews[1].images[0].get_array()[0], values)
    recorded.layer.value = "0"
    assert not recorded.canvas.maps
    assert {text.get_text() for ax in recorded.canvas.figure.axes for text in ax.texts} >= {
        "weight not kept"
    }
    assert recorded.canvas.curves[1][""][1200] == values.iloc[-1]


def test_what_cannot_be_measured_is_said_and_the_metric_stays(recorded):
    recorded.state = "layer=2&metric=cosine"
    recorded.metric.value = "heads"
    assert "need a whole model" in recorded.said.value
    assert recorded.metric.value == "cosine"


def test_a_large_kind_of_weights_is_mapped_when_it_is_asked(runs, monkeypatch):
    monkeypatch.setattr(exploring, "SMALL", 100)
    view = hcviz.explore(runs)
    assert not view.mapped.value
    assert not view.canvas.layers
    assert view.overlay._handle_custom_msg(where(view, view.canvas.overviews[0], 0, 0), []) is None
    view.mapped.value = True
    assert len(view.canvas.layers) == 2


def test_only_the_tensors_on_show_are_read(runs, monkeypatch):
    read = set()
    tensor = hcviz.Run.tensor
    monkeypatch.setattr(
        hcviz.Run, "tensor", lambda run, name, step=None: read.add(name) or tensor(run, name, step)
    )
    view = hcviz.explore([hcviz.Run(run.path) for run in runs])
    view.slider.value = 0
    kind = {view.tensor.value, view.tensor.value.replace(".0.", ".1.")}
    assert {view.tensor.value} <= read <= kind  # what was measured before is not read again


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


def test_two_runs_of_one_name_do_not_hide_each_other(runs, tmp_path):
    again = shutil.copytree(runs[1].path, tmp_path / "again" / runs[1].path.name)
    with pytest.raises(HcvizError, match=r"have one name.*Run\.of\(.*again"):
        hcviz.explore([*runs, again])
    named = hcviz.Run.of(again, label="plain, again")
    assert list(hcviz.explore([*runs, named]).runs) == ["plain", "noisy", "plain, again"]


def test_a_run_that_goes_on_is_looked_at_again(runs, tmp_path):
    """The same run, shown before and after: its new snapshots, and what lies in the old places."""
    run = hcviz.Run(shutil.copytree(runs[2].path, tmp_path / "noisy"))
    before = hcviz.explore([run])
    name, steps = before.tensor.value, before.canvas.steps
    first = readings.corners(run, name, steps[0])
    shutil.copytree(run.path / f"checkpoint-{steps[-1]}", run.path / "checkpoint-7")
    shutil.copy(
        run.path / f"checkpoint-{steps[-1]}" / "model.safetensors",
        run.path / f"checkpoint-{steps[0]}" / "model.safetensors",
    )
    after = hcviz.explore([run])
    assert after.canvas.steps == [*steps, 7]
    assert not np.array_equal(readings.corners(run, name, steps[0]), first)

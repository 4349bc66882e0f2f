"""Where heads and their copies look in a sentence, as explore() shows it under its cursor."""

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import hcviz
from hcviz.errors import HcvizError
from hcviz.metrics import patterns
from hcviz.views import readings

TEXT = "And God said, Let there be light."
SAID = f"text={TEXT.replace(' ', '+')}"
STATE = f"arm=plain&arm=noisy&layer=1&step=3&scale=one&{SAID}&head=furthest+apart"


@pytest.fixture(scope="module")
def built(runs):
    return hcviz.explore(runs, state=STATE)


@pytest.fixture
def view(built):
    built.state = STATE
    return built


@pytest.fixture
def passes(monkeypatch):
    """The steps of the models that are loaded from now on; nothing is remembered from before."""
    loaded, load = [], hcviz.Run.model
    monkeypatch.setattr(
        hcviz.Run, "model", lambda run, step=None: loaded.append(step) or load(run, step)
    )
    readings.attention.cache_clear()
    return loaded


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.heads.image.value)).convert("RGB"), dtype=int)


def shown(view):
    """Return title -> values of the panels."""
    return [
        (ax.get_title(loc="left"), np.asarray(ax.images[0].get_array())) for ax in view.heads.axes
    ]


def test_layer_and_step_follow_the_one_cursor(runs, view):
    for layer, step in (("1", 3), ("1", 0), ("0", 3)):
        view.layer.value, view.slider.value = layer, step
        panels = shown(view)
        assert [title for title, _ in panels[1::3]] == ["its copy"] * 2
        head = int(panels[0][0].removeprefix("plain: head "))
        for run, [(_, first), (_, twin), (_, apart)] in zip(
            runs[1:], (panels[:3], panels[3:]), strict=True
        ):
            frame = patterns(run, TEXT, step=step, tensors=f"layers.{layer}")
            rows = frame[frame["head"] == head].sort_values(["query", "key"])
            size = (-1, len(frame["query_token"].unique()))
            for copy, drawn in ((0, first), (1, twin)):
                values = rows.loc[rows["copy"] == copy, "value"].to_numpy().reshape(size)
                np.testing.assert_allclose(drawn, values, atol=1e-6)
            np.testing.assert_allclose(apart, twin - first)
        assert f"layer {layer}, step {step}" in {one.get_text() for one in view.heads.axes[2].texts}


def test_a_move_changes_the_picture_and_back_restores_it(view):
    last = pixels(view)
    view.slider.value = 0
    assert np.abs(pixels(view) - last).sum() > 0
    view.heads.overlay._handle_custom_msg({"key": "Right"}, [])
    assert view.slider.value == view.canvas.steps[1]
    view.heads.overlay._handle_custom_msg({"x": 0.1, "y": 0.1}, [])  # a click says nothing
    view.slider.value = 3
    assert np.array_equal(pixels(view), last)


def test_models_are_read_only_while_it_is_open_and_once(runs, passes):
    view = hcviz.explore(runs, state="layer=1&step=3")
    view.slider.value = 0
    assert not passes
    assert view.heads.stack.layout.display == view.heads.text.layout.display == "none"
    view.heads.opened.value = True
    assert passes == [0, 0]  # of two arms
    view.slider.value = 3
    view.layer.value = "0"  # the same pass tells of all layers
    view.slider.value = 0
    view.heads.head.value = "1"
    assert passes == [0, 0, 3, 3]
    view.heads.text.value = TEXT
    assert passes == [0, 0, 3, 3, 0, 0]
    view.heads.opened.value = False
    view.slider.value = 1
    assert len(passes) == 6
    assert readings.attention.cache_info().maxsize


def test_the_bookmark_opens_it_again_and_closes_it(runs, view):
    view.heads.head.value = "2"
    view.heads.text.value = "Let us make man & woman."
    again = hcviz.explore(runs, state=view.state)
    assert again.state == view.state
    assert np.array_equal(pixels(again), pixels(view))
    assert shown(again)[0][0] == "plain: head 2"
    closed = hcviz.explore(runs).state
    again.bookmark.value = closed
    assert not again.heads.opened.value
    assert again.state == closed
    before = view.state
    with pytest.raises(HcvizError, match="no head '9' here; there are furthest apart, 0, 1, 2, 3"):
        view.state = "head=9"
    assert view.state == view.bookmark.value == before


def test_arms_share_their_head_and_their_scale(view):
    def ends():
        return [ax.images[0].get_clim() for ax in view.heads.axes]

    assert ends() == [(-1, 1)] * 6
    assert shown(view)[3][0].removeprefix("noisy") == shown(view)[0][0].removeprefix("plain")
    view.own.value = True
    far = np.abs(shown(view)[5][1]).max()
    assert 0 < far < 1
    assert ends() == [(-1, 1)] * 5 + [(-far, far)]  # the locked arm has nothing to scale
    assert "own scales" in view.heads.axes[2].texts[0].get_text()


def test_it_is_saved_with_data_and_command(view, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = pixels(view)
    paths = view.save("seen")
    assert [*paths][4:] == ["heads.png", "heads.svg", "heads.csv", "heads.json"]
    first = {key: path.read_bytes() for key, path in paths.items()}
    frame = pd.read_csv("seen-heads.csv")
    assert set(frame["run"]) == {"plain", "noisy"}
    assert (set(frame["layer"]), set(frame["step"])) == ({1}, {3})
    assert "".join(frame["query_token"].unique()) == TEXT
    for path in paths.values():
        path.unlink()
    exec(shlex.split(json.loads(first["heads.json"])["command"])[2])
    assert {key: path.read_bytes() for key, path in paths.items()} == first
    view.slider.value = 0
    view.slider.value = 3
    assert np.array_equal(pixels(view), before)  # the saving left the picture as it was
    view.heads.opened.value = False
    view.save("closed")
    assert not Path("closed-heads.png").exists()


def test_what_an_arm_lacks_is_said_in_its_place(runs, tmp_path):
    places = {"wordless": tiny.model("gpt_neox", vocab_size=100), "single": tiny.model("gpt_neox")}
    for name, small in places.items():
        wide = hcviz.clone(small, hidden=1 if name == "single" else 2, ffn=2)
        wide.save_pretrained(tmp_path / name / "checkpoint-0")
    lacking = [hcviz.Run(tmp_path / name) for name in places]
    view = hcviz.explore([runs[1], *lacking], state="arm=plain&arm=wordless&layer=1&text=Let+it+be")
    assert "No heads of wordless: No tokenizer was found" in view.heads.said.value
    assert shown(view)[0][0].startswith("head ")  # of the arm that has them
    view.state = "arm=single"
    assert "No heads of single: Its heads have no copies" in view.heads.said.value
    assert view.heads.stack.layout.display == "none"
    view.state = "arm=plain&text=In"
    assert "1 tokens" in view.heads.said.value
    view.heads.text.value = TEXT
    assert not view.heads.said.value
    assert view.heads.stack.layout.display == "grid"


def test_a_model_without_attention_is_said(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 2048, "state_size": 4}
    small = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **sizes))
    hcviz.clone(small).save_pretrained(tmp_path / "mamba" / "checkpoint-0")
    view = hcviz.explore(tmp_path / "mamba", state="text=Let+it+be")
    assert "MambaForCausalLM returns 0 attention patterns" in view.heads.said.value


def test_a_recording_without_whole_models_says_so():
    view = hcviz.explore(hcviz.recorded("demo").runs, state=SAID)
    assert view.heads.said.value.count("not a whole model") == len(view.shown)

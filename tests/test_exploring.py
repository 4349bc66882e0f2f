"""The slider view: what it offers, and that a move changes the picture."""

import io

import numpy as np
import pytest
import tiny
from PIL import Image

import hcviz
from hcviz.errors import HcvizError


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


def test_it_offers_the_clones_and_their_matrices(view):
    assert list(view.arm.options) == ["plain", "noisy"]
    assert "lm_head.weight" in view.tensor.options
    assert not [name for name in view.tensor.options if "norm" in name or "bias" in name]
    assert list(view.slider.options) == view.run.steps


def test_moving_the_slider_changes_the_picture_and_back_restores_it(view):
    view.slider.value = 0
    first = pixels(view)
    view.slider.value = 3
    assert np.abs(pixels(view) - first).sum() > 0
    view.slider.value = 0
    assert np.array_equal(pixels(view), first)


def test_playing_moves_the_slider(view):
    view.slider.value = 0
    view.play.value = 2
    assert view.slider.value == view.run.steps[2]


def test_choosing_keeps_tensor_and_step(view):
    view.slider.value = 0
    view.tensor.value = "lm_head.weight"
    before = pixels(view)
    view.arm.value = "noisy"
    assert view.tensor.value == "lm_head.weight"
    assert view.slider.value == 0
    assert np.abs(pixels(view) - before).sum() > 0


def test_a_locked_weight_shows_nothing_that_sets_its_copies_apart(view):
    view.tensor.value = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    apart = np.asarray(view.canvas.images[1].get_array())
    assert not apart.any()
    view.arm.value = "noisy"
    assert np.asarray(view.canvas.images[1].get_array()).any()


def test_without_a_clone_there_is_nothing_to_explore(runs):
    with pytest.raises(HcvizError, match="source"):
        hcviz.explore(runs[0])

"""hcviz.views: every figure by its name, from a run."""

import pytest
import tiny

import hcviz
from hcviz.errors import HcvizError
from hcviz.metrics import METRICS
from hcviz.views import FRAMES, figure, figure_names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    wide = hcviz.clone(tiny.model(), expansion="noisy-symmetric")
    return hcviz.train(
        wide, out=folder / "wide", corpus=tiny.write_text(folder), tokenizer=tiny.tokenizer(),
        steps=8, snapshots=5, batch_size=2, context=16, eval_blocks=2, lr=1e-2, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in figure_names() if name != "speedup"])
def test_a_figure_is_drawn_by_its_name(run, name):
    if METRICS.get(FRAMES.get(name, [""])[0], METRICS["ledger"]).of == "model":
        pytest.skip("read a text: tests/test_activations.py")
    axes, data = figure([run], name)
    assert len(data)
    drawn = getattr(axes, "flat", [axes])
    assert any(ax.lines or ax.images or ax.collections or ax.patches for ax in drawn)


def test_every_figure_of_metrics_knows_real_metrics():
    assert {name for names in FRAMES.values() for name in names} <= set(METRICS)


def test_one_weight_is_an_up_projection_or_the_one_asked_for(run):
    _, data = figure([run], "pairs")
    assert list(data["tensor"].unique()) == ["model.layers.1.mlp.up_proj.weight"]
    _, data = figure([run], "spectrum", tensors=["0.*o_proj"], steps=[0])
    assert list(data["tensor"].unique()) == ["model.layers.0.self_attn.o_proj.weight"]
    assert set(data["step"]) == {0}


def test_what_cannot_be_drawn_is_said(run):
    with pytest.raises(HcvizError, match=r"no figure 'ledgers'; there are .*ledger"):
        figure([run], "ledgers")
    with pytest.raises(HcvizError, match="No tensor of wide matches"):
        figure([run], "blocks", tensors=["nowhere"])
    with pytest.raises(HcvizError, match="none of the asked"):
        figure([run], "blocks", steps=[99])

"""Every figure by its name, from a run; and watch(), which draws it while runs train."""

import json
import shutil
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import tiny

import hcviz
from hcviz.errors import HcvizError
from hcviz.metrics import METRICS
from hcviz.views.figures import FRAMES, figure, figure_names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    wide = hcviz.clone(tiny.model(), expansion="noisy-symmetric")
    return hcviz.train(
        wide, out=folder / "wide", corpus=tiny.write_text(folder), tokenizer=tiny.tokenizer(),
        steps=8, snapshots=5, batch_size=2, context=16, eval_blocks=2, lr=1e-2, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted({*figure_names()} - {"experts", "power_law"}))
def test_a_figure_is_drawn_by_its_name(run, name):
    reads_text = METRICS.get(FRAMES.get(name, [""])[0], METRICS["ledger"]).of == "model"
    steps = [8] if name == "curvature" else [0, 8] if reads_text else None  # it is the slowest
    axes, data = figure([run], name, steps=steps)
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


def test_one_weight_is_no_bias(tmp_path):
    hcviz.clone(tiny.model("gpt_neox")).save_pretrained(tmp_path / "wide" / "checkpoint-0")
    _, data = figure([hcviz.Run(tmp_path / "wide")], "pairs")
    assert set(data["tensor"]) == {"gpt_neox.layers.1.mlp.dense_h_to_4h.weight"}


def test_patterns_read_the_text_that_is_given(run, tmp_path):
    _, data = figure([run], "patterns", text="Let there be light", steps=[0])
    assert "".join(data["query_token"].unique()) == "Let there be light"
    assert set(data["step"]) == {0}
    other = hcviz.Run(shutil.copytree(run.path, tmp_path / "other"))
    record = json.loads((other.path / "run.json").read_text())
    (other.path / "run.json").write_text(json.dumps(record | {"label": "other"}))
    axes, data = figure([run, other], "patterns", steps=[0])
    assert [ax.get_title("left") for ax in axes[:6:3]] == ["wide: head 2", "other: head 2"]
    with pytest.raises(HcvizError, match="'ledger' reads no text"):
        figure([run], "ledger", text="Let there be light")


def test_what_cannot_be_drawn_is_said(run):
    with pytest.raises(HcvizError, match=r"no figure 'ledgers'; there are .*ledger"):
        figure([run], "ledgers")
    with pytest.raises(HcvizError, match="drawn by 'experts': it needs experts"):
        figure([run], "experts", steps=[0])
    with pytest.raises(HcvizError, match="No tensor of wide matches"):
        figure([run], "blocks", tensors=["nowhere"])
    with pytest.raises(HcvizError, match="none of the asked"):
        figure([run], "blocks", steps=[99])


def test_watch_draws_anew_for_each_snapshot_in_one_place(run, tmp_path, monkeypatch):
    drawn, places = [], []

    class Place:
        def update(self, picture):
            drawn.append(picture)

    def display(picture, display_id):
        drawn.append(picture)
        places.append(Place())
        return places[-1]

    monkeypatch.setattr("IPython.display.display", display)
    hcviz.watch(tmp_path, "cosine")({})  # no run is there yet: it waits
    listener = hcviz.watch(tmp_path, "cosine", tensors=["0.*up_proj"])
    steps = [f"checkpoint-{step}" for step in run.steps]
    counts = []
    for name, snapshots in (("a", steps[:1]), ("a", []), ("a", steps[1:]), ("b", steps)):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(run.path / "run.json", tmp_path / name)
        for snapshot in snapshots:
            shutil.copytree(run.path / snapshot, tmp_path / name / snapshot)
        listener({"loss": 1.0})
        counts.append(len(drawn))
    assert counts == [1, 1, 2, 3]
    assert len(places) == 1
    reach = [max(line.get_xdata()[-1] for line in one.axes[0].lines) for one in drawn]
    assert reach == [0, run.steps[-1], run.steps[-1]]
    assert not plt.get_fignums()  # else the notebook would show the last one twice


@pytest.fixture
def shown(monkeypatch):
    """What a notebook shows, in the order in which it came, and in how many places."""
    seen = SimpleNamespace(things=[], places=0)

    def display(thing, display_id):
        seen.places += 1
        seen.things.append(thing)
        return SimpleNamespace(update=seen.things.append)

    monkeypatch.setattr("IPython.display.display", display)
    return seen


def test_watch_says_why_a_figure_cannot_be_drawn_and_draws_it_when_it_can(run, tmp_path, shown):
    listener = hcviz.watch(tmp_path, "loss")
    folder = tmp_path / "arm"
    shutil.copytree(run.path / "checkpoint-0", folder / "checkpoint-0")
    (folder / "checkpoint-0" / "trainer_state.json").unlink(missing_ok=True)
    listener({"loss": 1.0})
    listener({"loss": 0.9})
    (said,) = shown.things  # once, not for every row
    assert "'loss' cannot be drawn" in said.data
    assert "it has nothing" in said.data
    shutil.copy(run.path / "trainer_state.json", folder)
    listener({"loss": 0.8})
    assert shown.places == 1
    assert shown.things[-1].axes


def test_watch_says_what_a_model_without_copies_does_not_have(tmp_path, shown):
    tiny.model().save_pretrained(tmp_path / "plain" / "checkpoint-0")
    hcviz.watch(tmp_path, "ledger")({})
    assert "needs the copies of a clone" in shown.things[0].data


def test_speedup_is_that_over_the_arm_without_copies(run, tmp_path):
    """Named random init, or the first that is no clone; a run alone is compared with itself."""
    _, alone = figure([run], "speedup")
    assert list(alone["ratio"]) == [1.0]
    plain = shutil.copytree(run.path, tmp_path / "plain")
    info = json.loads((plain / "run.json").read_text())
    for name, label in (("plain", "source"), ("young", "random init")):
        folder = plain if name == "plain" else shutil.copytree(plain, tmp_path / name)
        changed = info | {"label": label, "clone": {}}
        (folder / "run.json").write_text(json.dumps(changed))
    log = plain / "trainer_state.json"
    state = json.loads(log.read_text())
    losses = [row for row in state["log_history"] if "eval_loss" in row]
    losses[-1]["eval_loss"] += 1e-3
    log.write_text(json.dumps(state))
    source, young = hcviz.Run(plain), hcviz.Run(tmp_path / "young")

    def target(*runs):
        return figure(runs, "speedup")[1]["target"].iloc[0]

    assert target(run, source) == losses[-1]["eval_loss"]
    assert target(run, source, young) == pytest.approx(alone["target"].iloc[0])


def test_watch_refuses_an_unknown_figure():
    with pytest.raises(HcvizError, match="no figure 'ledgers'"):
        hcviz.watch("runs", "ledgers")

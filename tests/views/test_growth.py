"""grow(): what goes on when a model grows inside a run, and what does not change."""

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

import hcviz
from hcviz.errors import HcvizError
from hcviz.runs.moments import read_moments
from hcviz.views.growth import settings
from hcviz.widening.twin import TrueFloat64

SHORT = {"steps": 12, "snapshots": [3], "batch_size": 2, "context": 16, "eval_blocks": 2}
SHORT |= {"lr": 3e-3, "progress": False, "tokenizer": tiny.tokenizer(), "eval_every": 1}
UNCLIPPED = {"max_grad_norm": 0.0}


@pytest.fixture(scope="module")
def small():
    return tiny.model("gpt_neox", hidden_size=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def grown(small, corpus, tmp_path_factory):
    """A run that widens at step 5 and deepens at step 8."""
    out = tmp_path_factory.mktemp("grown") / "run"
    at = {8: {"layers": 3}, 5: "hidden=2"}
    return hcviz.grow(small, out=out, at=at, corpus=corpus, **SHORT)


def heldout(run):
    return run.history.query("split == 'heldout'").set_index("step")["loss"]


def before(run, step):
    return hcviz.Run(run.path.with_name(f"{run.path.name}-until-{step}"))


def test_history_goes_on_and_the_loss_does_not_jump(grown):
    assert grown.steps == [8, 12]
    assert list(heldout(grown).index) == list(range(13))
    for step in (5, 8):
        after = heldout(grown)[step]
        assert after == pytest.approx(heldout(before(grown, step))[step], rel=1e-6)  # float32
    assert grown.model(12).config.num_hidden_layers == 3
    assert (hcviz.measure(grown, metrics=["ledger"])["value"] == 0).all()
    assert grown.info["request"]["begin"]["step"] == 8
    assert before(grown, 5).info["tokens"] == 5 * 2 * 16


def test_flops_are_those_of_the_width_of_the_time(grown, small):
    from hcviz.training.trainer import inner_parameters

    flops = grown.history.query("split == 'heldout'").set_index("step")["flops"]
    parts = [small, before(grown, 8).model(5), grown.model(12)]
    counts = np.repeat([6 * 32 * inner_parameters(one) for one in parts], [5, 3, 4])
    assert flops.tolist() == np.concatenate([[0], np.cumsum(counts)]).tolist()


def test_in_lockstep_a_run_that_grew_is_the_run_that_did_not(small, corpus, tmp_path):
    options = {**SHORT, "corpus": corpus, "trainer_args": UNCLIPPED, "weight_decay": 0.05}
    small = tiny.model("gpt_neox", hidden_size=32).double()
    with TrueFloat64():
        plain = hcviz.train(small, out=tmp_path / "plain", **options)
        at = {5: {"hidden": 2, "pace": "source"}}
        wide = hcviz.grow(small, out=tmp_path / "wide", at=at, **options)
        afresh = {5: {"hidden": 2, "pace": "source", "optimizer": "fresh"}}
        fresh = hcviz.grow(small, out=tmp_path / "fresh", at=afresh, **options)
    # sums of float64 in another order: some hundred units in the last place
    assert np.abs(heldout(wide) / heldout(plain) - 1).max() < 1e-13
    told = [heldout(run).astype("float32").tolist() for run in (wide, plain, fresh)]
    assert told[0] == told[1] != told[2]  # to the last bit, at every step
    assert np.abs(heldout(fresh) / heldout(plain) - 1).max() > 1e-6
    # some processors round equal columns of a float64 product apart: the last place, squared
    shares = hcviz.measure(wide, metrics=["ledger"])["value"]
    assert shares.max() < (128 * np.finfo(float).eps) ** 2


def test_moments_grow_by_the_map_of_the_weights_and_identities_have_none(grown):
    first = read_moments(before(grown, 5).path / "checkpoint-5")
    wide = torch.load(before(grown, 8).path / "checkpoint-8/optimizer.pt", weights_only=True)
    assert {int(state["step"]) for state in wide["state"].values()} == {8}
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    moments = first[name]["exp_avg"]  # kept until the run is deleted
    assert moments.shape == (32, 32)
    assert moments.abs().max() > 0
    last = read_moments(grown.path / "checkpoint-12")
    steps = {name: int(state["step"]) for name, state in last.items()}
    identity = grown.model(12).config.hcviz_depth["identity"]
    assert identity == [1]
    assert {n for n, step in steps.items() if step == 4} == {n for n in steps if ".layers.1." in n}
    assert set(steps.values()) == {4, 12}


@pytest.mark.parametrize("stop", [6, 10])
def test_what_was_stopped_goes_on_with_the_same_bits(grown, small, corpus, tmp_path, stop):
    def end(row):
        if row["step"] == stop:
            raise KeyboardInterrupt

    options = {**SHORT, "corpus": corpus, "at": {8: "layers=3", 5: "hidden=2"}}
    with pytest.raises(KeyboardInterrupt):
        hcviz.grow(small, out=tmp_path / "run", on_log=end, **options)
    run = hcviz.grow(small, out=tmp_path / "run", **options)
    ours, whole = (load_file(r.path / "checkpoint-12/model.safetensors") for r in (run, grown))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    pd_columns = ["step", "tokens", "split", "loss", "flops"]
    assert run.history[pd_columns].equals(grown.history[pd_columns])


def test_metrics_are_measured_from_the_growth_on(small, corpus, tmp_path):
    run = hcviz.grow(
        small, out=tmp_path / "run", at={5: "hidden=2,snr_db=10,expansion=noisy-symmetric"},
        corpus=corpus, metrics=["ledger", "distance"], **SHORT,
    )  # fmt: skip
    frame = run.metrics
    assert set(frame["step"]) == {5, 12}
    assert (frame.query("metric == 'distance' and step == 5")["value"] == 0).all()
    assert frame.query("metric == 'ledger'")["value"].gt(0).any()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("width=2", "no setting 'width'; it has hidden"),
        ("layers=x", "layers='x': layers is int"),
        ("optimizer=fresh", "grows nothing"),
        ("hidden=2,pace=fast", "choose own or source"),
    ],
)
def test_settings_that_are_none_are_refused(how, said):
    with pytest.raises(HcvizError, match=said):
        settings(how)


def test_steps_outside_the_run_are_refused_before_anything_is_trained(small, tmp_path):
    with pytest.raises(HcvizError, match="Growth at step 12 of 12: give steps from 1 to 11"):
        hcviz.grow(small, out=tmp_path / "run", at={5: "hidden=2", 12: "hidden=2"}, **SHORT)
    assert not any(tmp_path.iterdir())

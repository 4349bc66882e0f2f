"""The recorded demo says what the notebooks say of it."""

import pytest

import hcviz
from hcviz.runs.rows import read_frame


@pytest.fixture(scope="module")
def demo():
    return hcviz.recorded("demo")


def test_every_arm_is_whole_and_of_one_text(demo):
    arms = ["symmetric", "noisy 10 dB", "dropout 0.1", "random init", "source"]
    assert [run.name for run in demo.runs] == arms
    assert {run.info["status"] for run in demo.runs} == {"done"}
    assert len({run.info["corpus"]["fingerprint"] for run in demo.runs}) == 1


def test_only_noise_and_dropout_tell_the_copies_apart(demo):
    ledger = demo.metric("ledger").groupby(["run", "axis"])["value"].max().unstack("axis")
    assert (ledger.loc["symmetric"] == 0).all()
    assert (ledger.loc["noisy 10 dB"] > 0).all()
    assert (ledger.loc["dropout 0.1"][["R", "H"]] > 0).all()
    assert ledger.loc["dropout 0.1", "N"] == 0


def test_the_clone_that_parts_ends_lowest_and_the_locked_one_near_its_source(demo):
    last = demo.history.query("split == 'heldout' and step == step.max()")
    losses = last.set_index("run")["loss"]
    assert losses.idxmin() == "noisy 10 dB"
    assert losses.idxmax() == "random init"
    assert abs(losses["symmetric"] - losses["source"]) < 0.02 < losses["source"] - losses.min()


def test_half_of_the_values_stay_zero_without_a_reason(demo):
    last = demo.metric("spectrum").query("step == step.max()")
    share = last["value"] / last.groupby(["run", "tensor"])["value"].transform("max")
    empty = (share < 1e-6).groupby(last["run"]).mean()
    assert empty["symmetric"] == 0.5
    assert empty["noisy 10 dB"] == 0


def test_a_recorded_run_knows_what_was_measured_of_the_whole_run(demo):
    run = demo.runs[1]
    frame = demo.frame[demo.frame["run"] == run.name]
    assert len(run.names()) == 1
    assert len(run.metrics) == len(frame)
    asked = {"metrics": ["cosine"], "tensors": "layers.0.*dense_h_to_4h", "steps": [1200]}
    wanted = frame.query("metric == 'cosine' and layer == 0 and step == 1200")
    wanted = wanted[wanted["tensor"].str.contains("dense_h_to_4h")]
    assert hcviz.measure(run, **asked)["value"].tolist() == wanted["value"].tolist()


def test_a_table_whose_values_are_all_missing_still_holds_numbers(demo, tmp_path):
    demo.frame[:3].assign(value=None).to_parquet(tmp_path / "metrics.parquet", index=False)
    assert read_frame(tmp_path / "metrics.parquet", "")["value"].dtype == float

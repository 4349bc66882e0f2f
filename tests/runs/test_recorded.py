"""The recorded comparisons say what the notebooks say of them."""

import numpy as np
import pytest

import hcviz

SEEDS = [0, 1, 2]
ARMS = {"symmetric", "noisy 10 dB", "dropout 0.1", "random init", "source"}
ARMS |= {"diagonal", "noisy diagonal", "matched source"}


@pytest.fixture(scope="module")
def paper():
    return hcviz.recorded("paper")


def ends(recording):
    """Return the last held-out losses, arm by seed."""
    last = recording.history.query("split == 'heldout' and step == step.max()")
    return last.pivot_table(index="run", columns="seed", values="loss")


def test_every_arm_has_three_seeds(paper):
    found = {(run.name, run.info["seed"]) for run in paper.runs}
    assert found == {(name, seed) for name in ARMS for seed in SEEDS}
    assert sorted(paper.frame["seed"].unique()) == SEEDS
    assert {run.info["status"] for run in paper.runs} == {"done"}
    assert len({run.info["corpus"]["fingerprint"] for run in paper.runs}) == 1


def test_only_noise_and_dropout_tell_the_copies_apart(paper):
    ledger = paper.metric("ledger").groupby(["run", "seed", "axis"])["value"].max().unstack("axis")
    assert (ledger.loc["symmetric"] == 0).all(axis=None)
    assert (ledger.loc["noisy 10 dB"] > 0).all(axis=None)
    assert (ledger.loc["dropout 0.1"][["R", "H"]] > 0).all(axis=None)
    assert (ledger.loc["dropout 0.1"]["N"] == 0).all()


def test_the_matched_source_is_the_clone(paper):
    """Float32 rounds each step anew, and a step is 3e-4: the losses agree to some 1e-5."""
    losses = ends(paper)
    for name in ("symmetric", "diagonal"):
        assert np.abs(losses.loc[name] - losses.loc["matched source"]).max() < 1e-4
    assert (losses.loc["source"] < losses.loc["symmetric"] - 1e-3).all()
    assert (losses.loc["random init"] > losses.drop("random init").max() + 1).all()


def test_half_of_the_values_stay_zero_without_a_reason(paper):
    last = paper.metric("spectrum").query("step == step.max()")
    share = last["value"] / last.groupby(["run", "seed", "tensor"])["value"].transform("max")
    empty = (share < 1e-6).groupby([last["run"], last["seed"]]).mean()
    assert (empty["symmetric"] == 0.5).all()
    assert (empty["dropout 0.1"] == 0).all()


def test_the_young_comparison_has_intervals_for_both_controls():
    young = hcviz.recorded("young")
    early = young.history.query("step <= 4")
    found = hcviz.speedup(early, against="source").set_index("run")
    assert (found["seeds"] == 3).all()
    assert found[["low", "high"]].notna().all(axis=None)
    assert found.loc["symmetric", "low"] > 1
    late = hcviz.speedup(young.history, against="source").set_index("run")
    assert late.loc["symmetric", "ratio"] == 0
    assert found.loc["symmetric", "ratio"] == pytest.approx(
        found.loc["matched source", "ratio"], rel=1e-3
    )


def test_a_better_base_gives_a_better_clone():
    last = ends(hcviz.recorded("bases"))[0]
    order = ["gpt-neox", "gpt-neox@1200", "gpt-neox@600", "gpt-neox@300", "random init"]
    assert last.sort_values().index.tolist() == order

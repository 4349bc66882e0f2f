"""The main job: its arms, its figures, what it says, and the recording that the notebooks open."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.errors import HcvizError
from hcviz.runs.recorded import record
from hcviz.views.arms import ARMS, DEMO, findings, start_of
from hcviz.views.figures import draw


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    tiny.model("gpt_neox", hidden_size=32).save_pretrained(folder / "small")
    tiny.tokenizer().save_pretrained(folder / "small")
    return folder / "small"


@pytest.fixture(scope="module")
def runs(source):
    return hcviz.run_arms(
        str(source), out=source.parent / "runs", corpus=tiny.write_text(source.parent),
        steps=4, snapshots=4, batch_size=2, context=16, eval_blocks=2, lr=1e-2, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(runs):
    out = runs[0].path.parent.parent / "pictures"
    return out, draw(runs, out, command="hcviz demo --steps 4", progress=False).findings


def test_arms_share_data_and_start_as_they_say(runs):
    assert [run.name for run in runs] == DEMO
    assert len({run.info["corpus"]["fingerprint"] for run in runs}) == 1
    first = {run.name: run.history.query("split == 'heldout'")["loss"].iloc[0] for run in runs}
    assert first["symmetric"] == pytest.approx(first["source"], rel=1e-5)
    assert first["noisy 10 dB"] == pytest.approx(first["source"], rel=1e-5)
    assert first["random init"] != pytest.approx(first["source"], rel=1e-5)
    shapes = {run.name: run.tensor("lm_head.weight", 0).shape for run in runs}
    assert shapes["random init"] == shapes["symmetric"] != shapes["source"]
    assert [run.is_clone for run in runs] == [True, True, True, False, False]


def test_the_source_may_be_a_path(source, tmp_path):
    text = tiny.write_text(tmp_path)
    for arm in ("symmetric", "source"):
        [run] = hcviz.run_arms(
            source, out=tmp_path, arms=[arm], corpus=text, steps=1, snapshots=2, batch_size=1,
            context=16, eval_blocks=1, progress=False,
        )  # fmt: skip
        assert run.info["source"] == str(source)


def test_the_matched_source_takes_the_steps_of_the_clone(source, tmp_path):
    """Without clipping the two are one model: its larger step is all that a locked clone has."""
    names = ["symmetric", "matched source", "source"]
    losses = [
        run.history.query("split == 'heldout'")["loss"].iloc[-1]
        for run in hcviz.run_arms(
            str(source), out=tmp_path, arms=names, corpus=tiny.write_text(tmp_path), steps=4,
            snapshots=2, batch_size=2, context=16, eval_blocks=2, lr=1e-2, progress=False,
            trainer_args={"max_grad_norm": 0.0},
        )
    ]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


BROKEN = ["gradient noise", "moments reset", "one copy faster", "one copy frozen", "moments warmed"]


def test_arms_of_breakers_part_all_axes_but_the_one_that_only_warms_up(source, tmp_path):
    assert [name for name, arm in ARMS.items() if arm.breaker] == BROKEN
    assert not set(BROKEN) & set(DEMO)
    runs = hcviz.run_arms(
        str(source), out=tmp_path, arms=BROKEN, corpus=tiny.write_text(tmp_path), steps=20,
        snapshots=2, batch_size=1, context=16, eval_blocks=1, lr=1e-2, progress=False,
    )  # fmt: skip
    for name, run in zip(BROKEN, runs, strict=True):
        [asked] = run.info["request"]["breaker"]
        assert ARMS[name].breaker.startswith(asked["name"])
        frame = hcviz.measure(run, metrics=["ledger"], tensors="weight$", cache=False)
        assert (frame[frame["step"] == 0]["value"] == 0).all()
        ends = frame[frame["step"] == 20].groupby("axis")["value"].max()
        assert (ends > 0).to_dict() == dict.fromkeys("HNR", name != "moments warmed")


def test_the_random_arm_is_seeded():
    small = tiny.model("gpt_neox")
    make = [start_of(ARMS["random init"], small, factor=2, seed=s, source="x") for s in (0, 0, 1)]
    heads = [model.lm_head.weight for model in make]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_arm_in_float64_starts_as_the_one_in_float32_and_stays_double(source, tmp_path):
    names = ["diagonal", "diagonal in float64"]
    plain, double = hcviz.run_arms(
        str(source), out=tmp_path, arms=names, corpus=tiny.write_text(tmp_path), steps=1,
        snapshots=2, batch_size=1, context=16, eval_blocks=1, progress=False,
    )  # fmt: skip
    name = next(iter(double.names()))
    assert torch.equal(double.tensor(name, 0), plain.tensor(name, 0).double())
    assert [double.tensor(name, step).dtype for step in (0, 1)] == [torch.float64] * 2
    assert not torch.equal(double.tensor(name, 1), double.tensor(name, 1).float().double())


def test_figures_come_with_data_and_command(drawn):
    out, _ = drawn
    names = {
        "headline",
        "loss",
        "cosine",
        "cosine-log",
        "ledger",
        "pairs",
        "spectrum",
        "blocks",
        "antisymmetric",
    }
    assert {path.stem for path in out.glob("*.png")} == names
    for name in names:
        assert len(pd.read_csv(out / f"{name}.csv")) > 0
        assert json.loads((out / f"{name}.json").read_text())["command"] == "hcviz demo --steps 4"
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
    assert "seconds" not in pd.read_csv(out / "loss.csv")  # the one number that no seed repeats


def test_findings_tell_locked_from_left(runs, drawn):
    out, lines = drawn
    text = "\n".join(lines)
    assert "symmetric: locked" in text
    assert "noisy 10 dB: never was locked" in text
    assert "dropout 0.1: left its copies" in text
    assert "Cosine of the copies: " in text
    assert "symmetric 50% -> 50%" in text  # of its singular values are not zero
    last = runs[-1].history.query("split == 'heldout'")["loss"].iloc[-1]
    assert f"source {last:.3f}" in text
    assert text in (out / "findings.txt").read_text()


def test_findings_follow_the_numbers(runs):
    frame = hcviz.measure(runs[0], metrics=["cosine", "ledger"])
    assert "Cosine" not in findings(runs[:1], frame)[0]
    frame.loc[frame.index[-1], "value"] = 0.25
    assert "locked. After" not in findings(runs[:1], frame)[0]


def test_a_whole_run_is_kept_and_an_unknown_arm_refused(source, runs):
    stamp = (runs[0].path / "run.json").stat().st_mtime_ns
    again = hcviz.run_arms(
        str(source), out=source.parent / "runs", arms=["symmetric"],
        corpus=tiny.write_text(source.parent), steps=4, snapshots=4, batch_size=2, context=16,
        eval_blocks=2, lr=1e-2, progress=False,
    )  # fmt: skip
    assert (again[0].path / "run.json").stat().st_mtime_ns == stamp
    with pytest.raises(HcvizError, match=r"nosy.*symmetric"):
        hcviz.run_arms(str(source), arms=["nosy"])


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_arms_without_dropout_run_where_nothing_drops(family, tmp_path):
    small = {"mamba": {"state_size": 4}, "rwkv": {"attention_hidden_size": 16}}[family]
    config = AutoConfig.for_model(
        family, vocab_size=2048, hidden_size=16, num_hidden_layers=2, pad_token_id=1, **small
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "small")
    tiny.tokenizer().save_pretrained(tmp_path / "small")
    options = {"corpus": tiny.write_text(tmp_path), "steps": 2, "snapshots": 2, "batch_size": 2}
    options |= {"context": 16, "eval_blocks": 2, "progress": False, "out": tmp_path / "runs"}
    with pytest.raises(HcvizError, match=r"'dropout 0.1'.* nothing that can drop .*'random init'"):
        hcviz.run_arms(str(tmp_path / "small"), **options)
    assert not (tmp_path / "runs").exists()  # refused before anything was trained
    plain = ["symmetric", "noisy 10 dB", "random init", "source"]
    runs = hcviz.run_arms(str(tmp_path / "small"), arms=plain, **options)
    assert [run.name for run in runs] == plain
    assert all(run.info["request"]["dropout"] == {} for run in runs)


def test_figures_need_a_clone(runs, tmp_path):
    with pytest.raises(HcvizError, match=r"random init.*source"):
        draw(runs[3:], tmp_path / "x", command="", progress=False)
    assert not (tmp_path / "x").exists()


def test_a_recording_keeps_what_was_asked(runs, tmp_path):
    name = "gpt_neox.layers.1.attention.dense.weight"
    frame = hcviz.measure(list(runs[:3]), metrics=["ledger"], tensors="dense")
    kept = record(runs, tmp_path / "rec", tensors=[name], frame=frame, command="hcviz demo")
    again = hcviz.recorded(str(tmp_path / "rec"))
    assert [run.name for run in again.runs] == DEMO
    assert again.runs[0].names() == [name]
    assert np.array_equal(again.runs[1].tensor(name, 4), runs[1].tensor(name, 4).half())
    pd.testing.assert_frame_equal(again.frame, frame)
    pd.testing.assert_frame_equal(again.history, kept.history)
    assert set(again.history["run"]) == set(DEMO)
    assert again.runs[0].blocks(name, 0).shape == (2, 2, 32, 32)
    assert again.runs[3].steps == [4]  # nothing of it is kept but its losses
    with pytest.raises(HcvizError, match="already exists"):
        record(runs, tmp_path / "rec", tensors=[name], frame=frame, command="")
    with pytest.raises(HcvizError, match="Nothing is recorded as 'dmo'"):
        hcviz.recorded("dmo")


def test_seeds_of_one_arm_are_recorded_apart(runs, tmp_path):
    places = [shutil.copytree(runs[0].path, tmp_path / seed / "symmetric") for seed in ("a", "b")]
    seeds = [hcviz.Run(place) for place in places]
    kept = record(seeds, tmp_path / "rec", tensors=[], frame=pd.DataFrame(), command="x")
    assert kept.info["arms"] == ["a-symmetric", "b-symmetric"]
    assert [run.name for run in kept.runs] == ["symmetric"] * 2

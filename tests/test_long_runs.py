"""data/runs/long.py: its order, its grid of learning rates, what it keeps, and that it goes on."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import scripts
import tiny
import torch

from hcviz.claims import recipe
from hcviz.claims.frames import Who, open_frames
from hcviz.errors import HcvizError
from hcviz.io.files import locked
from hcviz.runs.moments import divisors
from hcviz.runs.run import Run
from hcviz.text.corpus import load_corpus
from hcviz.views.arms import ARMS

long_runs = scripts.load("data/runs/long.py")


def pretend(out, loss):
    """Go through all jobs as if they had been made, with a loss that follows from each."""
    made = []

    def make(job):
        recipe.note(out / job.folder, job, loss=loss(job))
        made.append(job)

    recipe.work(out, long_runs.jobs, make)
    return made


def test_the_grid_goes_on_until_both_neighbours_are_worse(tmp_path):
    ideal = {"symmetric": 1e-3, "random init": 4e-3, "noisy 10 dB": 3.2e-2}

    def loss(job):
        off = max(job.lr, want := ideal.get(job.arm, 2e-3)) / min(job.lr, want)
        return None if job.arm == "source" and job.lr > 3e-3 else 3 + off / 10

    made = pretend(tmp_path, loss)
    tried = {arm: sorted(long_runs.grid_of(tmp_path, arm)) for arm in long_runs.FIRST}
    assert tried["symmetric"] == [1e-3, 2e-3, 4e-3, 8e-3]  # the ladder ends at its best
    assert tried["random init"] == [2e-3, 4e-3, 8e-3]
    assert tried["noisy 10 dB"] == [4e-3, 8e-3, 1.6e-2, 3.2e-2]
    assert tried["source"] == [1e-3, 2e-3, 4e-3, 8e-3]  # the high ones diverged
    later = [job for job in made if job.seed]
    assert {job.lr for job in later if job.arm == "random init"} == {4e-3}
    assert {job.lr for job in later if job.arm == long_runs.MATCHED} == {1e-3}
    assert pretend(tmp_path, loss) == []


@pytest.mark.parametrize("suits", [2e-3, 8e-3, 1.6e-2])
def test_a_family_begins_with_the_best_rate_of_the_first_and_ends_with_its_own(tmp_path, suits):
    def loss(job):
        best = 8e-3 if job.source == long_runs.HALF else suits
        return 3 + max(job.lr, best) / min(job.lr, best)

    made = pd.DataFrame(pretend(tmp_path, loss)).query("arm == 'noisy 40 dB'")
    for name in long_runs.FAMILIES:
        rates = made[made["source"] == name].groupby("seed")["lr"].apply(list)
        assert rates[0][0] == 8e-3
        assert {suits / 2, suits, suits * 2} <= {*rates[0]}
        assert rates.to_list()[1:] == [[suits], [suits]]


def test_all_arms_have_three_seeds_in_three_families(tmp_path):
    made = pretend(tmp_path, lambda job: 3 + abs(job.lr - 8e-3))
    assert len(set(made)) == len(made)
    seeds = pd.DataFrame(made).query("lr == 0.008").groupby(["source", "factor", "arm"])["seed"]
    assert (seeds.nunique() == 3).all()
    pairs = set(seeds.nunique().index)
    for name in (long_runs.HALF, *long_runs.FAMILIES):
        assert {(name, 2, arm) for arm in long_runs.FIRST + long_runs.LATER} <= pairs
    widest = [(long_runs.WHOLE, 2), (long_runs.HALF, 4)]
    assert {(*pair, "noisy 10 dB") for pair in [*widest, (long_runs.BASES[0], 2)]} <= pairs
    assert made[0] == long_runs.Job(long_runs.HALF, "noisy 10 dB", 8e-3)


def test_a_run_that_another_process_makes_is_passed_over(tmp_path):
    first, second = (long_runs.Job(long_runs.HALF, arm, 2e-3) for arm in long_runs.FIRST[:2])
    made = []

    def make(job):
        recipe.note(tmp_path / job.folder, job, loss=3.0)
        made.append(job)

    with locked(f"{tmp_path / first.folder}.job"):
        recipe.work(tmp_path, lambda out: iter([first, second]), make)
        assert made == [second]
    recipe.work(tmp_path, lambda out: iter([first, second]), make)
    assert made == [second, first]


def test_a_run_that_another_process_has_just_ended_is_not_made_again(tmp_path, monkeypatch):
    job, made = long_runs.Job(long_runs.HALF, long_runs.FIRST[0], 2e-3), []

    def ended(path):
        recipe.note(tmp_path / job.folder, job, loss=3.0)
        return locked(path)

    monkeypatch.setattr(recipe, "locked", ended)
    recipe.work(tmp_path, lambda out: iter([job]), made.append)
    assert made == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("long")
    before = Path.cwd()
    os.chdir(out)  # a source is named by where it lies, and so is the run made of it
    small = tiny.model("gpt_neox", hidden_size=32)
    small.save_pretrained(out / "small")
    tiny.tokenizer().save_pretrained(out / "small")
    corpus = load_corpus(tiny.write_text(out), tokenizer=tiny.tokenizer(), context=64)
    for arm in ("noisy 10 dB", "matched source"):
        recipe.make(long_runs.Job("small", arm, 1e-3, steps=3), out, corpus, items=4)
    diverges = long_runs.Job("small", "random init", 1e30, steps=3)
    recipe.make(diverges, out, corpus, items=4)
    os.chdir(before)
    return out, diverges


def test_a_run_is_measured_and_its_weights_are_thinned(made):
    out, _ = made
    folder = out / "small-x2" / "lr-0.001" / "seed-0" / "noisy-10-dB"
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-0", "checkpoint-3"}
    assert not list(folder.glob("*/optimizer.pt"))
    run = Run(folder)
    assert str(run.tensor("gpt_neox.embed_in.weight", 0).dtype) == "torch.float16"
    assert str(run.tensor("gpt_neox.embed_in.weight", 3).dtype) == "torch.float32"
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert set(frame["step"]) == {0, 1, 2, 3}
    assert {"cosine", "ledger", "effective_rank", "spectrum"} <= set(frame["metric"])
    note = json.loads((folder / "done.json").read_text())
    assert note["loss"] == pytest.approx(7.6, abs=0.3)  # some ln 2048


def test_what_is_done_is_gathered_with_its_story(made):
    out, diverges = made
    recipe.gather(out, command="long.py")
    runs, losses, metrics = (
        pd.read_parquet(out / "frames" / f"{name}.parquet")
        for name in ("runs", "losses", "metrics")
    )
    assert len(runs) == 3
    assert runs[["weights", "corpus", "command", "versions", "machine"]].notna().all(axis=None)
    assert "loss became" in json.loads((out / diverges.folder / "done.json").read_text())["stopped"]
    assert set(losses["arm"]) == {"noisy 10 dB", "matched source"}
    assert set(metrics.query("metric == 'ledger'")["arm"]) == {"noisy 10 dB"}
    assert set(metrics.query("metric == 'spectrum'")["step"]) == {0, 3}
    told = json.loads((out / "frames" / "recorded.json").read_text())
    assert told["runs"] == 3
    assert set(told["sha256"]) == {"runs", "losses", "metrics", "accuracy"}


def test_recorded_runs_are_gone_on_from_elsewhere(made, tmp_path, monkeypatch):
    """None is made again, the diverged one neither, and the new one stands among them."""
    recorded = recipe.gather(made[0], command="long.py")
    monkeypatch.chdir(made[0])
    corpus = load_corpus(made[0] / "text.jsonl", tokenizer=tiny.tokenizer(), context=64)
    recipe.extend(tmp_path, recorded)
    more = long_runs.Job("small", "matched source", 1e-3, seed=1, steps=3)
    arms = [("noisy 10 dB", 1e-3), ("matched source", 1e-3), ("random init", 1e30)]
    jobs = [*(long_runs.Job("small", *arm, steps=3) for arm in arms), more]
    trained = []

    def make(job):
        trained.append(job)
        recipe.make(job, tmp_path, corpus, items=4)

    recipe.work(tmp_path, lambda out: iter(jobs), make)
    assert trained == [more]
    frames = open_frames(recipe.gather(tmp_path, command="long.py"))
    assert len(frames.runs) == 4
    assert frames.runs[["weights", "corpus", "command", "versions"]].notna().all(axis=None)
    assert set(frames.metrics["arm"]) == {"noisy 10 dB", "matched source"}
    before = pd.read_parquet(recorded / "losses.parquet")
    after = frames.losses[frames.losses["seed"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, before)


def test_what_was_made_here_and_is_recorded_stands_there_once(made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "out")
    recorded = recipe.gather(out, command="long.py")
    before = pd.read_parquet(recorded / "losses.parquet")
    recipe.extend(out, recorded)
    frames = open_frames(recipe.gather(out, command="long.py"))
    assert len(frames.runs) == 3
    pd.testing.assert_frame_equal(frames.losses, before)


def test_the_shipped_recording_is_whole_and_its_best_rates_are_those_of_the_claims(tmp_path):
    recipe.extend(tmp_path, scripts.ROOT / "data" / "runs" / "long")
    jobs = pd.DataFrame(long_runs.jobs(tmp_path))
    assert not [job for job in long_runs.jobs(tmp_path) if not recipe.done(job, tmp_path)]
    frames, arms = open_frames("long"), set(long_runs.FIRST + long_runs.LATER)
    for (source, factor), rows in jobs.groupby(["source", "factor"]):
        if source in (long_runs.HALF, *long_runs.FAMILIES) and factor == 2:
            assert set(rows["arm"]) == arms
        chosen = {arm: frames.rate(Who(arm, source, factor)) for arm in rows["arm"].unique()}
        assert dict(long_runs.rates(tmp_path, chosen, source, factor)) == chosen
        best = rows[rows["lr"] == rows["arm"].map(chosen)]
        assert (best.groupby("arm")["seed"].agg(set) == set(long_runs.SEEDS)).all()


def test_runs_of_several_texts_are_not_gathered(made, tmp_path):
    out = shutil.copytree(made[0], tmp_path / "out")
    told = next(out.glob("*/*/seed-0/matched-source/run.json"))
    info = json.loads(told.read_text(encoding="utf-8"))
    info["corpus"]["fingerprint"] = "another"
    told.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(HcvizError, match="did not all read the same text"):
        recipe.gather(out, command="long.py")


def test_the_curvature_of_locked_clones_is_gathered_where_it_is_asked_for(
    made, tmp_path, monkeypatch
):
    """Its steps are taken again, the same ones, and Adam's moments are there at the last."""
    row, taken = {"step": 0, "tensor": "model", "axis": "H", "part": "smallest", "value": -1.0}, []
    out = shutil.copytree(made[0], tmp_path / "out")
    monkeypatch.chdir(out)
    corpus = load_corpus(out / "text.jsonl", tokenizer=tiny.tokenizer(), context=64)

    def measured(run, *, metrics, steps, cache):
        taken.append(run.tensor("gpt_neox.embed_in.weight", steps[-1]))
        assert "gpt_neox.embed_in.weight" in divisors(run.stored(steps[-1]).folder)
        return pd.DataFrame([row | {"metric": "curvature"}])

    monkeypatch.setattr(recipe, "measure", measured)
    monkeypatch.setattr(recipe, "LOCKED", "noisy 10 dB")  # the clone that there is
    for _ in range(2):
        frames = open_frames(recipe.gather(out, command="breakers.py", curvature=corpus))
        assert set(frames.curvature["arm"]) == {"noisy 10 dB"}
        assert frames.of("curvature", Who("noisy 10 dB", "small"))["value"].tolist() == [-1.0]
    run = Run(out / "small-x2" / "lr-0.001" / "seed-0" / "noisy-10-dB")
    assert len(taken) == 1
    assert torch.equal(taken[0], run.tensor("gpt_neox.embed_in.weight", 3))


def test_growth_is_compared_at_equal_compute(tmp_path):
    """Narrow steps cost a fourth: all arms spend what 1,200 steps of the wide model do."""
    growing = scripts.load("data/runs/growing.py")
    jobs = list(growing.jobs(tmp_path))
    assert len(jobs) == len(set(jobs)) == 3 * 7
    grown = {name: arm.growth[0] for name, arm in ARMS.items() if arm.growth}
    assert grown == {arm: share for arm, share in growing.NARROW.items() if 0 < share < 1}
    for job in jobs:
        narrow = growing.NARROW[job.arm]
        assert job.steps * (narrow / 4 + 1 - narrow) == pytest.approx(1200, abs=1)


def test_breakers_are_compared_by_the_same_means(tmp_path):
    breakers, made = scripts.load("data/runs/breakers.py"), []

    def make(job):
        recipe.note(tmp_path / job.folder, job, loss=3.0)
        made.append(job)

    recipe.work(tmp_path, breakers.jobs, make)
    arms = {name for name, arm in ARMS.items() if not arm.growth}
    assert len(made) == len(set(made)) == 3 * (len(arms) + 2)  # every arm there is, two twice
    assert {job.arm for job in made if job.factor == 2} == arms
    assert {(job.source, job.lr) for job in made} == {(breakers.SOURCE, 8e-3)}
    assert {(job.steps, job.context) for job in made} == {(breakers.STEPS, breakers.CONTEXT)}

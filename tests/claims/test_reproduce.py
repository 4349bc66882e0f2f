"""Every claim file, run end to end at a tiny size; and whether the verdict held."""

import dataclasses
import os
from pathlib import Path

import pandas as pd
import pytest
import recordings
import tiny

from hcviz.claims import recipe
from hcviz.claims import reproduce as module
from hcviz.claims.claim import claims, find_claim
from hcviz.claims.frames import open_frames
from hcviz.claims.reproduce import Again, jobs_of, measured, reproduce, verdict_of, verdicts
from hcviz.errors import HcvizError
from hcviz.statistics.verdict import VERDICTS, Verdict
from hcviz.text.corpus import load_corpus

RUNS = {name: claim for name, claim in claims().items() if claim.recording}


def shrunk(claim):
    """Return a claim about the same arms of a tiny source, two-fold."""

    def small(value):
        if isinstance(value, dict):
            return value | {"source": "small", "factor": 2}
        return [small(one) for one in value] if isinstance(value, list) else value

    def less(measure):
        arguments = {key: small(value) for key, value in measure.arguments.items()}
        return dataclasses.replace(measure, arguments=arguments)

    needs = claim.needs and less(claim.needs)
    return dataclasses.replace(
        claim, sources=("small",), factor=2, measure=less(claim.measure), needs=needs
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    out, before = tmp_path_factory.mktemp("claims"), Path.cwd()
    os.chdir(out)  # a source is named by where it lies
    tiny.model("gpt_neox", hidden_size=32).save_pretrained("small")
    tiny.tokenizer().save_pretrained("small")
    yield load_corpus(tiny.write_text(out), tokenizer=tiny.tokenizer(), context=64)
    os.chdir(before)


@pytest.mark.parametrize("claim", RUNS.values(), ids=RUNS)
def test_a_claim_is_run_end_to_end(claim, place):
    jobs = jobs_of(shrunk(claim), seeds=1, steps=3)
    again = reproduce(shrunk(claim), "out", seeds=1, steps=3, corpus=place, items=4).again
    assert again.name in VERDICTS[:-1]  # something was measured
    assert again.seeds == 1
    assert all((Path("out") / job.folder / "losses.parquet").is_file() for job in jobs)
    frames = open_frames("out/frames")
    assert {(job.source, job.arm) for job in jobs} <= set(
        frames.runs[["source", "arm"]].itertuples(index=False, name=None)
    )


def test_the_lock_is_seen_in_runs_of_three_steps(place):
    again = reproduce(
        shrunk(find_claim("lock-holds")), "out", seeds=1, steps=3, corpus=place, items=4
    ).again
    assert (again.name, again.effect) == ("reproduced", 0.0)


def test_a_run_that_was_stopped_after_it_was_thinned_is_not_trained_again(place, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    job = recipe.Job("small", "symmetric", 2e-3, seed=7, steps=3, context=64)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "measure_accuracy", stop)
        with pytest.raises(KeyboardInterrupt):
            recipe.make(job, Path("out"), place, items=4)
    before = pd.read_parquet(Path("out") / job.folder / "metrics.parquet")
    assert set(before["step"]) == {0, 1, 2, 3}
    monkeypatch.setattr(recipe, "train", stop)
    recipe.make(job, Path("out"), place, items=4)
    after = pd.read_parquet(Path("out") / job.folder / "metrics.parquet")
    pd.testing.assert_frame_equal(after, before)
    assert recipe.done(job, Path("out"))["loss"] > 0


def test_what_a_claim_needs_decides_whether_it_can_be_tested(tmp_path):
    frames = open_frames(recordings.write(tmp_path / "mine"))
    claim = dataclasses.replace(find_claim("clone-better"), sources=(recordings.HALF,))
    assert verdict_of(claim, frames).name == "reproduced"
    unmet = dataclasses.replace(claim.measure, bound=-9.0)
    found = verdict_of(dataclasses.replace(claim, needs=unmet), frames)
    assert (found.name, found.seeds) == ("not at this scale", 3)
    assert found.effect == pytest.approx(-0.06)
    met = dataclasses.replace(claim, needs=claim.measure)
    assert verdict_of(met, frames).name == "reproduced"


@pytest.mark.parametrize(
    ("before", "after", "held"),
    [
        ("reproduced", "reproduced", True),
        ("reproduced", "direction only", True),  # fewer seeds say no more
        ("reproduced", "not reproduced", False),
        ("not reproduced", "direction only", False),
        ("direction only", "reproduced", False),
    ],
)
def test_whether_a_verdict_held(before, after, held):
    assert Again(find_claim("lock-costs"), Verdict(before), Verdict(after)).held is held


def test_a_recording_that_does_not_ship_gives_no_verdict(monkeypatch):
    claim = dataclasses.replace(find_claim("lock-costs"), recording="nowhere")
    assert verdict_of(claim).name == "no runs yet"
    assert {job.lr for job in jobs_of(claim)} == {module.START}
    table = verdicts({"mine": claim})
    assert table["verdict"].tolist() == ["no runs yet"]
    assert table["effect"].isna().all()


def test_an_unknown_quantity_is_refused_with_the_file():
    claim = find_claim("lock-costs")
    measure = dataclasses.replace(claim.measure, what="hope")
    with pytest.raises(HcvizError, match=r"lock-costs\.toml: there is no quantity 'hope'"):
        measured(measure, claim, None)

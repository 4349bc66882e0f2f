"""Verdicts of all claims from recorded frames, and one claim tested by runs of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.claims.claim import Claim, Measure, claims
from hcviz.claims.frames import Frames, is_recorded, open_frames
from hcviz.claims.quantities import QUANTITIES, whos_of
from hcviz.claims.recipe import Job, gather, make, work
from hcviz.errors import HcvizError
from hcviz.io.sources import load
from hcviz.statistics.verdict import DIRECTION, NONE, NOT, REPRODUCED, SCALE, Verdict, judge
from hcviz.text.corpus import Corpus, load_corpus

START = 2e-3
"""The learning rate of an arm that was not recorded."""


def measured(measure: Measure, claim: Claim, frames: Frames | None) -> pd.Series:
    """Return the numbers of a measure, by source and seed.

    Raises:
        HcvizError: If the claim names a quantity that is not there, or keywords that it has not.
    """
    if measure.what not in QUANTITIES:
        raise HcvizError(
            f"{claim.path}: there is no quantity {measure.what!r}; there are "
            f"{', '.join(QUANTITIES)}."
        )
    try:
        return QUANTITIES[measure.what](frames, claim.sources, claim.factor, **measure.arguments)
    except HcvizError as error:
        raise HcvizError(f"{claim.path}: {error}") from error


def recorded_of(claim: Claim) -> Frames | None:
    """Return the frames of a claim's recording; None if it has none, or does not ship."""
    there = claim.recording and is_recorded(claim.recording)
    return open_frames(claim.recording) if there else None


def verdict_of(claim: Claim, frames: Frames | None = None) -> Verdict:
    """Judge a claim by recorded frames.

    Args:
        claim: The claim.
        frames: What was recorded; None opens the claim's recording.

    Returns:
        The verdict. Where the claim ``needs`` something that is not so in these runs, it is "not at
        this scale", with the effect that was measured all the same.

    Example:
        >>> from hcviz.claims.claim import find_claim
        >>> verdict_of(find_claim("lock-holds")).name  # doctest: +SKIP
        'reproduced'
    """
    if frames is None and claim.recording:
        frames = recorded_of(claim)
        if frames is None:
            return Verdict(NONE)
    found = [_judged(measure, claim, frames) for measure in (claim.measure, claim.needs) if measure]
    if len(found) == 2 and found[1].name in (NOT, SCALE) and found[0].name != NONE:
        return Verdict(SCALE, *list(vars(found[0]).values())[1:])
    return found[0]


def _judged(measure: Measure, claim: Claim, frames: Frames | None) -> Verdict:
    values = measured(measure, claim, frames)
    asked = {"expect": measure.expect, "bound": measure.bound, "tolerance": measure.tolerance}
    return judge(values, seeds=3 if claim.recording else 1, **asked)


def verdicts(some: Mapping[str, Claim] | None = None) -> pd.DataFrame:
    """Return all claims with their verdicts, a row each.

    Returns:
        The columns claim, kind, title, note, where, figure, verdict, effect, low, high, unit,
        numbers, and sources: the mean of each source.

    Raises:
        HcvizError: If a claim cannot be read or judged.
    """
    rows = []
    for claim in (some or claims()).values():
        found = verdict_of(claim)
        said = {key: getattr(claim, key) for key in ("kind", "title", "note", "where", "figure")}
        seen = {"effect": found.effect, "low": found.low, "high": found.high}
        counted = {"unit": claim.measure.unit, "numbers": found.seeds, "sources": found.sources}
        rows.append({"claim": claim.name, **said, "verdict": found.name, **seen, **counted})
    return pd.DataFrame(rows)


def verdicts_of(name: str | None = None) -> pd.DataFrame:
    """Return what claims came to, a row each.

    Args:
        name: A figure, for the claims that it shows, or one claim; None: all.

    Raises:
        HcvizError: If no claim has that name or figure.
    """
    chosen = {key: one for key, one in claims().items() if name in (None, one.figure, key)}
    if not chosen:
        figures = sorted({one.figure for one in claims().values() if one.figure})
        raise HcvizError(
            f"No claim is called {name!r} or drawn in it. Figures with claims: "
            f"{', '.join(figures)}; claims: {', '.join(claims())}."
        )
    rows = verdicts(chosen).rename(columns={"title": "what is tested"}).set_index("what is tested")
    told = [(effect_of(one), interval_of(one)) for one in rows.itertuples()]
    rows[["effect", "interval"]] = told
    return rows[["where", "verdict", "effect", "interval", "numbers"]]


def effect_of(row: Any) -> str:
    """Return the effect of a row of verdicts with its unit, and that of each of several sources."""
    if pd.isna(row.effect):
        return ""
    each = [f"{key.removeprefix('nano:')} {number(mean)}" for key, mean in row.sources.items()]
    return f"{number(row.effect)} {row.unit}" + f" ({', '.join(each)})" * (len(each) > 1)


def interval_of(row: Any) -> str:
    """Return the interval of a row of verdicts; nothing if it has none."""
    return "" if pd.isna(row.low) else f"{number(row.low)} to {number(row.high)}"


def number(value: float) -> str:
    """Return a number with three digits; nothing for NaN."""
    return "" if pd.isna(value) else f"{value:.3g}"


def jobs_of(claim: Claim, *, seeds: int = 3, steps: int | None = None) -> list[Job]:
    """Return the runs that a claim rests on, with the rates and lengths that were recorded.

    Args:
        claim: The claim.
        seeds: How many of each.
        steps: Optimizer steps; None: as recorded.
    """
    frames, found = recorded_of(claim), {}
    for source in claim.sources:
        for measure in filter(None, (claim.measure, claim.needs)):
            for who in whos_of(measure.arguments, source, claim.factor):
                rows = frames.of("runs", who) if frames else ()
                told = rows.iloc[0] if len(rows) else {}
                rate = (frames.rate(who) if frames else who.lr) or START
                size = {key: int(told[key]) for key in ("steps", "context") if key in told}
                size |= {"steps": steps} if steps else {}
                for seed in range(seeds):
                    found[Job(who.source, who.arm, rate, seed, who.factor, **size)] = None
    return list(found)


def minutes_of(claim: Claim, jobs: Sequence[Job]) -> str:
    """Say how long the runs of a claim took when they were recorded, in minutes of one core."""
    frames = recorded_of(claim)
    runs = frames.runs.groupby(["source", "factor", "arm"])["cpu_minutes"] if frames else None
    known = runs.median().to_dict() if frames else {}
    found = [known.get((job.source, job.factor, job.arm)) for job in jobs]
    if not all(found):
        return "not recorded before, so it is not known how long they take"
    return f"some {sum(found):.0f} minutes of one core when they were recorded"


@dataclass(frozen=True)
class Again:
    """A claim tested by new runs."""

    claim: Claim
    recorded: Verdict
    again: Verdict

    @property
    def held(self) -> bool:
        """Whether the new runs say the same; fewer seeds may say direction only."""
        weaker = {REPRODUCED: (REPRODUCED, DIRECTION)}.get(self.recorded.name, ())
        return self.again.name == self.recorded.name or self.again.name in weaker


def reproduce(
    claim: Claim,
    out: str | Path,
    *,
    seeds: int = 3,
    steps: int | None = None,
    corpus: str | Corpus = "asv+kjv",
    device: str | None = "cpu",
    items: int | None = None,
) -> Again:
    """Make the runs of a claim anew, judge it by them, and compare with the recorded verdict.

    Args:
        claim: The claim.
        out: The folder of the runs; those that are there are kept, so a stopped one goes on.
        seeds: How many.
        steps: Optimizer steps of every run; None takes the recorded ones.
        corpus: The text.
        device: As for :func:`hcviz.train`; None takes what is there.
        items: Of each task, only so many; None: all.

    Raises:
        HcvizError: If a run fails.
    """
    recorded = verdict_of(claim)
    if not claim.recording:
        return Again(claim, recorded, recorded)
    out, jobs = Path(out), jobs_of(claim, seeds=seeds, steps=steps)
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus, tokenizer=load(jobs[0].source)[1], context=jobs[0].context)
    work(out, lambda _: iter(jobs), lambda job: make(job, out, corpus, device=device, items=items))
    curved = str(claim.measure.arguments.get("metric")).startswith("curvature")
    command = f"hcviz reproduce {claim.name} --seeds {seeds}"
    frames = open_frames(gather(out, command=command, curvature=corpus if curved else None))
    return Again(claim, recorded, verdict_of(claim, frames))

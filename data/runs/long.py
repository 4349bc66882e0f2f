"""Make the long comparison: python data/runs/long.py OUT; the same command goes on after a stop.

A second process with the same command shares the work.

Sources that are short of width (64) and what they are widened to (128), three families, all arms,
three seeds, 2,400 steps of 2,048 tokens of the text that the sources learned from: all half-wide
sources saw the same training chapters, and nobody saw the held-out ones. Order, noise and random
weights of a seed are the same in all arms. Gradients are not clipped, so that the matched source
takes exactly the steps of the noiseless clone. Each arm has, in each family, the learning rate that
was best for it on one grid: seed 0, whole length, factors of two, until both neighbours of the best
rate are worse; what is best in GPT-NeoX, 128 wide, is tried first in the others and in models of
other widths and bases. The matched source has the rate of the symmetric clone, to which it is
matched.

Every run lies in OUT/SOURCE-xFACTOR/lr-RATE/seed-N/ARM. Once it is measured, losses.parquet,
metrics.parquet and done.json lie beside its run.json, and of its weights the last step, whole, and
a few earlier ones in float16. ``python data/runs/long.py OUT --frames`` gathers what is done.
With ``--extend`` what the folder long beside this file has recorded counts as done, so that a run
more costs its own minutes alone; its frames are gathered together with theirs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hcviz.claims.recipe import Job, done, script

SEEDS = range(3)
RATES, START = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2], 8e-3
HALF, WHOLE = "nano:gpt-neox-half", "nano:gpt-neox"
FAMILIES = ["nano:opt-half", "nano:olmo-half"]
BASES = [f"{HALF}@{step}" for step in (188, 375, 750)]
FIRST = ["noisy 10 dB", "symmetric", "random init", "source"]
MATCHED = "matched source"
LATER = ["dropout 0.1", MATCHED, "noisy 40 dB", "diagonal", "noisy diagonal", "random shares"]
WIDER = ["noisy 10 dB", "random init"]
"""The arms that start from other points and widths of the source (figures 8 and 9)."""


def jobs(out: Path) -> Iterator[Job]:
    """Yield the runs that are known to be needed, done or not, what matters most first.

    An arm's other seeds come once its grid is settled, so the list grows with what is done;
    several processes may work it off.
    """
    yield from (Job(HALF, arm, START) for arm in FIRST)
    for name in (HALF, *FAMILIES):
        yield from family(out, FIRST, name)
    yield from family(out, LATER, HALF)
    for name in FAMILIES:
        yield from family(out, LATER, name)
    yield from family(out, WIDER[::-1], WHOLE)
    yield from family(out, WIDER[:1], HALF, 4)
    for base in BASES:
        yield from family(out, WIDER[:1], base)


def family(out: Path, arms: list[str], *pair: Any) -> Iterator[Job]:
    """Yield the grids of arms, then their seeds, of one source and factor (2 unless given)."""
    for arm in arms:
        yield from (job(arm, lr, *pair) for lr in untried(out, arm, *pair))
    settled = list(rates(out, arms, *pair))
    yield from (job(*one, *pair, seed=seed) for seed in SEEDS for one in settled)


def job(arm: str, lr: float, source: str = HALF, factor: int = 2, *, seed: int = 0) -> Job:
    """Return one run."""
    return Job(source, arm, lr, seed, factor=factor)


def grid_of(out: Path, arm: str, *pair: Any) -> dict[float, float]:
    """Return an arm's held-out losses at the end by learning rate; infinite where it diverged."""
    notes = {lr: done(job(arm, lr, *pair), out) for lr in RATES}
    return {lr: note["loss"] or float("inf") for lr, note in notes.items() if note}


def untried(out: Path, arm: str, *pair: Any) -> list[float]:
    """Return the rate to try next, if any: a first one, then neighbours of the best so far."""
    if arm == MATCHED:
        return []
    if losses := grid_of(out, arm, *pair):
        at = RATES.index(min(losses, key=losses.get))
        return [lr for lr in RATES[max(0, at - 1) : at + 2] if lr not in losses][:1]
    return [START] if pair in ((), (HALF,)) else [lr for _, lr in rates(out, [arm])]


def rates(out: Path, arms: list[str], *pair: Any) -> Iterator[tuple[str, float]]:
    """Yield the arms whose grid is settled, with the rate with which each ends lowest."""
    for arm in arms:
        taken = "symmetric" if arm == MATCHED else arm
        losses = grid_of(out, taken, *pair)
        if losses and not untried(out, taken, *pair):
            yield arm, min(losses, key=losses.get)


if __name__ == "__main__":
    script(jobs, source=HALF, context=Job.context)

"""Compare what parts the copies, at one budget: python data/runs/breakers.py OUT.

A GPT-NeoX 32 wide is widened to 64 and trained for 1,200 steps of 1,024 tokens, three seeds. Data
order and rate are the same in all arms, gradients are not clipped, so that the matched source takes
exactly the steps of the noiseless clone. Folders, measures and sharing the work are those of
long.py beside this file: the same command goes on after a stop, and ``python
data/runs/breakers.py OUT --frames`` gathers what is done.
"""

from collections.abc import Iterator
from pathlib import Path

from hcviz.claims.recipe import Job, script

SOURCE, STEPS, SEEDS, RATE, CONTEXT = "nano:gpt-neox-quarter", 1200, range(3), 8e-3, 128
MAIN = ["symmetric", "noisy 10 dB", "gradient noise", "moments reset", "one copy frozen"]
MAIN += ["one copy faster", "no weight decay", "moments warmed"]
NOISE = [f"noisy {ratio} dB" for ratio in (20, 40, 60, 80)]
WEIGHTS = ["random shares", "diagonal", "noisy diagonal"]
FLOOR = ["random init", "source", "matched source"]
"""What no copies are in: no clone, and the source with its own and the clone's steps."""
ROUNDING = ["symmetric in float64", "diagonal in float64"]
"""Does rounding part copies that nothing else does?"""
WIDER = ["noisy 10 dB", "random init"]
"""The arms that are widened four times, too."""
LATER = [*NOISE, "dropout 0.1", *FLOOR, *WEIGHTS, *ROUNDING]


def jobs(out: Path) -> Iterator[Job]:
    """Yield all runs: the seeds of the main arms first; what is done does not matter here."""
    for arms in (MAIN, LATER):
        for seed in SEEDS:
            for arm in arms:
                yield Job(SOURCE, arm, RATE, seed, steps=STEPS, context=CONTEXT)
    for seed in SEEDS:
        for arm in WIDER:
            yield Job(SOURCE, arm, RATE, seed, factor=4, steps=STEPS, context=CONTEXT)


if __name__ == "__main__":
    script(jobs, source=SOURCE, context=CONTEXT, curvature=True)

"""Compare when to grow, at equal compute: python data/runs/growing.py OUT.

A GPT-NeoX 32 wide is trained on and widened to 64 inside the run: at the beginning, or after a
quarter, half or three quarters of the steps. A step of the wide model costs four times as many
FLOPs (6 N per token, tables of the vocabulary left out), so the later an arm grows the more steps
it takes; all spend what 1,200 steps of the wide model do. One more arm grows with the optimizer's
moments afresh. Everything else is as in breakers.py beside this file, and so is going on after a
stop, and gathering: ``python data/runs/growing.py OUT --frames``.
"""

from collections.abc import Iterator
from pathlib import Path

from hcviz.claims.recipe import Job, script

SOURCE, STEPS, SEEDS, RATE, CONTEXT = "nano:gpt-neox-quarter", 1200, range(3), 8e-3, 128
NARROW = {"noisy 10 dB": 0.0, "random init": 0.0, "grown at a quarter": 0.25, "grown at half": 0.5}
NARROW |= {"grown at three quarters": 0.75, "grown at half afresh": 0.5, "source": 1.0}
"""Which share of its steps an arm is 32 wide."""
CHEAPER = 4
"""The FLOPs of a wide step over those of a narrow one."""


def jobs(out: Path) -> Iterator[Job]:
    """Yield all runs, seed by seed; what is done does not matter here."""
    for seed in SEEDS:
        for arm, share in NARROW.items():
            steps = round(STEPS / (share / CHEAPER + 1 - share))
            yield Job(SOURCE, arm, RATE, seed, steps=steps, context=CONTEXT)


if __name__ == "__main__":
    script(jobs, source=SOURCE, context=CONTEXT)

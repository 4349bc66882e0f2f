"""Make the recorded comparisons paper, bases and young again: python data/runs/make.py.

``paper`` is the paper's comparison at the scale of a laptop: nano:gpt-neox widened twofold, the
five initialisations of figure 7, dropout, and two controls, each with three seeds. ``bases`` is
figure 8: symmetric clones of four checkpoints of one source, one seed. ``young`` compares clones of
an early checkpoint, which still learns fast, with the two controls, three seeds. Gradients are not
clipped, so that the matched source takes exactly the steps of the noiseless clone. Runs that are
whole are kept in runs/, so the same command goes on where it was stopped.
"""

import sys
from pathlib import Path

import pandas as pd

import hcviz
from hcviz.runs.recorded import record

SHARED = {"steps": 48, "snapshots": 8, "log_every": 5, "trainer_args": {"max_grad_norm": 0.0}}
SHARED |= {"batch_size": 4, "eval_blocks": 16, "device": "cpu", "keep": "weight$"}
SEEDS = range(3)
ARMS = ["symmetric", "noisy 10 dB", "dropout 0.1", "random init", "source", "diagonal"]
ARMS += ["noisy diagonal", "matched source"]
BASES = ["nano:gpt-neox@300", "nano:gpt-neox@600", "nano:gpt-neox@1200", "nano:gpt-neox"]
COPIES = ["cosine", "cosine.baseline", "ledger"]
SPECTRA = ["effective_rank", "stable_rank", "participation", "power_law", "marchenko_pastur"]
MATRICES = [
    r"layers\.0\.mlp\.dense_h_to_4h\.weight",
    r"layers\.3\.attention\.query_key_value\.weight",
]
MATRICES += [r"layers\.2\.mlp\.dense_4h_to_h\.weight"]
COMMAND = "python data/runs/make.py"


def spectra(runs: list, *, steps: list | None = None) -> pd.DataFrame:
    """Measure the three matrices of figure 6: the whole spectrum at the asked steps only."""
    ranks = hcviz.measure(runs, metrics=SPECTRA, tensors=MATRICES)
    return pd.concat(
        [ranks, hcviz.measure(runs, metrics=["spectrum"], tensors=MATRICES, steps=steps)]
    )


def paper(out: Path) -> None:
    """Train and record the comparison of three seeds."""
    runs, frames = [], []
    for seed in SEEDS:
        here = hcviz.run_arms(out=f"runs/paper/seed-{seed}", arms=ARMS, seed=seed, **SHARED)
        clones = [run for run in here if run.is_clone]
        copies = hcviz.measure(clones, metrics=COPIES, tensors=r"weight$")
        found = [copies, spectra(here, steps=None if seed == 0 else [0, SHARED["steps"]])]
        frames += [frame.assign(seed=seed) for frame in found]
        runs += here
    frame = pd.concat(frames, ignore_index=True)
    record(runs, out / "paper", tensors=[], frame=frame, command=COMMAND, overwrite=True)


def bases(out: Path) -> None:
    """Train and record clones of four checkpoints, and a random start."""
    runs = []
    for name in BASES:
        base = name.removeprefix("nano:")
        small, tokenizer = hcviz.load(name)
        runs.append(
            hcviz.train(
                hcviz.clone(small), out=f"runs/bases/{base}", tokenizer=tokenizer, lr=3e-4, seed=0,
                label=base, source=name, **SHARED,
            )
        )  # fmt: skip
    runs += hcviz.run_arms(out="runs/paper/seed-0", arms=["random init"], **SHARED)
    ledger = hcviz.measure(runs, metrics=["ledger"], tensors=r"weight$")
    record(runs, out / "bases", tensors=[], frame=ledger, command=COMMAND, overwrite=True)


def young(out: Path) -> None:
    """Train and record clones of an early checkpoint and their controls, three seeds."""
    arms, runs = ["symmetric", "noisy 10 dB", "source", "matched source"], []
    for seed in SEEDS:
        here = f"runs/young/seed-{seed}"
        runs += hcviz.run_arms(BASES[0], out=here, arms=arms, seed=seed, **SHARED)
    ledger = hcviz.measure(runs, metrics=["ledger"], tensors=r"layers\.2\..*weight$")
    record(runs, out / "young", tensors=[], frame=ledger, command=COMMAND, overwrite=True)


if __name__ == "__main__":
    shelf = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    paper(shelf)
    bases(shelf)
    young(shelf)

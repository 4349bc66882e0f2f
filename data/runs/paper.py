"""Make the long comparison: python data/runs/paper.py OUT; the same command goes on after a stop.

A second process with the same command shares the work.

Sources that are short of width (64) and what they are widened to (128), three families, all arms,
three seeds, 2,400 steps of 2,048 tokens of the text that the sources learned from: all half-wide
sources saw the same training chapters, and nobody saw the held-out ones. Order, noise and random
weights of a seed are the same in all arms. Gradients are not clipped, so that the matched source
takes exactly the steps of the noiseless clone. Each arm has the learning rate that was best for it
on one grid: GPT-NeoX, seed 0, whole length, factors of two, until both neighbours of the best rate
are worse. The matched source has the rate of the symmetric clone, to which it is matched.

Every run lies in OUT/SOURCE-xFACTOR/lr-RATE/seed-N/ARM. Once it is measured, losses.parquet,
metrics.parquet and done.json lie beside its run.json, and of its weights the last step, whole, and
a few earlier ones in float16. ``python data/runs/paper.py OUT --frames`` gathers what is done.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

import hcviz
from hcviz.errors import HcvizError
from hcviz.io.files import locked, write_text
from hcviz.text.corpus import Corpus, load_corpus
from hcviz.training.snapshots import Keeping, drop_resume_files

STEPS, SEEDS = 2400, range(3)
RATES, START = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3], 2e-3
SNAPSHOTS = [1, 2, 5, 10, 20, 40, 75, 110, 160, 230, 340, 500, 730, 1100, 1600, 2000, STEPS]
MODELS = [0, 230, 500, 1100, 1600]
"""Of these steps models stay, for what is asked of a model later; the last one's stays whole."""
SHARED = {"batch_size": 8, "eval_every": 100, "eval_blocks": 64, "log_every": 20, "device": "cpu"}
SHARED |= {"trainer_args": {"max_grad_norm": 0.0}, "progress": False}
HALF, WHOLE = "nano:gpt-neox-half", "nano:gpt-neox"
FAMILIES = ["nano:opt-half", "nano:olmo-half"]
BASES = [f"{HALF}@{step}" for step in (188, 375, 750)]
FIRST = ["noisy 10 dB", "symmetric", "random init", "source"]
MATCHED = "matched source"
LATER = ["dropout 0.1", MATCHED, "noisy 40 dB", "diagonal", "noisy diagonal", "random shares"]
WIDER = ["noisy 10 dB", "symmetric", "random init"]
"""The arms that start from other points and widths of the source (figures 8 and 9)."""
DONE = "done.json"
COPIES = ["cosine", "cosine.baseline", "ledger"]
RANKS = ["effective_rank", "stable_rank", "participation", "norm", "distance"]
SPECTRUM = [r"layers\.0\..*(dense_h_to_4h|fc1|up_proj)\.weight"]
SPECTRUM += [r"layers\.3\..*(query_key_value|q_proj)\.weight"]
SPECTRUM += [r"layers\.2\..*(dense_4h_to_h|fc2|down_proj)\.weight"]
"""The three matrices of figure 6."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: an arm of one source at one rate and seed."""

    source: str
    arm: str
    lr: float
    seed: int = 0
    factor: int = 2

    @property
    def place(self) -> Path:
        """The folder that run_arms is given; the arm's own lies in it."""
        pair = f"{self.source.removeprefix('nano:')}-x{self.factor}"
        return Path(pair, f"lr-{self.lr:g}", f"seed-{self.seed}")

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.place / self.arm.replace(" ", "-")


def jobs(out: Path) -> Iterator[Job]:
    """Yield the runs that are known to be needed, done or not, what matters most first.

    An arm's other seeds and sources come once its grid is settled, so the list grows with what is
    done; several processes may work it off.
    """
    yield from (Job(HALF, arm, START) for arm in FIRST)
    for arms in (FIRST, LATER):
        for arm in arms:
            yield from (Job(HALF, arm, lr) for lr in untried(out, arm))
        yield from (Job(HALF, arm, lr, seed) for seed in SEEDS for arm, lr in rates(out, arms))
    for arms in (FIRST, LATER):
        for seed in SEEDS:
            yield from (Job(name, *arm, seed) for name in FAMILIES for arm in rates(out, arms))
    for arm, lr in rates(out, WIDER):
        for seed in SEEDS:
            if arm != "random init":
                yield from (Job(base, arm, lr, seed) for base in BASES)
                yield Job(HALF, arm, lr, seed, factor=4)
            yield Job(WHOLE, arm, lr, seed)


def grid_of(out: Path, arm: str) -> dict[float, float]:
    """Return an arm's held-out losses at the end by learning rate; infinite where it diverged."""
    notes = (out / Job(HALF, arm, lr).folder / DONE for lr in RATES)
    found = [json.loads(note.read_text(encoding="utf-8")) for note in notes if note.is_file()]
    return {note["lr"]: note["loss"] or float("inf") for note in found}


def untried(out: Path, arm: str) -> list[float]:
    """Return the rates to try: the first, then the neighbours, in RATES, of the best so far."""
    losses = grid_of(out, arm)
    if arm == MATCHED or not losses:
        return [START] * (arm != MATCHED)
    at = RATES.index(min(losses, key=losses.get))
    return [lr for lr in RATES[max(0, at - 1) : at + 2] if lr not in losses]


def rates(out: Path, arms: list[str]) -> Iterator[tuple[str, float]]:
    """Yield the arms whose grid is settled, with the rate with which each ends lowest."""
    for arm in arms:
        taken = "symmetric" if arm == MATCHED else arm
        losses = grid_of(out, taken)
        if losses and not untried(out, taken):
            yield arm, min(losses, key=losses.get)


def make(job: Job, out: Path, corpus: Corpus, *, steps: int = STEPS) -> None:
    """Train and measure one run, keep its frames and drop most of its weights."""
    folder, began = out / job.folder, time.process_time()
    snapshots = [step for step in SNAPSHOTS if step < steps]
    try:
        [run] = hcviz.run_arms(
            job.source, out=out / job.place, arms=[job.arm], factor=job.factor, steps=steps,
            lr=job.lr, seed=job.seed, corpus=corpus, snapshots=snapshots, **SHARED,
        )  # fmt: skip
    except HcvizError as error:
        if "loss became" not in str(error):
            raise
        note(folder, job, loss=None, stopped=str(error))
        return
    metrics = RANKS + (COPIES if run.is_clone else [])
    frames = [hcviz.measure(run, metrics=metrics, tensors=r"weight$", cache=False)]
    frames += [hcviz.measure(run, metrics=["spectrum"], tensors=SPECTRUM, cache=False)]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "metrics.parquet", index=False)
    losses = run.history
    losses.to_parquet(folder / "losses.parquet", index=False)
    drop_resume_files(folder / f"checkpoint-{steps}")
    for step in run.steps[:-1]:
        place = folder / f"checkpoint-{step}"
        Keeping(dtype="float16").thin(place) if step in MODELS else shutil.rmtree(place)
    loss = corpus.heldout_loss(run.model(steps))
    note(folder, job, loss=loss, cpu_minutes=round((time.process_time() - began) / 60, 2))


def note(folder: Path, job: Job, **facts: object) -> None:
    """Say that a run is done, and its loss at the end on all that is held out."""
    text = json.dumps(dataclasses.asdict(job) | facts, indent=2)
    write_text(folder / DONE, text + "\n")


def gather(out: Path) -> None:
    """Write frames/: the losses and metrics of all runs that are done, and a row for each run."""
    rows, tables, keys = (
        [],
        {"losses": [], "metrics": []},
        [f.name for f in dataclasses.fields(Job)],
    )
    for path in sorted(out.glob("*/lr-*/seed-*/*/done.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        info = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
        kept = {"command", "started", "tokens", "epochs", "parameters", "versions", "clone"}
        facts = {key: info[key] for key in sorted(kept)}
        facts |= {"corpus": info["corpus"]["fingerprint"], "weights": info["request"]["model"]}
        rows.append(
            found | {k: json.dumps(v) if isinstance(v, dict) else v for k, v in facts.items()}
        )
        for name, parts in tables.items():
            if found["loss"] is not None:
                frame = pd.read_parquet(path.parent / f"{name}.parquet")
                if name == "metrics":  # whole spectra are long: those of figure 6 alone
                    ends = frame["step"].isin([0, frame["step"].max()])
                    frame = frame[ends | (frame["metric"] != "spectrum")]
                parts.append(frame.assign(**{key: found[key] for key in keys}))
    frames = {"runs": pd.DataFrame(rows)} | {
        name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()
    }
    (out / "frames").mkdir(exist_ok=True)
    hashes = {}
    for name, frame in frames.items():
        frame.to_parquet(out / "frames" / f"{name}.parquet", index=False, compression="zstd")
        hashes[name] = hashlib.sha256((out / "frames" / f"{name}.parquet").read_bytes()).hexdigest()
    facts = {"command": "python data/runs/paper.py OUT", "runs": len(rows), "sha256": hashes}
    write_text(out / "frames" / "recorded.json", json.dumps(facts, indent=2) + "\n")


def work(out: Path, jobs: Callable[[Path], Iterator[Job]], make: Callable[[Job], None]) -> None:
    """Make what is not there yet and no other process makes, one run after the other."""
    busy = set()
    while job := next(
        (job for job in jobs(out) if job not in busy and not (out / job.folder / DONE).is_file()),
        None,
    ):
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(f"{out / job.folder}.job"))
            except HcvizError:
                busy.add(job)
                continue
            print(time.strftime("%F %T"), job, flush=True)
            make(job)
            print((out / job.folder / DONE).read_text(encoding="utf-8"), flush=True)


def main(out: Path) -> None:
    """Work the list of the long comparison off."""
    _, tokenizer = hcviz.load(HALF)
    corpus = load_corpus("asv+kjv", tokenizer=tokenizer, context=256)
    work(out, jobs, lambda job: make(job, out, corpus))


if __name__ == "__main__":
    (gather if "--frames" in sys.argv else main)(Path(sys.argv[1]))

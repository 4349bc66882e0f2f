"""The runs of recorded comparisons: a job for each, made, measured, thinned and gathered."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.errors import HcvizError
from hcviz.io.files import fresh_file, locked, write_text
from hcviz.io.sources import load
from hcviz.metrics import measure
from hcviz.metrics.accuracy import evaluate
from hcviz.runs.run import Run
from hcviz.text.corpus import Corpus, load_corpus
from hcviz.training.snapshots import Keeping, drop_resume_files
from hcviz.views.arms import run_arms

DONE = "done.json"
LAST = "losses.parquet"
"""What is written last before weights go; where it is, a run is not measured again."""
RECORDED = "recorded"
"""The folder, among the runs, of frames that are gone on from."""
SNAPSHOTS = (1, 2, 5, 10, 20, 40, 75, 110, 160, 230, 340, 500, 730, 1100, 1600, 2000)
MODELS = (0, 230, 500, 1100, 1600)
"""Of these steps models stay, for what is asked of a model later; the last one's stays whole."""
SHARED = {"batch_size": 8, "eval_every": 100, "eval_blocks": 64, "log_every": 20}
SHARED |= {"trainer_args": {"max_grad_norm": 0.0}, "progress": False}
COPIES = ["cosine", "cosine.baseline", "ledger"]
RANKS = ["effective_rank", "stable_rank", "participation", "norm", "distance"]
SPECTRUM = [r"layers\.0\..*(dense_h_to_4h|fc1|up_proj)\.weight"]
SPECTRUM += [r"layers\.3\..*(query_key_value|q_proj)\.weight"]
SPECTRUM += [r"layers\.2\..*(dense_4h_to_h|fc2|down_proj)\.weight"]
"""The three matrices of figure 6."""
FRAMES = ("losses", "metrics", "accuracy", "curvature")
LOCKED, CURVED = "symmetric", (0, 230)
"""The arm whose curvature is measured, for minutes a run, and at which of the steps it kept."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: an arm of one source at one rate and seed."""

    source: str
    arm: str
    lr: float
    seed: int = 0
    factor: int = 2
    steps: int = 2400
    context: int = 256

    @property
    def place(self) -> Path:
        """The folder that run_arms is given; the arm's own lies in it."""
        pair = f"{Path(self.source.removeprefix('nano:')).name}-x{self.factor}"
        return Path(pair, f"lr-{self.lr:g}", f"seed-{self.seed}")

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.place / self.arm.replace(" ", "-")


def job_of(row: Mapping[str, Any]) -> Job:
    """Return the job of a note, or of a row of recorded runs."""
    names = [field.name for field in dataclasses.fields(Job)]
    return Job(**{name: row[name] for name in names if name in row})


def done(job: Job, out: Path) -> dict[str, Any] | None:
    """Return what a job that is done left as a note; None if it is not done."""
    path = out / job.folder / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def make(
    job: Job, out: Path, corpus: Corpus, *, device: str | None = "cpu", items: int | None = None
) -> None:
    """Train and measure one run, keep its frames and drop most of its weights.

    Args:
        job: What is trained.
        out: The folder of all runs.
        corpus: The text.
        device: As for :func:`hcviz.train`.
        items: Of each task, only so many; None: all.
    """
    folder, began = out / job.folder, time.process_time()
    if not (folder / LAST).is_file():
        try:
            run = train(job, out, corpus=corpus, device=device)
        except HcvizError as error:
            if "loss became" not in str(error):
                raise
            note(folder, job, loss=None, stopped=str(error))
            return
        measure_weights(run)
    run = Run(folder)
    drop_resume_files(folder / f"checkpoint-{job.steps}")
    for step in run.steps[:-1]:
        place = folder / f"checkpoint-{step}"
        Keeping(dtype="float16").thin(place) if step in MODELS else shutil.rmtree(place)
    measure_accuracy(folder, items)
    loss = corpus.heldout_loss(run.model(job.steps))
    note(folder, job, loss=loss, cpu_minutes=round((time.process_time() - began) / 60, 2))


def train(job: Job, out: Path, **options: Any) -> Run:
    """Train one run, or go on with it."""
    snapshots = [step for step in SNAPSHOTS if step < job.steps] + [job.steps]
    [run] = run_arms(
        job.source, out=out / job.place, arms=[job.arm], factor=job.factor, steps=job.steps,
        lr=job.lr, seed=job.seed, snapshots=snapshots, **(SHARED | options),
    )  # fmt: skip
    return run


def measure_weights(run: Run) -> None:
    """Write what is measured of a run's weights, while all are there, and its losses last."""
    metrics = RANKS + (COPIES if run.is_clone else [])
    frames = [measure(run, metrics=metrics, tensors=r"weight$", cache=False)]
    frames += [measure(run, metrics=["spectrum"], tensors=SPECTRUM, cache=False)]
    pd.concat(frames, ignore_index=True).to_parquet(run.path / "metrics.parquet", index=False)
    with fresh_file(run.path / LAST) as scratch:
        run.history.to_parquet(scratch, index=False)


def measure_accuracy(folder: Path, items: int | None = None) -> None:
    """Measure accuracy on the tasks that ship, at the steps whose models a run has kept."""
    kept = folder / "accuracy.parquet"
    if not kept.is_file():
        evaluate(Run(folder), limit=items, cache=False).to_parquet(kept, index=False)


def measure_curvature(job: Job, out: Path, corpus: Corpus) -> None:
    """Measure how the loss curves along the copies of a run, on its held-out text, if not yet.

    The first steps are taken once more: where they end the moments, which the run drops, are kept.
    """
    kept = out / job.folder / "curvature.parquet"
    if kept.is_file():
        return
    steps = [min(step, job.steps) for step in CURVED]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        run = train(job, Path(scratch), corpus=corpus, device="cpu", until=steps[-1])
        frame = measure(run, metrics=["curvature", "curvature.adam"], steps=steps, cache=False)
    frame.to_parquet(kept, index=False)


def note(folder: Path, job: Job, **facts: object) -> None:
    """Say that a run is done, and its loss at the end on all that is held out."""
    text = json.dumps(dataclasses.asdict(job) | facts, indent=2)
    write_text(folder / DONE, text + "\n")


def work(out: Path, jobs: Callable[[Path], Iterator[Job]], make: Callable[[Job], None]) -> None:
    """Make what is not there yet and no other process makes, one run after the other.

    Args:
        out: The folder of the runs.
        jobs: Gives the jobs that are known to be needed, for a folder; asked again after each.
        make: Makes one, and leaves its note.
    """
    busy = set()
    while job := next((j for j in jobs(out) if j not in busy and not done(j, out)), None):
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(f"{out / job.folder}.job"))
            except HcvizError:
                busy.add(job)
                continue
            if done(job, out):  # by a process that let go of it just now
                continue
            print(time.strftime("%F %T"), job, flush=True)
            make(job)
            print((out / job.folder / DONE).read_text(encoding="utf-8"), flush=True)


def extend(out: Path, recorded: Path) -> None:
    """Let the runs of recorded frames count as done in a folder; :func:`gather` takes them along.

    Args:
        out: The folder of the runs.
        recorded: A folder of frames, as :func:`gather` writes them.
    """
    if not (out / RECORDED).is_dir():
        shutil.copytree(recorded, out / RECORDED)
    for row in pd.read_parquet(out / RECORDED / "runs.parquet").to_dict("records"):
        job, loss = job_of(row), row["loss"]
        if not done(job, out):
            (out / job.folder).mkdir(parents=True, exist_ok=True)
            note(out / job.folder, job, loss=None if pd.isna(loss) else loss)


def gather(out: Path, *, command: str, curvature: Corpus | None = None) -> Path:
    """Write frames/: the losses and metrics of all runs that are done, and a row for each run.

    Args:
        out: The folder of the runs.
        command: The command that makes them again.
        curvature: The text of the runs, to measure the curvature of locked clones, too.

    Returns:
        The folder of the frames: losses, metrics, accuracy, runs, and curvature if it was asked
        for, as parquet, and recorded.json with the command and the hashes of them.

    Raises:
        HcvizError: If the runs did not all read the same text, so that no losses compare.
    """
    rows, tables = [], {name: [] for name in ("runs", *FRAMES)}
    for name, parts in tables.items():
        if (path := out / RECORDED / f"{name}.parquet").is_file():
            parts.append(pd.read_parquet(path))
    recorded = {job_of(row) for part in tables["runs"] for row in part.to_dict("records")}
    for path in sorted(out.glob(f"*/lr-*/seed-*/*/{DONE}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if (job := job_of(found)) in recorded:
            continue
        rows.append(row_of(path.parent, found | dataclasses.asdict(job)))
        if found["loss"] is None:
            continue
        measure_accuracy(path.parent)
        curved = curvature and job.arm == LOCKED
        if curved:
            measure_curvature(job, out, curvature)
        for name in FRAMES if curved else FRAMES[:-1]:
            frame = pd.read_parquet(path.parent / f"{name}.parquet")
            if name == "metrics":  # whole spectra are long: those of figure 6 alone
                ends = frame["step"].isin([0, frame["step"].max()])
                frame = frame[ends | (frame["metric"] != "spectrum")]
            tables[name].append(frame.assign(**dataclasses.asdict(job)))
    tables["runs"] += [pd.DataFrame(rows)] * bool(rows)
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items() if parts}
    if len(texts := frames["runs"]["corpus"].unique()) > 1:
        raise HcvizError(
            f"The runs in {out} did not all read the same text (fingerprints {', '.join(texts)}), "
            "so their losses do not compare. Make all of them again, in a new folder."
        )
    (out / "frames").mkdir(exist_ok=True)
    hashes = {}
    for name, frame in frames.items():
        path = out / "frames" / f"{name}.parquet"
        frame.to_parquet(path, index=False, compression="zstd")
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"command": command, "runs": len(frames["runs"]), "sha256": hashes}
    write_text(out / "frames" / "recorded.json", json.dumps(facts, indent=2) + "\n")
    return out / "frames"


def row_of(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a run that is done: its note, and the story in its run.json."""
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    kept = {"command", "started", "tokens", "epochs", "parameters", "versions", "clone", "machine"}
    facts = {key: info.get(key) for key in sorted(kept)}
    facts |= {"corpus": info["corpus"]["fingerprint"], "weights": info["request"]["model"]}
    return found | {k: json.dumps(v) if isinstance(v, dict) else v for k, v in facts.items()}


def script(
    jobs: Callable[[Path], Iterator[Job]], *, source: str, context: int, curvature: bool = False
) -> None:
    """Run a script of ``data/runs``: work its list off in a folder, or gather what is done there.

    With ``--extend`` what the script's own folder of ``data/runs`` has recorded is not made again.

    Args:
        jobs: As for :func:`work`.
        source: The model whose tokenizer reads the text.
        context: Tokens in a block.
        curvature: Whether to measure the curvature of locked clones, too.
    """
    name, out = Path(sys.argv[0]), Path(sys.argv[1])
    if "--extend" in sys.argv:
        extend(out, name.with_suffix(""))
    corpus = load_corpus("asv+kjv", tokenizer=load(source)[1], context=context)
    if "--frames" in sys.argv:
        command = f"python data/runs/{name.name} OUT"
        gather(out, command=command, curvature=corpus if curvature else None)
        return
    work(out, jobs, lambda job: make(job, out, corpus))

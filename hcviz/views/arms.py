"""The main job: train the arms of a comparison side by side, and say what was seen."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.errors import HcvizError
from hcviz.runs.run import Run


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison: what is trained, and what is to part its copies."""

    start: str
    """``clone`` (of the source), ``random`` (the clone's size, fresh weights) or ``source``."""
    expansion: str = "symmetric"
    snr_db: float | None = None
    """Of the noisy expansions; None means 10 dB."""
    dropout: float = 0.0
    breaker: str | None = None
    """As :func:`hcviz.train` takes it."""
    weight_decay: float | None = None
    """Another one than that of the other arms."""
    growth: tuple[float, str] | None = None
    """Grown inside the run: at which share of its steps, and what, as :func:`hcviz.grow` reads."""
    matched: bool = False
    """Whether it takes the steps of the noiseless clone: the matched effective learning rate."""
    double: bool = False
    """Whether the clone is held and trained in float64: its rounding is a billion times finer."""


NOISY = "expansion=noisy-symmetric"
ARMS = {
    "symmetric": Arm("clone"),
    "noisy 10 dB": Arm("clone", expansion="noisy-symmetric"),
    "dropout 0.1": Arm("clone", dropout=0.1),
    "random init": Arm("random"),
    "source": Arm("source"),
    "diagonal": Arm("clone", expansion="diagonal"),
    "noisy diagonal": Arm("clone", expansion="noisy-diagonal"),
    "matched source": Arm("source", matched=True),
    "noisy 40 dB": Arm("clone", expansion="noisy-symmetric", snr_db=40),
    "random shares": Arm("clone", expansion="random"),
    "noisy 20 dB": Arm("clone", expansion="noisy-symmetric", snr_db=20),
    "noisy 60 dB": Arm("clone", expansion="noisy-symmetric", snr_db=60),
    "noisy 80 dB": Arm("clone", expansion="noisy-symmetric", snr_db=80),
    "no weight decay": Arm("clone", expansion="noisy-symmetric", weight_decay=0.0),
    "gradient noise": Arm("clone", breaker="gradient-noise:scale=0.01,steps=1"),
    "moments reset": Arm("clone", breaker="moments-reset:at=10%,steps=5%"),
    "one copy faster": Arm("clone", breaker="copy-rate:factor=2"),
    "one copy frozen": Arm("clone", breaker="copy-frozen:steps=10%"),
    "moments warmed": Arm("clone", breaker="moments-warm:steps=5%"),
    "grown at a quarter": Arm("source", growth=(0.25, NOISY)),
    "grown at half": Arm("source", growth=(0.5, NOISY)),
    "grown at three quarters": Arm("source", growth=(0.75, NOISY)),
    "grown at half afresh": Arm("source", growth=(0.5, f"{NOISY},optimizer=fresh")),
    "symmetric in float64": Arm("clone", double=True),
    "diagonal in float64": Arm("clone", expansion="diagonal", double=True),
}
"""The arms that there are. All share data order, learning rate, schedule and steps."""
DEMO = list(ARMS)[:5]
"""The arms of the demo."""


def run_arms(
    source: str | Path = "nano:gpt-neox",
    *,
    out: str | Path = "runs/demo",
    arms: Iterable[str] | None = None,
    factor: int = 2,
    steps: int = 80,
    lr: float = 3e-4,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    **training: Any,
) -> list[Run]:
    """Make and train the arms; a run that is already there is kept.

    Args:
        source: What :func:`hcviz.load` takes.
        out: The folder for the runs, one folder for each arm.
        arms: Names from :data:`ARMS`; those of the demo if None.
        factor: Widens every axis.
        steps: Optimizer steps.
        lr: Peak learning rate; the paper uses 1.5e-4 and 3e-4.
        seed: Seed of data order, noise, dropout and random weights.
        overwrite: Train again what is there.
        progress: Show progress bars.
        **training: Further arguments of :func:`hcviz.train`.

    Returns:
        The runs, in the order of the arms.

    Raises:
        HcvizError: If an arm is unknown, or asks for dropout of a model that cannot drop, both
            before anything is trained; or if cloning or training fails.
    """
    from hcviz.cloning.clone import clone
    from hcviz.io.sources import load
    from hcviz.training.breakers import set_dropout
    from hcviz.training.train import train
    from hcviz.views.growth import grow

    names = list(DEMO if arms is None else arms)
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise HcvizError(f"Unknown arms {', '.join(unknown)}; there are {', '.join(ARMS)}.")
    small, tokenizer = load(source)
    for name in (name for name in names if ARMS[name].dropout):
        try:
            set_dropout(copy.deepcopy(small), ARMS[name].dropout)
        except HcvizError as error:
            others = [other for other in names if not ARMS[other].dropout]
            raise HcvizError(
                f"The arm {name!r} of {source}: {error} Or pass arms={others}."
            ) from error
    shared = {"tokenizer": tokenizer, "source": source, "steps": steps, "lr": lr, "seed": seed}
    shared |= {"overwrite": overwrite, "progress": progress}
    runs = []
    for name in names:
        arm = ARMS[name]
        model = start_of(arm, small, factor=factor, seed=seed, source=source)
        own = {} if arm.weight_decay is None else {"weight_decay": arm.weight_decay}
        run, lockstep = train, clone(small, hidden=factor) if arm.matched else None
        if arm.growth:
            share, how = arm.growth
            run = partial(grow, at={round(share * steps): f"hidden={factor},seed={seed},{how}"})
        own |= {"dropout": arm.dropout, "breaker": arm.breaker, "lockstep": lockstep, "label": name}
        runs.append(run(model, out=Path(out) / name.replace(" ", "-"), **shared | training | own))
    return runs


def start_of(arm: Arm, small: Any, *, factor: int, seed: int, source: str | Path) -> Any:
    """Return the model that an arm starts from.

    Args:
        arm: The arm.
        small: The source model.
        factor: Widens every axis.
        seed: Seed of noise or random weights.
        source: The source's name, for the record.
    """
    from transformers import AutoModelForCausalLM, set_seed

    from hcviz.cloning.clone import clone

    if arm.start == "source":
        return small
    wide = clone(small, hidden=factor, expansion=arm.expansion, snr_db=arm.snr_db, seed=seed)
    if arm.start == "clone":
        wide.config.hcviz["source"] = str(source)
        return wide.double() if arm.double else wide
    config = copy.deepcopy(wide.config)
    del config.hcviz
    set_seed(seed)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()


def history(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the histories of several runs as one frame."""
    return pd.concat([run.history for run in runs], ignore_index=True)


def findings(runs: Sequence[Run], frame: pd.DataFrame) -> list[str]:
    """Say in a few lines who stayed locked, who left and how far, and whose loss is where.

    Args:
        runs: The runs.
        frame: Rows of the metrics ``ledger``, ``cosine`` and ``spectrum`` for them, as far as they
            were measured.
    """
    lines = []
    for run in runs:
        rows = frame[frame["run"] == run.name]
        ledger = rows[rows["metric"] == "ledger"]
        if len(ledger):
            lines.append(f"{run.name}: {_parting(ledger, run)}{_turning(rows)}")
    lines += _filling(frame)
    ends = {run.name: _heldout(run) for run in runs}
    start = next((e.iloc[0] for n, e in ends.items() if n == "source" and len(e)), None)
    order = sorted(((float(e.iloc[-1]), name) for name, e in ends.items() if len(e)))
    listed = ", ".join(f"{name} {loss:.3f}" for loss, name in order)
    lines.append(f"Held-out loss at the end, nats per token: {listed}.")
    if start is not None:
        lines.append(
            f"The source started at {start:.3f}: compare the clones with 'source', not only with "
            "a random start. One seed: differences of a hundredth are not a result."
        )
    return lines


def _parting(ledger: pd.DataFrame, run: Run) -> str:
    """Say how much of a run's weights has left the symmetric part, axis by axis."""
    first, last = (
        ledger[ledger["step"] == s].groupby("axis")["value"].mean() for s in (0, run.steps[-1])
    )
    if (ledger["value"] == 0).all():
        return (
            f"locked. After {run.steps[-1]} steps every copy in every weight is still "
            "bit-identical."
        )
    moves = ", ".join(
        f"{axis} {first[axis]:.2g} -> {last[axis]:.2g}" if last[axis] else f"{axis} still locked"
        for axis in last.index
    )
    what = "left its copies behind" if (first == 0).all() else "never was locked"
    return f"{what}. Share of squared norm outside the symmetric part: {moves}."


def _turning(rows: pd.DataFrame) -> str:
    """Say where the cosine of the copies began, how far it went either way, and where it ended."""
    means = rows[rows["metric"] == "cosine"].groupby("step")["value"].mean()
    if means.empty or means.min() > 1 - 1e-6:
        return ""
    ends = f"{means.iloc[0]:.3f} -> {means.iloc[-1]:.3f}"
    return f" Cosine of the copies: {ends} (highest {means.max():.3f}, lowest {means.min():.3f})."


def _filling(frame: pd.DataFrame) -> list[str]:
    """Say which share of the singular values is above a thousandth of the largest."""
    rows = frame[frame["metric"] == "spectrum"]
    if rows.empty:
        return []
    largest = rows.groupby(["run", "step", "tensor"])["value"].transform("max")
    shares = (rows["value"] > 1e-3 * largest).groupby([rows["run"], rows["step"]]).mean()
    said = (f"{name} {part.iloc[0]:.0%} -> {part.iloc[-1]:.0%}" for name, part in
            shares.groupby("run", sort=False))  # fmt: skip
    return [f"Singular values above a thousandth of the largest: {', '.join(said)}."]


def _heldout(run: Run) -> pd.Series:
    """Return a run's held-out losses in order."""
    rows = run.history
    return rows[rows["split"] == "heldout"].sort_values("step")["loss"].reset_index(drop=True)

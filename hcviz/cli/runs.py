"""Commands that make runs and their figures: train, figures, demo."""

import re
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from hcviz.cli.common import Model, Name, Runs, options_of, typed_command
from hcviz.errors import HcvizError
from hcviz.training.request import TrainRequest

ATTENTION_OUTPUT = re.compile(r"(o_proj|out_proj|attention\.dense|attn\.c_proj)\.weight$")
"""What a recording keeps: the smallest matrix that has copies on both sides."""
SHORT = {"corpus": "asv+kjv", "context": 64, "batch_size": 8, "eval_blocks": 64, "snapshots": 14}
"""Of the demo: many small steps, since copies part by steps more than by tokens."""

Train = options_of(
    TrainRequest,
    "corpus steps batch_size context lr dropout breaker seed snapshots keep snapshot_dtype "
    "disk_budget metrics metric_tensors label device dtype overwrite",
    corpus=str,
    dropout=Annotated[float | None, arg(metavar="P")],
    breaker=Annotated[tuple[str, ...] | None, arg(metavar="BREAKER [BREAKER ...]")],
    snapshots=int,
    keep=Annotated[str | None, arg(metavar="REGEX")],
    disk_budget=Annotated[str | None, arg(metavar="SIZE")],
    metrics=tuple[str, ...],
    metric_tensors=Annotated[tuple[str, ...] | None, arg(metavar="REGEX [REGEX ...]")],
    **dict.fromkeys(("snapshot_dtype", "label", "device", "dtype"), Name),
)


def train(
    model: Model,
    /,
    out: Path,
    request: Train,
    grow_at: Annotated[tuple[str, ...], arg(metavar="STEP=HOW [STEP=HOW ...]")] = (),
) -> int:
    """Train a model for a while and keep snapshots at log-spaced steps.

    The run's folder is a plain Trainer output that every tool of the ecosystem opens. The same
    command goes on where it was interrupted. The learning rate warms up over a tenth of the steps
    and falls to a tenth as a cosine. Past one process: torchrun --nproc_per_node N -m hcviz
    train ...

    Args:
        model: A folder, a hub id, or nano:NAME.
        out: The run's folder.
        request: What the run is to be.
        grow_at: Grow the model inside the run, optimizer state and all: 600=hidden=2,snr_db=20 or
            900=layers=6; settings are those of hcviz clone and deepen (docs/growing.md).
    """
    import hcviz

    if grow_at:
        at = dict(_growth(text) for text in grow_at)
        run = hcviz.grow(model, out=out, at=at, **vars(request))
    else:
        run = hcviz.train(model, out=out, **vars(request))
    heldout = run.history.query("split == 'heldout'")["loss"]
    print(
        f"held-out loss {heldout.iloc[0]:.3f} -> {heldout.iloc[-1]:.3f} nats/token; the run is "
        f"in {out}"
    )
    return 0


def _growth(text: str) -> tuple[int, str]:
    """Read one growth: a step, and what grows there."""
    step, _, how = text.partition("=")
    if not step.isdigit():
        raise HcvizError(f"--grow-at {text!r} does not begin with a step, as 600=hidden=2 does.")
    return int(step), how


def figures(runs: Runs, /, out: Path = Path("figures")) -> int:
    """Draw every figure of a comparison from its runs: PNG, SVG, data and command.

    Args:
        runs: Folders that hcviz train wrote; at least one started from a clone.
        out: Folder of the figures.
    """
    from hcviz.runs.run import Run
    from hcviz.views.figures import draw

    if not runs:
        raise HcvizError("Give at least one run folder, for example: hcviz figures runs/demo/*")
    return _say(draw([Run(path) for path in runs], out, command=typed_command()).findings, out)


def demo(
    source: str = "nano:gpt-neox-quarter",
    out: Path = Path("runs/demo"),
    figures: Path = Path("figures"),
    steps: int = 1200,
    lr: float = 6e-3,
    seed: int = 0,
    record: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    overwrite: bool = False,
) -> int:
    """Run the main job: clone a source, train five arms side by side, draw them, say what was seen.

    The arms: the symmetric clone, the noisy clone (10 dB), the symmetric clone with dropout 0.1, a
    random start of the clone's size, and the source trained on. Same data order and learning rate
    for all: eight blocks of 64 tokens a step, from two translations of the Bible.

    Args:
        source: A folder, a hub id, or nano:NAME; the default is small and short of width, so that
            much happens in minutes. A larger one wants fewer steps and a lower rate.
        out: Folder of the runs; whole ones are kept.
        figures: Folder of the figures.
        steps: Optimizer steps of every arm.
        lr: Peak learning rate of every arm; the paper uses 1.5e-4 and 3e-4 for large models.
        seed: Seed of everything random.
        record: Also keep a small recording there, as the notebooks open it.
        overwrite: Train again what is there, and replace the recording.
    """
    import hcviz
    from hcviz.io.files import check_free
    from hcviz.io.sources import load
    from hcviz.runs.recorded import record as keep
    from hcviz.views.arms import ARMS, run_arms, start_of
    from hcviz.views.figures import draw

    if record:
        check_free(record, overwrite=overwrite)
    small, _ = load(source)
    wide = start_of(ARMS["symmetric"], small, factor=2, seed=seed, source=source)
    print(f"{source}: {small.num_parameters():,} parameters, its clone {wide.num_parameters():,}")
    report = hcviz.verify(small, wide)
    print(report, end="\n\n")
    if not report.passed:
        return 1
    shared = SHORT | {"eval_every": max(1, steps // 20)}
    runs = run_arms(source, out=out, steps=steps, lr=lr, seed=seed, overwrite=overwrite, **shared)
    drawn = draw(runs, figures, command=typed_command(), notes=[_seeds()])
    if record:
        tensors = [name for name in runs[0].names() if ATTENTION_OUTPUT.search(name)][-2:-1]
        made = {"frame": drawn.frame, "command": typed_command(), "overwrite": overwrite}
        keep(runs, record, tensors=tensors, **made)
    return _say(drawn.findings, figures)


def _seeds() -> str:
    """Say what several recorded seeds of the same pair of models say of the arm that left."""
    from hcviz.claims.claim import find_claim
    from hcviz.claims.reproduce import verdict_of

    claim = find_claim("noise-breaks-atlas")
    return (
        f"Recorded runs of nano:gpt-neox-quarter say of {claim.title.lower()!r}: "
        f"{verdict_of(claim)} (hcviz reproduce {claim.name})."
    )


def _say(lines: list[str], out: Path) -> int:
    """Print findings and where the files are."""
    print("\nWhat was seen")
    print("\n".join(f"- {line}" for line in lines))
    print(f"The pictures (PNG, SVG, data, command) are in {out}/")
    return 0

"""Commands that look at what is there: measure, evaluate, plot, diff, audit."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hcviz.cli.common import Model, Runs, setting, typed_command
from hcviz.errors import HcvizError
from hcviz.io.files import fresh_file


def measure(
    runs: Runs,
    /,
    metrics: tuple[str, ...] = ("cosine", "ledger"),
    tensors: tuple[str, ...] = (),
    steps: tuple[int, ...] = (),
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Measure runs over their snapshots; what was measured before is not measured again.

    Args:
        runs: Folders that hcviz train wrote.
        metrics: For example cosine, ledger, pairs, spectrum, update.ledger; docs/metrics has all.
        tensors: Regular expressions of tensor names; none: all.
        steps: Steps to measure; none: all.
        out: Write the table there, .csv, .parquet or .json; None: print a summary.
    """
    import hcviz

    _check_ending(out)
    frame = hcviz.measure(
        list(runs), metrics=metrics, tensors=tensors or None, steps=steps or None, progress=True
    )
    if not _written(frame, out):
        shown = frame.groupby(["run", "metric", "axis", "step"], dropna=False)["value"].mean()
        _print(shown.unstack("step").reset_index())
    return 0


def evaluate(
    models: Positional[Annotated[tuple[str, ...], arg(metavar="MODEL [MODEL ...]")]],
    /,
    tasks: tuple[str, ...] = (),
    steps: tuple[int, ...] = (),
    limit: Annotated[int | None, arg(metavar="N")] = None,
    harness: bool = False,
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Say how often models choose right in multiple-choice tasks, beside what guessing gives.

    Tasks of hcviz's own are made of held-out text, for models as small as the shipped ones. Any
    other name is a task of lm-evaluation-harness (pip install 'hcviz[eval]'), with data of the hub.

    Args:
        models: Runs, model folders, hub ids, or nano:NAME.
        tasks: Names; none: hcviz's own ten, which data/tasks explains.
        steps: Steps of runs; none: all at which the whole model was kept.
        limit: Only the first items of each task.
        harness: Have the harness score hcviz's own tasks too.
        out: Write the table there, .csv, .parquet or .json; None: print a summary.
    """
    import hcviz

    if not models:
        raise HcvizError("Give at least one model or run, for example: hcviz evaluate nano:llama")
    _check_ending(out)
    frame = hcviz.evaluate(
        list(models), tasks=tasks or None, steps=steps or None, limit=limit, harness=harness,
        progress=True,
    )  # fmt: skip
    if _written(frame, out):
        return 0
    frame["at"] = frame["run"] + ("@" + frame["step"].astype("string")).fillna("")
    table = frame.pivot_table(
        index=["task", "metric", "chance"], columns="at", values="value", sort=False, dropna=False
    )
    _print(table.reset_index(), "{:.3f}")
    return 0


def plot(
    runs: Runs,
    /,
    figure: str = "ledger",
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
    tensors: tuple[str, ...] = (),
    steps: tuple[int, ...] = (),
    text: str | None = None,
) -> int:
    """Draw one figure of runs: PNG, SVG, the data as CSV, and the command.

    Args:
        runs: Folders that hcviz train wrote.
        figure: Its name in hcviz.plots, for example loss, ledger, cosine, spectrum, blocks.
        out: Where it goes, without an ending; None: figures/NAME.
        tensors: Regular expressions of tensor names; none: all, or one up-projection.
        steps: Steps to show; none: all.
        text: What the heads of the figure patterns read, for example a sentence of your own.
    """
    from hcviz import plots
    from hcviz.runs.run import Run
    from hcviz.views.figures import figure as draw

    if not runs:
        raise HcvizError("Give at least one run folder, for example: hcviz plot runs/demo/*")
    opened = [Run(path) for path in runs]
    asked = {"tensors": tensors or None, "steps": steps or None, "text": text}
    axes, data = draw(opened, figure, **asked, progress=True)
    written = plots.save(axes, out or Path("figures") / figure, data=data, command=typed_command())
    print("\n".join(map(str, written.values())))
    return 0


def diff(
    a: Model,
    b: Model,
    /,
    factors: Annotated[str | None, arg(metavar="AXIS=N,...")] = None,
    top: int = 20,
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Compare a source with its clone, or a model with itself later, tensor by tensor.

    Says how far each weight moved, relative to its norm, and in which sector: the part that all
    copies share, or what sets copies apart along R (residual stream), H (heads), N (neurons).

    Args:
        a: A run (its last step), a checkpoint, a hub id, or nano:NAME.
        b: Likewise, of the same widths or a clone of a.
        factors: How b was cloned, for example hidden=2,ffn=2; None: as it says itself, or by the
            widths.
        top: How many rows to print, furthest first.
        out: Also write the whole table there, .csv, .parquet or .json.
    """
    import hcviz

    _check_ending(out)
    asked = setting(factors)
    if isinstance(asked, str):
        raise HcvizError(f"--factors {asked}: write it like hidden=2,ffn=2.")
    frame = hcviz.diff(a, b, factors=asked)
    shown = frame.sort_values("moved", ascending=False, kind="stable").head(top)
    _print(shown.drop(columns="layer"), justify="left")
    print(f"{len(frame)} tensors, {int((frame['moved'] > 0).sum())} of them moved")
    _written(frame, out)
    return 0


def audit(
    run: Positional[Annotated[str, arg(metavar="RUN_OR_CHECKPOINTS")]],
    /,
    revisions: tuple[str, ...] = (),
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Look for what is odd about snapshots: repeated, out of order, NaN, never moving.

    Also tensors that come, go, or change dtype or shape. Any model will do: only its safetensors
    files are read. Ends with code 1 if something was found.

    Args:
        run: A run, a folder of checkpoint folders, one checkpoint, a hub id, or nano:NAME.
        revisions: Revisions of the hub id, such as step0 step512; none: its main one.
        out: Also write the table over steps there, .csv, .parquet or .json.
    """
    import hcviz

    _check_ending(out)
    found = hcviz.audit(run, revisions=revisions or None, progress=True)
    _print(found.steps)
    print(found)
    _written(found.steps, out)
    return int(len(found.findings) > 0)


def _print(frame, number: str = "{:.3g}", **options) -> None:
    print(frame.to_string(index=False, float_format=number.format, na_rep="", **options))


def _check_ending(out: Path | None) -> None:
    if out is not None and out.suffix not in (".csv", ".parquet", ".json"):
        raise HcvizError(f"--out {out}: the table goes to a .csv, .parquet or .json file.")


def _written(frame, out: Path | None) -> bool:
    """Write a table, if that is asked for, by rename and in the form that the ending names."""
    if out is None:
        return False
    with fresh_file(out) as scratch:
        if out.suffix == ".csv":
            frame.to_csv(scratch, index=False)
        elif out.suffix == ".parquet":
            frame.to_parquet(scratch, index=False)
        else:
            frame.to_json(scratch, orient="records", double_precision=15)
    print(f"{len(frame):,} rows in {out}")
    return True

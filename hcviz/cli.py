"""The command line: one function for each command, heavy imports inside them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from hcviz.errors import HcvizError

ATTENTION_OUTPUT = re.compile(r"(o_proj|out_proj|attention\.dense|attn\.c_proj)\.weight$")
"""What a recording keeps: the smallest matrix that has copies on both sides."""
Model = Positional[Annotated[str, arg(metavar="MODEL")]]
Out = Positional[Annotated[Path, arg(metavar="OUT")]]
Runs = Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
Count = Annotated[int | None, arg(metavar="N")]
Name = Annotated[str | None, arg(metavar="NAME")]
Expansion = Literal["symmetric", "diagonal", "noisy-symmetric", "noisy-diagonal", "random"]


def clone(
    src: Model,
    out: Out,
    /,
    hidden: int = 2,
    ffn: Count = None,
    heads: Count = None,
    kv_heads: Count = None,
    expansion: Expansion = "symmetric",
    snr_db: Annotated[float | None, arg(metavar="DB")] = None,
    seed: int = 0,
    tie: Literal["keep", "untie"] = "keep",
    dtype: Name = None,
    device: str = "cpu",
    overwrite: bool = False,
    keep_failed: bool = False,
    trust_remote_code: bool = False,
) -> int:
    """Widen a model so that it computes exactly what it did, check it, and save it.

    The result is a plain Hugging Face checkpoint. A clone that fails its report card is not left
    behind.

    Args:
        src: A folder, a hub id, or nano:NAME for a shipped source.
        out: The folder to make.
        hidden: Factor of the residual stream.
        ffn: Factor of the FFN neurons; None: as hidden.
        heads: Factor of the attention heads; None: as hidden.
        kv_heads: Factor of the key/value heads; None: as heads, but a single one stays single.
        expansion: How copies that are read share a weight.
        snr_db: Signal-to-noise ratio of a noisy expansion in dB; None: 10.
        seed: Seed of noise and random shares.
        tie: Keep tied embeddings tied, or give the clone a head of its own.
        dtype: Cast the source first, for example bfloat16; None: as stored.
        device: Where to do it, for example cpu or cuda.
        overwrite: Replace OUT if it exists.
        keep_failed: Save the clone even if its report card fails.
        trust_remote_code: Run code that comes with the model.
    """
    import hcviz
    from hcviz.files import check_free, check_space, fresh_folder, open_to_readers
    from hcviz.quiet import quiet
    from hcviz.sources import load

    check_free(out, overwrite=overwrite)
    model, tokenizer = load(src, trust_remote_code=trust_remote_code)
    model = model.to(device=device, dtype=_dtype(dtype))
    wide = hcviz.clone(
        model, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads,
        expansion=expansion, snr_db=snr_db, seed=seed, tie=tie,
    )  # fmt: skip
    wide.config.hcviz["source"] = src
    report = hcviz.verify(model, wide)
    print(report)
    if not report.passed and not keep_failed:
        print(f"{out} was not written. To save it all the same: --keep-failed", file=sys.stderr)
        return 1
    size = sum(p.numel() * p.element_size() for p in wide.parameters())
    check_space(out, size, "The clone")
    with fresh_folder(out, overwrite=overwrite) as folder, quiet():
        wide.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        open_to_readers(folder)
    print(f"{model.num_parameters():,} -> {wide.num_parameters():,} parameters, saved in {out}")
    return 0


def verify(
    src: Model,
    clone: Model,
    /,
    dtype: Name = None,
    device: str = "cpu",
    csv: Annotated[Path | None, arg(metavar="FILE")] = None,
    trust_remote_code: bool = False,
) -> int:
    """Print the report card of a clone; the exit code is 0 if it passed and 1 if not.

    Compares logits and their scale, in the models' dtype and in true float64, step by step with
    the KV cache, with left padding, and after a reload.

    Args:
        src: The source: a folder, a hub id, or nano:NAME.
        clone: The clone, likewise.
        dtype: Cast both first, for example bfloat16.
        device: Where to run, for example cpu or cuda.
        csv: Also write the report to this file.
        trust_remote_code: Run code that comes with the models.
    """
    import hcviz
    from hcviz.files import write_text
    from hcviz.sources import load

    models = [load(spec, trust_remote_code=trust_remote_code)[0] for spec in (src, clone)]
    report = hcviz.verify(*(m.to(device=device, dtype=_dtype(dtype)) for m in models))
    print(report)
    if csv:
        write_text(csv, report.to_frame().to_csv(index=False))
    return 0 if report.passed else 1


def train(
    model: Model,
    /,
    out: Path,
    corpus: str = "asv",
    steps: int = 120,
    batch_size: int = 8,
    context: int = 128,
    lr: float = 1e-3,
    dropout: Annotated[float | None, arg(metavar="P")] = None,
    seed: int = 0,
    snapshots: int = 12,
    label: Name = None,
    device: Name = None,
    dtype: Name = None,
    overwrite: bool = False,
) -> int:
    """Train a model for a while and keep snapshots at log-spaced steps.

    The run's folder is a plain Trainer output that every tool of the ecosystem opens. The same
    command goes on where it was interrupted. Past one process: torchrun --nproc_per_node N -m
    hcviz train ...

    Args:
        model: A folder, a hub id, or nano:NAME.
        out: The run's folder.
        corpus: asv, asv+kjv, pydoc, a .txt or .jsonl file, or hf:ID for a dataset of the hub.
        steps: Optimizer steps.
        batch_size: Blocks in a step.
        context: Tokens in a block.
        lr: Peak learning rate (warm-up over a tenth, then cosine to a tenth).
        dropout: Set every dropout rate of the model; None: as configured.
        seed: Seed of data order and dropout.
        snapshots: How many snapshots.
        label: Name of the run in figures; None: the folder's.
        device: For example cpu; None: the best there is.
        dtype: bfloat16 or float16 for mixed precision; None: as stored.
        overwrite: Replace a run that is there.
    """
    import hcviz

    run = hcviz.train(
        model, out=out, corpus=corpus, steps=steps, batch_size=batch_size, context=context, lr=lr,
        dropout=dropout, seed=seed, snapshots=snapshots, label=label, device=device, dtype=dtype,
        overwrite=overwrite,
    )  # fmt: skip
    heldout = run.history.query("split == 'heldout'")["loss"]
    print(
        f"held-out loss {heldout.iloc[0]:.3f} -> {heldout.iloc[-1]:.3f} nats/token; the run is "
        f"in {out}"
    )
    return 0


def measure(
    runs: Runs,
    /,
    metrics: tuple[str, ...] = ("cosine", "ledger"),
    tensors: tuple[str, ...] = (),
    steps: tuple[int, ...] = (),
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Measure the weights of runs over their snapshots.

    Args:
        runs: Folders that hcviz train wrote.
        metrics: cosine, pairs, ledger, spectrum.
        tensors: Regular expressions of tensor names; none: all.
        steps: Snapshots to read; none: all.
        out: Write the table there, .csv or .parquet; None: print a summary.
    """
    import hcviz

    frame = hcviz.measure(
        list(runs), metrics=metrics, tensors=tensors or None, steps=steps or None, progress=True
    )
    if out is None:
        shown = frame.groupby(["run", "metric", "axis", "step"], dropna=False)["value"].mean()
        table = shown.unstack("step").reset_index()
        print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
        return 0
    if out.suffix not in (".csv", ".parquet"):
        raise HcvizError(f"--out {out}: the table goes to a .csv or a .parquet file.")
    scratch = out.with_name(f".tmp-{out.name}")
    frame.to_csv(scratch, index=False) if out.suffix == ".csv" else frame.to_parquet(scratch)
    scratch.replace(out)
    print(f"{len(frame):,} rows in {out}")
    return 0


def figures(runs: Runs, /, out: Path = Path("figures")) -> int:
    """Draw every figure of a comparison from its runs: PNG, SVG, data and command.

    Args:
        runs: Folders that hcviz train wrote; at least one started from a clone.
        out: Folder of the figures.
    """
    from hcviz.figures import draw
    from hcviz.runs import Run

    if not runs:
        raise HcvizError("Give at least one run folder, for example: hcviz figures runs/demo/*")
    return _say(draw([Run(path) for path in runs], out, command=_command()).findings, out)


def demo(
    source: str = "nano:gpt-neox",
    out: Path = Path("runs/demo"),
    figures: Path = Path("figures"),
    steps: int = 80,
    lr: float = 3e-4,
    seed: int = 0,
    record: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    overwrite: bool = False,
) -> int:
    """Run the main job: clone a source, train five arms side by side, draw them, say what was seen.

    The arms: the symmetric clone, the noisy clone (10 dB), the symmetric clone with dropout 0.1, a
    random start of the clone's size, and the source trained on. Same data order and learning rate
    for all.

    Args:
        source: A folder, a hub id, or nano:NAME.
        out: Folder of the runs; whole ones are kept.
        figures: Folder of the figures.
        steps: Optimizer steps of every arm.
        lr: Peak learning rate of every arm; the paper uses 1.5e-4 and 3e-4.
        seed: Seed of everything random.
        record: Also keep a small recording there, as the notebooks open it.
        overwrite: Train again what is there, and replace the recording.
    """
    import hcviz
    from hcviz.demo import ARMS, run_arms, start_of
    from hcviz.figures import draw
    from hcviz.files import check_free
    from hcviz.recording import record as keep
    from hcviz.sources import load

    if record:
        check_free(record, overwrite=overwrite)
    small, _ = load(source)
    wide = start_of(ARMS["symmetric"], small, factor=2, seed=seed, source=source)
    print(f"{source}: {small.num_parameters():,} parameters, its clone {wide.num_parameters():,}")
    report = hcviz.verify(small, wide)
    print(report, end="\n\n")
    if not report.passed:
        return 1
    runs = run_arms(source, out=out, steps=steps, lr=lr, seed=seed, overwrite=overwrite)
    drawn = draw(runs, figures, command=_command())
    if record:
        tensors = [name for name in runs[0].names() if ATTENTION_OUTPUT.search(name)][-2:-1]
        keep(
            runs,
            record,
            tensors=tensors,
            frame=drawn.frame,
            command=_command(),
            overwrite=overwrite,
        )
    return _say(drawn.findings, figures)


def pretrain(
    name: Positional[Annotated[str, arg(metavar="NAME")]],
    /,
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
    overwrite: bool = False,
) -> int:
    """Make a shipped source model again, from text and seed.

    Args:
        name: gpt-neox, gpt-neox-half, gpt-neox-double, opt, olmo or llama.
        out: The folder to make; None: its place in data/sources.
        overwrite: Replace it if it is there.
    """
    import hcviz

    print(f"The source is in {hcviz.pretrain(name, out=out, overwrite=overwrite)}")
    return 0


def lab(notebook: Positional[str] = "00_tour.ipynb", /, browser: bool = True) -> int:
    """Open JupyterLab on a notebook.

    Args:
        notebook: A file in notebooks/, or any path.
        browser: Open a browser window.
    """
    shipped = Path(__file__).parent.parent / "notebooks" / notebook
    path = shipped if shipped.is_file() else Path(notebook)
    if not path.is_file():
        raise HcvizError(
            f"There is no notebook {notebook!r}, neither here nor in {shipped.parent}."
        )
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        str(path),
        *([] if browser else ["--no-browser"]),
    ]
    return subprocess.call(command)


def families(
    types: Positional[Annotated[tuple[str, ...], arg(metavar="[TYPE ...]")]] = (),
    /,
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> int:
    """Say which model types of the installed transformers clone, and why the others do not.

    Each type's default configuration is shrunk to a tiny random twin and cloned by two. Nothing is
    downloaded.

    Args:
        types: The model_type of a configuration; none: all of them, which takes some minutes.
        out: Also write the table there, as a page of Markdown.
    """
    from hcviz.census import census, to_markdown
    from hcviz.files import write_text

    table = census(types or None, progress=True)
    print(table.drop(columns="axes").to_string(index=False, max_colwidth=90, justify="left"))
    if out:
        write_text(out, to_markdown(table))
    return 0


COMMANDS = {
    "demo": demo,
    "clone": clone,
    "verify": verify,
    "train": train,
    "measure": measure,
    "figures": figures,
    "families": families,
    "pretrain": pretrain,
    "lab": lab,
}


def _dtype(name: str | None):
    """Return a torch dtype by its name."""
    import torch

    dtype = getattr(torch, name, None) if name else None
    if name and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise HcvizError(
            f"--dtype {name!r} is no floating dtype. Use float32, float16, bfloat16 or float64."
        )
    return dtype


def _command() -> str:
    """Return the command line as it was typed."""
    return shlex.join(["hcviz", *sys.argv[1:]])


def _say(lines: list[str], out: Path) -> int:
    """Print findings and where the files are."""
    print("\nWhat was seen")
    print("\n".join(f"- {line}" for line in lines))
    print(f"The pictures (PNG, SVG, data, command) are in {out}/")
    return 0


def main() -> None:
    """Run the command that the arguments name; bad input ends with code 2 and one clear line."""
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="hcviz",
            description="Widen a language model by HyperCloning, train it, see what its copies do.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except HcvizError as error:
        print(f"hcviz: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("hcviz: interrupted; what was finished is kept.", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()

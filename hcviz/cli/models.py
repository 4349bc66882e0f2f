"""Commands on models: clone, declone, deepen, verify, families."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from hcviz.cli.common import Factor, Model, Name, Out, dtype_of, expansion_of, options_of, setting
from hcviz.widening.request import CloneRequest

Clone = options_of(
    CloneRequest,
    "hidden ffn heads kv_heads head_dim expert_ffn to_config expansion snr_db seed tie",
    **dict.fromkeys(("hidden", "ffn", "heads", "kv_heads", "expert_ffn"), Factor),
    to_config=Annotated[str | None, arg(metavar="TARGET")],
    expansion=Annotated[str, arg(metavar="FORM")],
    snr_db=Annotated[str | None, arg(metavar="DB")],
    tie=Literal["keep", "untie"],
)


def clone(
    src: Model,
    out: Out,
    /,
    request: Clone,
    dtype: Name = None,
    max_shard_size: str = "5GB",
    check: Literal["auto", "full", "twin"] = "auto",
    device: str = "cpu",
    overwrite: bool = False,
    keep_failed: bool = False,
    trust_remote_code: bool = False,
) -> int:
    """Widen a model so that it computes exactly what it did, save it, and check what was saved.

    The result is a plain Hugging Face checkpoint with a card. It is made tensor by tensor, so that
    a model larger than memory will do; the same command goes on where it was interrupted. A
    clone that fails its report card is not left behind.

    Args:
        src: A folder, a hub id, or nano:NAME for a shipped source.
        out: The folder to make.
        request: What the clone is to be. A table of shares comes in a .json file:
            --expansion FILE.json.
        dtype: Cast the source first, for example bfloat16; None: as stored.
        max_shard_size: The largest file of the clone, such as 5GB or 500MB.
        check: full compares both models, twin only a tiny random twin of them; auto is full if
            both take up less than half of the memory that is free.
        device: Where to compare them, for example cpu or cuda.
        overwrite: Replace OUT if it exists.
        keep_failed: Save the clone even if its report card fails.
        trust_remote_code: Run code that comes with the model.
    """
    import hcviz

    target = request.to_config
    if target is not None and "=" in target and not os.path.exists(target):
        target = setting(target, int)
    typed = {"to_config": target, "expansion": expansion_of(request.expansion)}
    typed |= {"snr_db": setting(request.snr_db, float)}
    done = hcviz.clone_checkpoint(
        src, out, **{**vars(request), **typed}, dtype=dtype_of(dtype),
        max_shard_size=max_shard_size, check=check, device=device, overwrite=overwrite,
        keep_failed=keep_failed, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    print(done.report or "A tiny twin of the configuration was exact; the models: hcviz verify.")
    if done.path is None:
        print(f"{out} was not written. To save it all the same: --keep-failed", file=sys.stderr)
        return 1
    print("{:,} -> {:,} parameters, saved in".format(*done.parameters), out)
    return 0


def declone(
    src: Model, out: Out, /, overwrite: bool = False, trust_remote_code: bool = False
) -> int:
    """Project a clone, trained or not, back on its symmetric part, a model of its source's size.

    OUT gets the model, its tokenizer, and losses.csv: of every tensor, the share of its squared
    norm that had no place in the smaller model.

    Args:
        src: A clone: a folder or a hub id.
        out: The folder to make.
        overwrite: Replace OUT if it exists.
        trust_remote_code: Run code that comes with the model.
    """
    import hcviz

    model, tokenizer = _load_for(out, src, overwrite, trust_remote_code)
    small, losses = hcviz.declone(model)
    losses = losses.sort_values("lost", ascending=False)
    print(losses[["tensor", "lost"]].head(10).to_string(index=False, float_format="{:.2%}".format))
    total = (losses["lost"] * losses["squared_norm"]).sum() / losses["squared_norm"].sum()
    print(f"lost of all squared norm: {total:.2%}")
    return _save(model, small, tokenizer, out, overwrite=overwrite, losses=losses)


def deepen(
    src: Model,
    out: Out,
    /,
    layers: Annotated[int, arg(metavar="N")],
    method: Literal["identity", "stack"] = "identity",
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> int:
    """Add layers to a model: the other way of growing, to compare with.

    Args:
        src: A folder, a hub id, or nano:NAME for a shipped source.
        out: The folder to make.
        layers: The number of layers to reach.
        method: identity spreads layers whose writes are zero, so that the logits stay; stack
            repeats the whole stack, and the logits do not stay.
        overwrite: Replace OUT if it exists.
        trust_remote_code: Run code that comes with the model.
    """
    import hcviz

    model, tokenizer = _load_for(out, src, overwrite, trust_remote_code)
    deep = hcviz.deepen(model, layers=layers, method=method)
    if method == "stack":
        print("Stacked: the logits are NOT those of the source.")
    return _save(model, deep, tokenizer, out, overwrite=overwrite)


def _load_for(out: Path, src: str, overwrite: bool, trust_remote_code: bool):
    """Return a model and its tokenizer, once it is clear that something may be written there."""
    from hcviz.io.files import check_free
    from hcviz.io.sources import load

    check_free(out, overwrite=overwrite)
    return load(src, trust_remote_code=trust_remote_code)


def _save(source, model, tokenizer, out: Path, *, overwrite: bool, **tables) -> int:
    """Save a model with its tokenizer and tables, whole or not at all, and say what it is."""
    from hcviz.io.files import check_space, fresh_folder, open_to_readers
    from hcviz.io.process import quiet

    size = sum(p.numel() * p.element_size() for p in model.parameters())
    check_space(out, size, "The model")
    with fresh_folder(out, overwrite=overwrite) as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name, frame in tables.items():
            frame.to_csv(folder / f"{name}.csv", index=False)
        open_to_readers(folder)
    print(f"{source.num_parameters():,} -> {model.num_parameters():,} parameters, saved in {out}")
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
    from hcviz.io.files import write_text
    from hcviz.io.process import device_of
    from hcviz.io.sources import load

    to = {"device": device_of(device), "dtype": dtype_of(dtype)}
    models = [load(spec, trust_remote_code=trust_remote_code)[0] for spec in (src, clone)]
    report = hcviz.verify(*(m.to(**to) for m in models))
    print(report)
    if csv:
        write_text(csv, report.to_frame().to_csv(index=False))
    return 0 if report.passed else 1


def families(
    types: Positional[Annotated[tuple[str, ...], arg(metavar="[TYPE ...]")]] = (),
    /,
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
) -> int:
    """Say which model types of the installed transformers clone, and why the others do not.

    Each type's default configuration is shrunk to a tiny random twin and cloned by two; if that is
    exact, again with each of its flags set otherwise. Nothing is downloaded.

    Args:
        types: The model_type of a configuration; none: all of them, which takes some minutes.
        out: Also write the table there, as a page of Markdown.
    """
    from hcviz.io.files import write_text
    from hcviz.widening.census import census, flag_census, to_markdown

    table = census(types or None, progress=True)
    flags = flag_census(table, progress=True)
    for part in (table, flags[flags["differs"]].drop(columns="differs")):
        if len(part):
            part = part.drop(columns="grows")
            print(part.to_string(index=False, max_colwidth=90, justify="left"))
    if out:
        write_text(out, to_markdown(table, flags))
    return 0

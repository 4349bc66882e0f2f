"""Commands on claims: what runs say of them, and what a pair at the paper's scale takes."""

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from hcviz.cli.common import setting
from hcviz.errors import HcvizError
from hcviz.io.parameters import explained

ROWS = (
    ("Tokens", "{tokens_per_iteration:,.0f} an iteration, {tokens_per_step:,.0f} an optimizer "
     "step, {tokens:.4g} in all", "gpus tokens"),
    ("FLOPs a token", "{flops_inner:.4g} layers (6 N) + {flops_head:.3g} unembedding + "
     "{flops_attention:.3g} attention", ""),
    ("FLOPs in all", "{flops:.4g}", "tokens"),
    ("Weights", "{weights:,.0f} bytes a GPU", "gpus weight_bytes"),
    ("Gradients", "{gradients:,.0f}", "gpus gradient_bytes"),
    ("Adam's moments", "{moments:,.0f}", "gpus moment_bytes"),
    ("Gathered", "{gathered:,.0f}: embeddings and two layers", "compute_bytes"),
    ("Activations", "{activations:,.0f}: 8 widths + 2 FFN, a layer and token", "compute_bytes"),
    ("Logits", "{logits:,.0f}", "compute_bytes"),
    ("Memory", "{gibibytes:.1f} GiB a GPU", ""),
    ("GPU-hours", "{hours:,.0f}, that is {days:.1f} days on {gpus} GPUs", "teraflops utilisation"),
    ("Cost", "{cost:,.0f} dollars", "dollars"),
    ("Energy", "{energy:,.0f} kWh", "watts pue"),
)  # fmt: skip
"""What the dry run says of an estimate: a row's name, its text, the assumptions behind it."""


def reproduce(
    claim: Positional[str] = "",
    /,
    seeds: int = 3,
    steps: Annotated[int | None, arg(metavar="N")] = None,
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
    figures: bool = False,
    device: Annotated[str | None, arg(metavar="DEVICE")] = "cpu",
) -> int:
    """List the claims and their verdicts; test one by new runs; or draw all from the records.

    Args:
        claim: The claim to test anew; none: list all, with the verdicts of the recorded runs.
        seeds: Seeds of the new runs.
        steps: Optimizer steps of the new runs; None: as recorded.
        out: Folder of the new runs (None: runs/reproduce), or of the figures (None: figures).
        figures: Draw every figure of the recorded runs, and write the page of claims beside them.
        device: Where to train; None: a GPU if there is one.
    """
    from hcviz.claims.claim import find_claim
    from hcviz.claims.reproduce import jobs_of, minutes_of, reproduce, verdict_of, verdicts

    if figures and claim:
        raise HcvizError("--figures draws all claims; leave the claim's name out.")
    if figures:
        from hcviz.claims.page import write_page

        print("\n".join(map(str, write_page(out or Path("figures")))))
        return 0
    if not claim:
        table = verdicts()
        shown = table[["claim", "verdict", "effect", "low", "high", "unit", "numbers", "title"]]
        print(shown.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
        return 0
    found = find_claim(claim)
    print(f"{found.title}\n  ({found.where}: {found.said})")
    if found.note:
        print(f"  {found.note}")
    if not found.recording:
        print(f"{verdict_of(found)} (computed now; no run is needed)")
        return 0
    jobs = jobs_of(found, seeds=seeds, steps=steps)
    print(f"{len(jobs)} runs, {minutes_of(found, jobs)}", flush=True)
    tested = reproduce(
        found, out or Path("runs/reproduce"), seeds=seeds, steps=steps, device=device
    )
    print(f"recorded: {tested.recorded}\nanew:     {tested.again}")
    print("The verdict held." if tested.held else "The verdict did not hold.")
    return 0 if tested.held else 1


def dry_run(
    pair: Positional[str] = "pythia-410m",
    /,
    assume: Annotated[str | None, arg(metavar="NAME=VALUE,...")] = None,
) -> int:
    """Print what a pair of the paper takes to train, on paper: nothing is downloaded or trained.

    Shapes before and after, parameters, tokens, FLOPs, memory per GPU, GPU-hours, cost and energy,
    with every assumption named, and the paper's tables 1 and 2 beside ours.

    Args:
        pair: A file of configs/pairs by its name or path; or any model (a folder, a hub id,
            nano:NAME), doubled.
        assume: Other numbers, for example gpus=8,utilisation=0.5; the names are in the output.
    """
    from hcviz.claims.budget import assumed, estimate, planned, read_pair

    if assume is not None and "=" not in assume:
        raise HcvizError(f"--assume {assume!r} is none: write NAME=VALUE, such as gpus=8.")
    found = read_pair(pair)
    numbers, models = assumed(setting(assume, float)), planned(found)
    costs = estimate(found, models, numbers)
    print("\n".join([*_shapes(found, models), *_tables(found, models), *_costs(costs, numbers)]))
    options = " ".join(f"--{name.replace('_', '-')} {n}" for name, n in found.clone.items())
    print(f"\nLaunched by\n  hcviz clone {found.hub} CLONE {options}")
    print("  python configs/dolma.py dolma.jsonl --gigabytes 2")
    print("  accelerate launch --config_file configs/FILE.yaml configs/launch.py \\")
    print(f"    {pair} CLONE RUN --corpus dolma.jsonl")
    return 0


def _shapes(pair: Any, models: Any) -> list[str]:
    """Say what becomes of every kind of tensor, and how many parameters there are."""
    from hcviz.claims.budget import shapes

    lines = [f"{pair.name} ({pair.hub})", *filter(None, (pair.note, *models.said)), "", "Tensors"]
    for name, count, own, wide in shapes(models):
        sizes = [" x ".join(map(str, shape)) if shape else "-" for shape in (own, wide)]
        lines.append(f"  {name:<58}{count:>3} of {sizes[0]:>13} -> {sizes[1]}")
    small, large = (model.num_parameters() for model in models[:2])
    head = models.wide.get_output_embeddings().weight.numel()
    lines += ["", f"Parameters: {small:,} -> {large:,}; without the unembedding {large - head:,}"]
    return [*lines, ""]


def _tables(pair: Any, models: Any) -> list[str]:
    """Say of every entry of tables 1 and 2 whether ours is the same."""
    from hcviz.claims.budget import table_1, table_2

    lines = []
    for number, entries in ((1, table_1(pair, models)), (2, table_2(pair))):
        lines.append(f"Beside table {number}" if entries else f"Table {number} has no row for it")
        for one in entries:
            ours, theirs = ([*x] if isinstance(x, tuple) else x for x in one[1:])
            near = "" if ours == theirs else f" to a whole step: {theirs}"
            said = f"DIFFERS: {theirs} there" if one.differs else f"as in table {number}{near}"
            lines.append(f"  {one.what:<22}{ours!s:<18}{said}")
        lines.append("")
    return lines


def _costs(costs: dict[str, float], numbers: Any) -> list[str]:
    """Say what training takes, each row with the assumptions behind it, and what is assumed."""
    used = vars(numbers) | {"gpus": costs["gpus"], "tokens": costs["tokens"]}
    lines = ["What training the clone takes"]
    for what, text, names in ROWS:
        because = ", ".join(f"{name}={used[name]:.6g}" for name in names.split())
        said = text.format(**costs, gibibytes=costs["memory"] / 2**30)
        lines.append(f"  {what:<16}{said}" + (f"  [{because}]" if because else ""))
    lines += ["", "Assumed; others by --assume NAME=VALUE,..."]
    texts = explained(type(numbers)).items()
    return lines + [f"  {n:<16}{used[n]:<12.6g}{' '.join(text.split())}" for n, text in texts]

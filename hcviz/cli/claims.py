"""The command that tells what is claimed of cloning, and what runs say of it."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hcviz.errors import HcvizError


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
    from hcviz.claims.reproduce import jobs_of, minutes_of, reproduce, verdicts

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
    jobs = jobs_of(found, seeds=seeds, steps=steps)
    print(f"{len(jobs)} runs, {minutes_of(found, jobs)}", flush=True)
    tested = reproduce(
        found, out or Path("runs/reproduce"), seeds=seeds, steps=steps, device=device
    )
    print(f"recorded: {tested.recorded}\nanew:     {tested.again}")
    print("The verdict held." if tested.held else "The verdict did not hold.")
    return 0 if tested.held else 1

"""Write guide.md from guide.in and the verdicts of the recorded runs: python docs/guide.py.

The advice is text; every number and verdict in it is computed when the page is written.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.claims.budget import assumed, estimate, planned, read_pair
from hcviz.claims.claim import claims
from hcviz.claims.figures import FAMILIES, HALF, QUARTER
from hcviz.claims.frames import Frames, Who, open_frames
from hcviz.claims.quantities import QUANTITIES
from hcviz.claims.reproduce import effect_of, measured, number, verdicts
from hcviz.io.files import write_text
from hcviz.statistics.escape import escape
from hcviz.statistics.verdict import REPRODUCED, Verdict, judge

PAGE = Path(__file__).with_suffix(".md")
TEXT = PAGE.with_suffix(".in")
SEEDS = 3
"""Of an arm with fewer the table of arms tells nothing."""


def interval(one: Mapping[str, Any]) -> str:
    """Return a claim's interval in brackets; nothing where there is none."""
    return f" [{number(one['low'])}, {number(one['high'])}]" if number(one["low"]) else ""


def said(name: str, table: pd.DataFrame) -> str:
    """Return a claim's verdict with its effect, linked to its row on the page of claims."""
    one = table.loc[name]
    effect = effect_of(one)
    told = f", {effect}{interval(one)}" if effect else ""
    return f"**{one['verdict']}**{told} ([{name}](../figures/README.md#{name}))."


def breakers_table() -> str:
    """Return by how much each arm ends under the locked clone, in the short and the long runs."""
    found, heads, columns = {}, [], [QUARTER, *FAMILIES.values()]
    for source in columns:
        frames = open_frames("breakers" if source == QUARTER else "long")
        runs = frames.runs.query(f"source == '{source}' and factor == 2")
        heads.append(f"{source} x2, {runs['steps'].max():,} steps")
        for arm in runs["arm"].unique():
            gaps = QUANTITIES["loss"](frames, [source], 2, arm=arm, against="symmetric")
            found.setdefault(arm, {})[source] = judge(gaps, expect="below")
    found.pop("symmetric")
    rows = [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for arm, one in sorted(found.items(), key=lambda item: next(iter(item[1].values())).effect):
        cells = [ends(one.get(source)) for source in columns]
        rows.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(rows)


def ends(one: Verdict | None) -> str:
    """Return a difference and its interval, in bold where all of it is below zero."""
    if one is None or one.seeds < SEEDS:
        return ""
    effect = f"**{number(one.effect)}**" if one.name == REPRODUCED else number(one.effect)
    return effect + interval(vars(one))


def rates_table(frames: Frames) -> str:
    """Return the grids of learning rates: losses at the end, the best of each arm in bold."""
    arms = ["noisy 10 dB", "symmetric", "random init", "source"]
    rows = [f"| pair | peak rate | {' | '.join(arms)} |", "|---" * (len(arms) + 2) + "|"]
    families = [(source, 2) for source in FAMILIES.values()]
    pairs = frames.runs[["source", "factor"]].itertuples(index=False, name=None)
    for source, factor in dict.fromkeys([*families, *pairs]):
        grid = pd.DataFrame({arm: frames.rates(Who(arm, source, factor)) for arm in arms})
        for rate, row in grid.iterrows():
            cells = ("" if pd.isna(v) else f"{v:.3f}" for v in row)
            best = (f"**{c}**" if c and v == grid[a].min() else c
                    for a, v, c in zip(arms, row, cells, strict=True))  # fmt: skip
            rows.append(f"| {source} x{factor} | {rate:g} | {' | '.join(best)} |")
    return "\n".join(["Loss at the end, seed 0, nats per token; of each arm the best:", "", *rows])


def watch_table(frames: Frames) -> str:
    """Return by axis when the noisy clone's share is lowest and when it is twice that."""
    rows = frames.of("metrics", Who("noisy 10 dB", HALF))
    ledger = rows[(rows["metric"] == "ledger") & (rows["seed"] == 0)]
    lines = ["| axis | share at the start | lowest | at step | at the end |", "|---" * 5 + "|"]
    for axis, part in ledger.groupby("axis"):
        curve = part.groupby("step")["value"].mean()
        told = (curve.iloc[0], curve.min(), curve.idxmin(), curve.iloc[-1])
        lines.append(f"| {axis} | {told[0]:.3f} | {told[1]:.3f} | {told[2]} | {told[3]:.3f} |")
    fitted = escape(ledger, by=["axis"])["rate"].max()
    return "\n".join([*lines, "", f"Fastest growth along an axis: {fitted:.2g} a step."])


def savings() -> str:
    """Say what the measured ratio would save of the paper's pairs, with what is assumed."""
    claim = claims()["clone-sooner"]
    ratios = measured(claim.measure, claim, open_frames(claim.recording))
    ratio = float(ratios.mean())
    if not ratio > 1:
        return f"Nothing was saved in the recorded runs: the ratio is {number(ratio)}."
    lines = [
        f"The noisy clone was {ratio:.2f} times sooner at the random start's final loss (numbers: "
        f"{len(ratios)}), so it needed {1 / ratio:.0%} of its FLOPs. If that held for the paper's "
        "pairs, on paper (`hcviz dry-run PAIR` lists every assumption), and their sources were "
        "there already:",
        "",
        "| pair | GPU-hours of the whole schedule | saved | energy saved |",
        "|---|---|---|---|",
    ]
    for name in ("opt-350m", "pythia-410m", "olmo-1b"):
        pair = read_pair(name)
        found = estimate(pair, planned(pair), assumed(None))
        saved = 1 - 1 / ratio
        energy = f"{found['energy'] * saved:,.0f} kWh"
        lines.append(
            f"| {name} | {found['hours']:,.0f} | {found['hours'] * saved:,.0f} | {energy} |"
        )
    return "\n".join(lines)


def page() -> str:
    """Return the guide."""
    table, frames = verdicts().set_index("claim"), open_frames("long")
    told = {
        "breakers-table": breakers_table(),
        "rates-table": rates_table(frames),
        "watch-table": watch_table(frames),
        "savings": savings(),
    }
    return re.sub(
        r"\{([\w-]+)\}",
        lambda m: told.get(m[1]) or said(m[1], table),
        TEXT.read_text(encoding="utf-8"),
    )


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)

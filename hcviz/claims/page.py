"""The page of claims: verdicts, and each figure of the recorded runs beside the paper's."""

import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from hcviz import plots
from hcviz.claims.claim import KINDS
from hcviz.claims.figures import FIGURES, recordings
from hcviz.claims.frames import Frames, Who
from hcviz.claims.reproduce import effect_of, interval_of, verdicts
from hcviz.errors import HcvizError
from hcviz.io.files import write_text
from hcviz.statistics.verdict import VERDICTS

COMMAND = "hcviz reproduce --figures"
INTRO = """# What is claimed of cloning, and what our runs say

Made by `hcviz reproduce --figures` from the recorded runs; no number here is typed. `hcviz
reproduce CLAIM` makes the runs of one claim anew and says whether its verdict holds.

A verdict rests on one number a seed and source. *Reproduced*: the whole 95 % interval of their mean
is on the claimed side of the bound, or, where equality is claimed, within the tolerance.
*Direction only*: the mean is, the interval is not, or there are fewer than three numbers, or one of
several sources has its own mean on the other side. *Not at this scale*: what is claimed cannot be
measured in runs of this size. Several numbers of one seed and one text are not independent as new
data would be, and all of them are from models of about a million weights: where ours and the
paper's differ, scale is one of the reasons. In italics stands what limits a test. Effects at the
end are over all held-out text, curves over the part that was watched, so they differ a little.
"""
COLUMNS = ("claim", "what is tested", "where", "verdict", "effect", "interval", "numbers")


def draw_all(out: Path, recorded: dict[str, Frames]) -> dict[str, list[str]]:
    """Draw every figure that the recorded runs allow.

    Args:
        out: The folder; it is made.
        recorded: The frames by the name of their recording.

    Returns:
        By the figure's name, the names of its files without their ending.
    """
    found = {}
    for name, draw in FIGURES.items():
        for suffix, (axes, data) in draw(recorded):
            stem = f"{name}-{suffix}" if suffix else name
            said = data.dropna(axis=1, how="all")
            plots.save(axes, out / stem, data=said, command=COMMAND)
            plt.close("all")
            found.setdefault(name, []).append(stem)
    return found


def write_page(out: Path) -> list[Path]:
    """Draw all figures into a folder, and write its README.md with claims and figures.

    Raises:
        HcvizError: If nothing is recorded, or the folder cannot be written.
    """
    recorded = recordings()
    if not recorded:
        raise HcvizError("No recorded runs ship here; make them: python data/runs/long.py OUT")
    drawn, table = draw_all(out, recorded), verdicts()
    text = [tables(recorded, table)]
    text += [section(name, stems, table) for name, stems in drawn.items()]
    write_text(out / "README.md", "\n".join(text))
    return [out / "README.md", *(out / f"{s}.png" for stems in drawn.values() for s in stems)]


def tables(recorded: dict[str, Frames], table: pd.DataFrame) -> str:
    """Return the page above its figures: the runs that there are, and all claims by kind."""
    text = [INTRO, _runs(recorded), _counts(table)]
    for kind, what in KINDS.items():
        text.append(f"## Claims {what}\n\n{_rows(table[table['kind'] == kind])}")
    return "\n".join(text)


def _runs(recorded: dict[str, Frames]) -> str:
    """Say which runs there are, by source, length, arm; the seeds are those at its best rate."""
    rows = []
    for name, frames in recorded.items():
        runs = frames.runs
        for (source, factor), part in runs.groupby(["source", "factor"], sort=False):
            whos = [Who(arm, source, factor) for arm in sorted(part["arm"].unique())]
            arms = ", ".join(f"{who.arm} ({len(frames.of('runs', who))})" for who in whos)
            size = f"{part['parameters'].max() / 1e6:.2f}M"
            length = f"{part['steps'].max():,} steps, {part['tokens'].max() / 1e6:.1f}M tokens"
            hours = f"{part['cpu_minutes'].sum() / 60:.1f} h"
            rows.append((name, f"{source} x{factor}", size, length, arms, len(part), hours))
    head = ("recording", "pair", "weights", "length", "arms (seeds)", "runs", "one core")
    return "## The runs\n\n" + _table(head, rows)


def _counts(table: pd.DataFrame) -> str:
    """Say how many claims have which verdict."""
    counts = table["verdict"].value_counts()
    said = [f"{counts[name]} {name}" for name in VERDICTS if name in counts]
    return f"Of {len(table)} claims: {', '.join(said)}.\n"


def _rows(table: pd.DataFrame) -> str:
    """Return claims as a table of Markdown, each row with an anchor of the claim's name."""
    rows = []
    for one in table.itertuples():
        file = f'<a id="{one.claim}"></a>[{one.claim}](../data/claims/{one.claim}.toml)'
        told = (f"**{one.verdict}**", effect_of(one), interval_of(one), one.numbers or "")
        tested = f"{one.title}. *{one.note}*" if one.note else one.title
        rows.append((file, tested, one.where, *told))
    return _table(COLUMNS, rows)


def section(name: str, stems: list[str], table: pd.DataFrame) -> str:
    """Return the section of one figure: what the paper shows, ours, and what each claim says."""
    said = inspect.getdoc(FIGURES[name])
    title = name.replace("-", " ").capitalize()
    lines = [f"## {title}", "", said, ""]
    for stem in stems:
        part = stem.removeprefix(name).removeprefix("-").replace("-accuracy", ", accuracy")
        lines += [f"*{part}*\n"] * bool(part) + [f"![{title}]({stem}.png)\n"]
    for one in table[table["figure"] == name].itertuples():
        told = ": ".join(filter(None, [one.title, effect_of(one)]))
        lines.append(f"- **{one.verdict}** · {told} ([{one.claim}](#{one.claim}))")
    return "\n".join([*lines, ""])


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"

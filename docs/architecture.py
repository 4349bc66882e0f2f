"""Draw the rooms of hcviz from its imports, into architecture.png: python docs/architecture.py.

A room stands above all that it imports. Arrows lead only to what no longer way down reaches, so
that whatever a room imports is found by following them.
"""

import ast
import io
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from PIL import Image, PngImagePlugin

import hcviz
from hcviz.plots import theme

PACKAGE = Path(hcviz.__file__).parent
PICTURE = Path(__file__).with_suffix(".png")
LEFT, MIDDLE, RIGHT = -1.9, 1.75, 7.4
PLACES = {
    "cli": (MIDDLE, 7),
    "claims": (MIDDLE, 6),
    "views": (MIDDLE, 5),
    "training": (MIDDLE, 4),
    "metrics": (MIDDLE, 3),
    "text": (LEFT, 1),
    "cloning": (0, 2),
    "runs": (2 * MIDDLE, 2),
    "widening": (MIDDLE, 1),
    "architecture": (MIDDLE, 0),
    "plots": (RIGHT, 4),
    "statistics": (RIGHT - 0.5, 2),
    "io": (RIGHT, 0),
}
"""Where a room stands: inches from the left, and its floor."""
WIDE, TALL, FLOOR = 3.15, 1.06, 1.4
TORCHLESS = ("statistics", "plots")
KEY = """Every import follows arrows down.
Dashed: without torch."""


def rooms() -> dict[str, str]:
    """Return the rooms, each with the first sentence of its docstring."""
    found = {}
    for path in sorted(PACKAGE.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        found[path.parent.name] = text.partition("\n")[0]
    return found


def imports() -> dict[str, set[str]]:
    """Return which other rooms every room imports, inside functions too."""
    found = {}
    for room in rooms():
        text = "\n".join(path.read_text("utf-8") for path in (PACKAGE / room).rglob("*.py"))
        names = re.findall(r"^\s*(?:from|import) hcviz(?:\.| import )(\w+)", text, re.MULTILINE)
        found[room] = set(names) & rooms().keys() - {room}
    return found


def below(room: str, used: Mapping[str, Iterable[str]]) -> set[str]:
    """Return everything that a room stands on."""
    return set(used[room]).union(*(below(other, used) for other in used[room]))


def arrows() -> dict[str, list[str]]:
    """Return to which rooms the arrows of every room lead."""
    used = imports()
    return {
        room: sorted(
            other for other in direct if not any(other in below(third, used) for third in direct)
        )
        for room, direct in used.items()
    }


def files(room: str) -> str:
    """Name the files of a room, or count them where there is one for every figure or metric."""
    names = [path.stem for path in sorted((PACKAGE / room).glob("*.py")) if path.stem[:2] != "__"]
    return "  ".join(names) if len(names) < 10 else f"{len(names)} files, a concern each"


def content() -> dict[str, list]:
    """Return what the picture tells of every room: sentence, files, arrows."""
    return {room: [said, files(room), arrows()[room]] for room, said in rooms().items()}


def draw() -> plt.Figure:
    """Draw a box for every room, and the arrows."""
    width, height = RIGHT + WIDE - LEFT, 6 * FLOOR + TALL
    with theme.style():
        figure = plt.figure(figsize=(width + 0.2, height + 0.2))
        ax = figure.add_axes(
            [0, 0, 1, 1], xlim=(LEFT - 0.1, RIGHT + WIDE + 0.1), ylim=(-0.1, height + 0.1)
        )
    ax.set_axis_off()
    ax.text(RIGHT, height - 0.1, KEY, size=9, va="top", linespacing=1.5)
    for room, sentence in rooms().items():
        box(ax, room, sentence)
    for room, others in arrows().items():
        for other in others:
            arrow(ax, room, other)
    return figure


def box(ax: plt.Axes, room: str, sentence: str) -> None:
    """Draw one room: its name, its sentence, its files."""
    x, y = PLACES[room][0], PLACES[room][1] * FLOOR
    dashed = room in TORCHLESS
    ax.add_patch(
        FancyBboxPatch(
            (x, y), WIDE, TALL, boxstyle="round,pad=0,rounding_size=0.09",
            facecolor="white" if dashed else theme.PALE, edgecolor=theme.INK,
            linestyle=(0, (4, 2)) if dashed else "-", linewidth=1.2,
        )
    )  # fmt: skip
    ax.text(x + 0.12, y + TALL - 0.09, room, weight="bold", size=13, va="top")
    text = textwrap.fill(sentence, 42)
    ax.text(x + 0.12, y + TALL - 0.36, text, size=9, va="top", linespacing=1.1)
    names = textwrap.fill(files(room), 52)
    ax.text(x + 0.12, y + 0.08, names, size=7.5, va="bottom", color=theme.MUTED, linespacing=1.1)


def arrow(ax: plt.Axes, room: str, other: str) -> None:
    """Draw an arrow down; from the middle to the side it leaves sideways and turns down."""
    (x, floor), (to, end) = PLACES[room], PLACES[other]
    bottom, top = floor * FLOOR, end * FLOOR + TALL
    if other == "text":
        path = [(x, bottom + TALL / 2), (to + 0.8, bottom + TALL / 2), (to + 0.8, top)]
    elif room != "plots" and other in ("plots", "statistics", "io"):
        path = [(x + WIDE, bottom + TALL / 2), (to + 0.5, bottom + TALL / 2), (to + 0.5, top)]
    elif room == "plots":
        at = RIGHT + (WIDE / 2 if other == "statistics" else WIDE - 0.25)
        path = [(at, bottom), (at, top)]
    else:
        lean = (to - x) / 4
        path = [(x + WIDE / 2 + lean, bottom), (to + WIDE / 2 - lean, top)]
    ax.add_patch(
        FancyArrowPatch(
            path=Line(path), arrowstyle="-|>,head_length=6,head_width=3", color=theme.INK,
            linewidth=1.3, joinstyle="round",
        )
    )  # fmt: skip


def main() -> None:
    """Draw the picture in few colours; it carries what it tells, so that a test knows its age."""
    mpl.use("agg")
    buffer = io.BytesIO()
    draw().savefig(buffer, dpi=110)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("content", json.dumps(content()))
    picture = Image.open(buffer).convert("L").quantize(32, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True, pnginfo=notes)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

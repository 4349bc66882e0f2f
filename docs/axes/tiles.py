"""Units as tiles: shaded by the source's unit that each is a copy of, with shares and lines.

What a unit is a copy of is read off the weights, not off what hcviz says of them.
"""

from fractions import Fraction
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Arc, Rectangle

from hcviz.plots import theme

CELL = 0.27  # inches
SHADES = LinearSegmentedColormap.from_list("units", ["#e8f4ef", "#8fcbb5", "#2d8a6b", "#0b3b2c"])
SHARE = {"1/2": "½", "1/3": "⅓", "1/4": "¼", "2/3": "⅔"}
MULTIPLES = (
    "Colours: weights, grey is zero. Numbers: the clone's weight as a multiple of the source's."
)


def origins(wide: np.ndarray, small: np.ndarray) -> list[tuple[int | None, float]]:
    """Find for every row of a wide array the row of the source's that it is a multiple of.

    Returns:
        ``(row, multiple)``; ``(None, 0 or nan)`` for padding, which is none: zero, or free.
    """
    found, small = [], small.reshape(len(small), -1).astype(float)
    for row in wide.reshape(len(wide), -1).astype(float):
        shares = small @ row / (small * small).sum(1)
        errors = np.abs(row - shares[:, None] * small).max(1)
        best = int(errors.argmin())
        copied = errors[best] < 1e-5 and abs(shares[best]) > 1e-5
        found.append((best, shares[best]) if copied else (None, np.nan if row.any() else 0.0))
    return found


def written(share: float) -> str:
    """Write a share as a fraction."""
    if share != share or share == 0:
        return "zero" if share == 0 else "free"
    text = str(Fraction(share).limit_denominator(12))
    return SHARE.get(text, text)


def sheet(width: float, height: float):
    """Return axes whose unit is one cell; y points down."""
    figure, axes = plt.subplots(figsize=(width * CELL, height * CELL))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return axes


def box(ax, x, y, unit, count, label, *, w=1.0, h=1.0) -> None:
    """Draw a unit in the shade of its source; None is padding, hatched."""
    if unit is None:
        ax.add_patch(Rectangle((x, y), w, h, fc="white", ec="#5f5f5f", hatch="////", lw=0.8))
        return
    shade = SHADES((unit + 0.5) / count)
    ax.add_patch(Rectangle((x, y), w, h, fc=shade, ec="white", lw=1.2))
    ink = "white" if theme.lightness(shade[:3]) < 55 else "black"
    ax.text(x + w / 2, y + h / 2, label, color=ink, ha="center", va="center", size=8)


def arcs(ax, places, units, *, down: bool) -> None:
    """Join the copies of each unit: (x, y) places, in a row or in a column."""
    for unit in set(units) - {None}:
        at = [place for place, own in zip(places, units, strict=True) if own == unit]
        for (x0, y0), (x1, y1) in pairwise(at):
            size, middle = (y1 - y0 if down else x1 - x0), ((x0 + x1) / 2, (y0 + y1) / 2)
            width, height = (2.2, size) if down else (size, 2.2)
            turn = (90, 270) if down else (180, 360)
            ax.add_patch(Arc(middle, width, height, theta1=turn[0], theta2=turn[1], lw=0.9))


def matrix(ax, x, y, wide, small, letter: str, *, rows: bool, names=None) -> None:
    """Draw a weight with the units along its growing side, their shares, and lines between copies.

    Args:
        ax: A sheet.
        x: Left edge of the weights.
        y: Upper edge.
        wide: The clone's weight.
        small: The source's.
        letter: What a unit is called.
        rows: The growing side is the rows (written), else the columns (read).
        names: Of the source's units, if they are not numbered.
    """
    found = origins(wide, small) if rows else origins(wide.T, small.T)
    units, most = [unit for unit, _ in found], np.abs(small).max()
    height, width = wide.shape
    colours = theme.diverging()(Normalize(-most, most)(wide))
    for i in range(height):
        for j in range(width):
            ax.add_patch(Rectangle((x + j, y + i), 1, 1, fc=colours[i, j], ec="white", lw=0.6))
    places = []
    for k, (unit, share) in enumerate(found):
        at = (x - 1.25, y + k) if rows else (x + k, y - 1.25)
        count = len(small) if rows else small.shape[1]
        name = "" if unit is None else names[unit] if names else f"{letter}{unit + 1}"
        box(ax, *at, unit, count, name)
        places.append((at[0] - 0.05, at[1] + 0.5) if rows else (at[0] + 0.5, at[1] - 0.05))
        if unit is None:
            corner = (x, y + k) if rows else (x + k, y)
            size = (width, 1) if rows else (1, height)
            ax.add_patch(Rectangle(corner, *size, fill=False, ec="white", hatch="///", lw=0.6))
        spot = (x + width + 0.2, y + k + 0.55) if rows else (x + k + 0.5, y + height + 0.55)
        align = "left" if rows else "center"
        text = written(share)
        ax.text(*spot, text, ha=align, va="center", size=7 if len(text) > 2 else 8.5)
    arcs(ax, places, units, down=rows)


def say(ax, x, y, text, **how) -> None:
    """Write a line whose left end is at (x, y)."""
    ax.text(x, y, text, **{"ha": "left", "va": "center", "size": 8.5, **how})

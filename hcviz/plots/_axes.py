"""What several figures share: panels, step axes, outside legends, end labels, the locked strip."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation
from scipy.optimize import isotonic_regression

from hcviz.errors import HcvizError
from hcviz.plots import theme
from hcviz.plots.theme import Arm

Given = Axes | Sequence[Axes] | None
"""The caller's axes of a figure with panels; None makes one."""
LEVEL = {"color": theme.MUTED, "linewidth": 1.0, "linestyle": (0, (6, 3)), "zorder": 1}
"""How a level that curves are compared with is drawn."""
EARLY = 0.2
"""Of the axes' width: a line that ends so far before the longest has its text at its own end."""


def panels(
    count: int,
    ax: Axes | Sequence[Axes] | None,
    *,
    columns: int = 4,
    tall: float = 0.8,
    side: float = 0.0,
    lines: float = 3.0,
    between: float = 2.4,
    rigid: bool = False,
    **shared: Any,
) -> np.ndarray:
    """Return ``count`` axes: new ones in the context's width, or the caller's.

    Args:
        count: How many are needed.
        ax: The caller's axes, or None.
        columns: Most in a row.
        tall: Height of a panel over its width.
        side: Inches right of the panels that are not theirs (a colour bar).
        lines: Lines of text above and below all panels together.
        between: Lines of text above and below each row of panels.
        rigid: Keep the panels' shape where they are too tall, by a narrower figure.
        shared: ``sharex``, ``sharey``.

    Raises:
        HcvizError: If the caller's are not ``count``.
    """
    if ax is not None:
        given = np.ravel(np.asarray(ax, dtype=object))
        if len(given) != count:
            raise HcvizError(f"This figure needs {count} axes, and {len(given)} were given as ax=.")
        return given
    columns = min(count, columns)
    rows = -(-count // columns)
    width, line = plt.rcParams["figure.figsize"][0], plt.rcParams["font.size"] / 72 * 1.35
    # About 3.5 lines beside the panels are tick labels and the name of the y axis.
    panel = (width - side - 3.5 * line) / columns - 0.8 * line
    most = (0.45 if rows < 3 else 0.32) * width
    height = rows * (min(panel * tall, most) + between * line) + lines * line
    if rigid and panel * tall > most:
        width = max(0.6 * width, width - columns * (panel - most / tall))
    _, grid = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **shared
    )
    flat = grid.ravel()
    for spare in flat[count:]:
        spare.remove()
    return flat[:count]


def _line(look: Arm) -> dict[str, Any]:
    thin = look.marker in "x+"  # these have no face to be set off by a white edge
    return {
        **look._asdict(),
        "markersize": {"P": 1.5, "*": 1.9, "X": 1.5}.get(look.marker, 1.0)
        * plt.rcParams["lines.markersize"],
        "markeredgecolor": look.color if thin else "white",
        "markeredgewidth": 0.9 if thin else 0.4,
    }


def draw(ax: Axes, x: Any, y: Any, look: Arm, **options: Any) -> Line2D:
    """Draw one line in the look of its arm, with a marker on about ten of its points."""
    every = max(1, len(np.atleast_1d(x)) // 10)
    return ax.plot(x, y, **(_line(look) | {"markevery": every} | options))[0]


def step_axis(ax: Axes, steps: Iterable[int]) -> None:
    """Make x logarithmic in the step, with room for step 0."""
    last = max(int(max(steps)), 1)
    ax.set_xscale("symlog", linthresh=1, linscale=0.35)
    decades = [10**k for k in range(int(np.log10(last)) + 1)]
    ticks = [0, *decades]
    if last / decades[-1] > 2.5:
        ticks.append(last)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlim(-0.12, last * 1.12)
    ax.set_xlabel("training step")


def level(ax: Axes, height: float, text: str, *, label: str) -> None:
    """Draw a dashed level with its name, if it has one, over it at the right, inside the axes."""
    ax.axhline(height, **LEVEL | {"linewidth": 0.8}, label=label)
    if not text:
        return
    ax.annotate(
        f"{text} {height:.2f}", xy=(0.99, height), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", ha="right", va="bottom", color=theme.MUTED,
        fontstyle="italic",
    )  # fmt: skip


def thousands(value: float, _: object) -> str:
    """Write a tick in thousands, millions, billions or trillions."""
    if abs(value) >= 1e15:
        return f"{value:.2g}".replace("e+", "e")
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def legend(
    axes: Sequence[Axes], looks: dict[str, Arm], extra: Sequence[Any] = (), *, own: bool
) -> None:
    """Put one legend outside all panels: under our own figure as wide as it, else on the right."""
    handles = [Line2D([], [], label=name, **_line(look)) for name, look in looks.items()]
    handles += extra
    if own:
        figure = axes[0].figure
        for rows in range(1 + (len(handles) > 5), len(handles) + 1):
            place = {"loc": "outside lower center", "ncols": -(-len(handles) // rows)}
            made = figure.legend(handles=handles, columnspacing=1.4, **place)
            if rows == len(handles) or made.get_window_extent().width < 0.97 * figure.bbox.width:
                break
            made.remove()
    else:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
        axes[-1].legend(handles=handles, **beside)


def titles(axes: Sequence[Axes], title: str, note: str = "", *, own: bool) -> None:
    """Set the title of the whole figure and a note under it, unless it is the caller's."""
    if own:
        axes[0].figure.suptitle(title, x=0.01, ha="left")
        if note:
            inches = axes[0].figure.get_figwidth()
            note = textwrap.fill(note, int(inches * 72 / (0.52 * plt.rcParams["font.size"])))
            axes[0].figure.supxlabel(note, x=0.01, ha="left", color=theme.MUTED, fontstyle="italic",
                                     fontsize=plt.rcParams["font.size"])  # fmt: skip


def finish(
    axes: Sequence[Axes], title: str, looks: dict[str, Arm], extra: Sequence[Any] = (), *, own: bool
) -> Sequence[Axes]:
    """Put the legend and the title of a figure, and return its axes."""
    legend(axes, looks, extra, own=own)
    titles(axes, title, own=own)
    return axes


def end_labels(ax: Axes, ends: dict[str, tuple[float, float, str]], looks: dict[str, Arm]) -> None:
    """Write a text at each line's right end, pushed apart so that none covers another.

    A line that ends long before the others has its text beside its last point.

    Args:
        ax: Axes with everything else drawn; their figure is laid out (``draw_without_rendering``).
        ends: Name -> (x, y, text) of the last point.
        looks: Name -> look.
    """
    size = 0.95 * plt.rcParams["font.size"]
    points = {name: ax.transData.transform(end[:2]) for name, end in ends.items()}
    at = {name: ax.transAxes.inverted().transform(point) for name, point in points.items()}
    text = {"fontsize": size, "va": "center", "xycoords": "axes fraction"}
    early = [name for name in ends if at[name][0] < max(x for x, _ in at.values()) - EARLY]
    for name in early:
        ax.annotate(
            ends[name][2], xy=at[name], xytext=(6, 0), textcoords="offset points", **text,
            color=readable(looks[name].color),
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    beside = ax.transAxes + ScaledTranslation(9 / 72, 0, ax.figure.dpi_scale_trans)
    names = sorted((n for n in ends if n not in early), key=lambda name: ends[name][1])
    inches = ax.get_window_extent().height / ax.figure.dpi
    wanted = np.clip([at[name][1] for name in names], 0.0, 1.0)
    heights = _apart(wanted, 1.22 * size / 72 / max(inches, 0.5))
    for name, height in zip(names, heights, strict=True):
        line = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3}
        line |= {"color": looks[name].color, "relpos": (0.0, 0.5)}
        ax.annotate(
            ends[name][2], xy=at[name], xytext=(1.0, height), textcoords=beside, **text,
            color=readable(looks[name].color), annotation_clip=False, arrowprops=line,
        )  # fmt: skip


def _apart(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Return sorted positions at least ``gap`` apart, in total as near to the wanted as can be."""
    steps = gap * np.arange(len(wanted))  # without them, neighbours may be equal but not cross
    return isotonic_regression(wanted - steps).x + steps


def readable(color: str) -> str:
    """Darken a light colour until it reads as text on white."""
    rgb = np.asarray(to_rgb(color))
    while theme.lightness(rgb) > 50:
        rgb = rgb * 0.94
    return to_hex(rgb)


def means(rows: pd.DataFrame, by: str, value: str = "value") -> pd.DataFrame:
    """Return mean, min, max and count of a value for every ``by``, sorted by it."""
    return rows.groupby(by)[value].agg(["mean", "min", "max", "count"]).sort_index()


def draw_mean(ax: Axes, curve: pd.DataFrame, look: Arm, name: str) -> None:
    """Draw :func:`means` as the line of an arm, with a band from the lowest to the highest."""
    if (curve["count"] > 1).any():
        look_of_band = {"color": look.color, "alpha": 0.15, "linewidth": 0}
        ax.fill_between(curve.index, curve["min"], curve["max"], **look_of_band)
    draw(ax, curve.index.to_numpy(), curve["mean"].to_numpy(), look, label=name)


def heatmap(ax: Axes, values: np.ndarray, norm: Normalize) -> AxesImage:
    """Draw an array in the theme's diverging colours, one square per value."""
    look = {"cmap": theme.diverging(), "interpolation": "nearest", "aspect": "auto"}
    image = ax.imshow(values, norm=norm, **look)
    ax.set_box_aspect(values.shape[0] / values.shape[1])
    ax.grid(visible=False)
    ax.tick_params(length=0, which="both")
    ax.spines[:].set_visible(False)
    return image


def colorbar(
    image: AxesImage, axes: Sequence[Axes], label: str, *, extend: str = "neither"
) -> Colorbar:
    """Put one colour bar right of all panels."""
    size = {"pad": 0.015, "aspect": 28, "fraction": 0.05}
    bar = axes[0].figure.colorbar(image, ax=list(axes), extend=extend, **size)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar

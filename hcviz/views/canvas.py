"""The picture of explore(): arms side by side, what does not change is drawn once."""

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from hcviz.plots import grids, theme
from hcviz.runs.run import Run
from hcviz.views.readings import (
    FLOOR,
    by_layer,
    corners,
    curves,
    difference,
    label_of,
    losses,
    nearest,
    of_model,
    shading,
    spans,
    spectrum,
    steps_of,
    tail,
)

DPI, TALL, ARM = 100, 7.7, 2.3
"""Dots per inch; inches that the picture is tall, and wide for every arm."""
PM = "\N{PLUS-MINUS SIGN}"
LINES = {"solid": "-", "dashed": (0, (4, 1.5)), "dotted": (0, (1, 1))}
"""How the axes of a metric are told apart."""


class Picture:
    """A figure of which most is drawn once, and some artists anew whenever it is looked at.

    Args:
        figure: The figure.
        moving: The artists that change; each later one lies over those before.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]):
        self.figure, self.moving, self.canvas = figure, [*moving], FigureCanvasAgg(figure)
        for artist in self.moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.still = self.canvas.copy_from_bbox(figure.bbox)

    def look(self) -> Image.Image:
        """Return what the figure looks like now."""
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            self.figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.canvas.get_width_height()


class Canvas(Picture):
    """One weight of several arms under one cursor, the step.

    Left, a column an arm: a metric layer by layer, the weight's block grid, what sets the copies
    apart. Right: the loss, cosine, ledger and the metric over the steps, and the singular values.

    Args:
        runs: The arms, each started from a clone.
        name: A matrix that all of them have.
        metric: A metric that :func:`hcviz.measure` knows.
        layers: The matrices, one a layer, of the map of layers and steps; none draws no map.
        own: Whether every arm has its own scale for what sets the copies apart.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        name: str,
        metric: str,
        layers: Sequence[str] = (),
        *,
        own: bool = False,
    ):
        self.runs, self.name, self.metric, self.own = list(runs), name, metric, own
        self.kept = [run for run in self.runs if steps_of(run, name)]
        every = [steps_of(run, name) or run.steps for run in runs]
        self.steps = sorted({step for steps in every for step in steps})
        self.lines: dict[str, list[dict[str, dict[int, float]]]] = {}
        self.lines["loss"] = [{"": losses(run)} for run in runs]
        for one in dict.fromkeys(("cosine", "ledger", metric)):
            self.lines[one] = [curves(run, name, one) for run in runs]
        self.layers = [by_layer(run, layers, metric) for run in runs] if layers else []
        self.labels = [label_of(one) for one in layers]
        self.kind = "mean" if of_model(metric) else "".join({tail(one) for one in layers})
        self.looks = [*theme.arms(run.name for run in runs).values()]
        with theme.style(), theme.context("notebook"), mpl.rc_context({"font.size": 10}):
            self._build()

    @property
    def curves(self) -> list[dict[str, dict[int, float]]]:
        """Of every arm: axis -> step -> value of the chosen metric."""
        return self.lines[self.metric]

    def _build(self) -> None:
        """Draw everything once, and keep what no step changes."""
        count = len(self.runs)
        wide = ARM * count + 4.3
        self.figure = Figure(figsize=(wide, TALL), dpi=DPI)

        def place(left: float, top: float, width: float, height: float) -> Axes:
            below = 1 - (top + height) / TALL
            return self.figure.add_axes((left / wide, below, width / wide, height / TALL))

        lefts = [0.65 + ARM * number for number in range(count)]
        self.overviews = [place(left, 0.3, 2, 1.6) for left in lefts]
        self.bar = place(lefts[0], 2.2, ARM * count - 0.3, 0.12)
        spots = np.array([[place(left, top, 2, 2) for left in lefts] for top in (2.95, 5.25)])
        each = (TALL - 0.65) / (len(self.lines) + 1)
        tops = [0.3 + each * number for number in range(len(self.lines))]
        panels = [place(wide - 3.4, top, 3.25, each - 0.4) for top in [*tops, TALL - each + 0.1]]
        self._draw_layers()
        self._draw_maps(spots)
        self.panels = dict(zip(self.lines, panels, strict=False))
        self.cursors = [self._draw_lines(ax, one) for one, ax in self.panels.items()]
        for ax in panels[: len(self.lines) - 1]:
            ax.tick_params(labelbottom=False)
        self.spectra = self._draw_spectra(panels[-1])
        self.steps_said = [
            ax.annotate("", (1, 1), (0, 3), "axes fraction", "offset points", ha="right")
            for ax in (panels[0], panels[-1])
            if ax.get_visible()
        ]
        images = [image for both in self.maps.values() for image in both]
        over = [line for ax in spots.flat for line in ax.lines]
        marks = [mark for both in self.boxes for mark in both]
        moving = [*images, *over, *self.notes.values(), *self.cursors, *marks]
        super().__init__(self.figure, [*moving, *self.spectra, *self.steps_said])

    def _draw_layers(self) -> None:
        """Draw the map of layers and steps of every arm, all on one scale, and its cursors."""
        self.boxes = []
        for ax, run, look in zip(self.overviews, self.runs, self.looks, strict=True):
            ax.set_title(run.name, color=look.color, loc="center")
        if not self.layers:
            for ax in (*self.overviews, self.bar):
                ax.set_axis_off()
            return
        cells = [
            np.array([[arm.get(label, {}).get(step, np.nan) for step in self.steps]
                      for label in self.labels])
            for arm in self.layers
        ]  # fmt: skip
        norm, colors, lowest = shading(np.concatenate(cells))
        for ax, values in zip(self.overviews, cells, strict=True):
            shown = np.where(values == 0, lowest, values)
            image = ax.imshow(shown, norm=norm, cmap=colors, aspect="auto", interpolation="nearest")
            ax.grid(visible=False)
            few = sorted({0, len(self.steps) // 2, len(self.steps) - 1})
            ax.set_xticks(few, [f"{self.steps[one]:,}" for one in few])
            few = range(0, len(self.labels), -(-len(self.labels) // 8))
            ax.set_yticks(few, [self.labels[one] for one in few])
            size = len(self.steps), len(self.labels)
            column = Rectangle((0, -0.5), 1, size[1], fill=False, edgecolor=theme.MUTED, lw=1.2)
            cell = Rectangle((0, 0), 1, 1, fill=False, edgecolor="#d00000", lw=2)
            cell.set_visible(label_of(self.name) in self.labels)
            self.boxes.append([ax.add_patch(column), ax.add_patch(cell)])
        self.overviews[0].set_ylabel("layer")
        zero = "min" if lowest else "neither"
        bar = self.figure.colorbar(image, cax=self.bar, orientation="horizontal", extend=zero)
        said = "; grey: exactly 0" if lowest else ""
        scale = ", one scale for all arms" if len(self.runs) > 1 else ""
        label = f"{self.metric}: {self.kind} of every layer{scale}{said}"
        bar.set_label(textwrap.fill(label, 28 * len(self.runs)))

    def _draw_maps(self, spots: np.ndarray) -> None:
        """Draw the weight and what sets its copies apart, of the last step."""
        last = {run: corners(run, self.name, self.steps[-1]) for run in self.kept}
        apart = {run: difference(grid) for run, grid in last.items()}
        most = grids.reach(last.values()) if last else 0
        reach = {run: grids.reach([grid]) for run, grid in apart.items()}
        shared = grids.reach(apart.values()) if apart else 0
        self.maps, self.notes = {}, {}
        for (top, low), run in zip(spots.T, self.runs, strict=True):
            for ax in (top, low):
                ax.set(xticks=[], yticks=[])
            self.notes[run] = low.annotate(
                "", (0.5, 0), (0, -4), "axes fraction", "offset points", ha="center", va="top"
            )
            if run not in last:
                for ax in (top, low):
                    ax.set_box_aspect(1)
                    ax.spines[:].set_visible(False)
                    ax.text(0.5, 0.5, "weight not kept", ha="center", transform=ax.transAxes)
                continue
            scale = reach[run] if self.own else shared
            images = grids.show(top, last[run], most), grids.show(low, apart[run], scale)
            self.maps[run] = images
            said = f"apart by {PM}{reach[run]:.1g}" if apart[run].any() else "locked"
            low.set_title(said, loc="center", weight="normal")
        one = "scale" if len(self.runs) == 1 else "one scale"
        scale = "own scales" if self.own else f"{one} {PM}{shared:.1g}"
        if last:
            spots[0, 0].set_ylabel(f"weight\n{one} {PM}{most:.1g}")
            spots[1, 0].set_ylabel(f"block \N{MINUS SIGN} mean of copies\n{scale}")

    def _draw_lines(self, ax: Axes, metric: str) -> Any:
        """Draw a metric of every arm over the steps; return the cursor."""
        arms = self.lines[metric]
        every = [value for lines in arms for line in lines.values() for value in line.values()]
        axes = sorted({axis for lines in arms for axis in lines})
        looks = dict(zip(axes, cycle(LINES), strict=False))
        for lines, arm in zip(arms, self.looks, strict=True):
            for axis, line in lines.items():
                style = arm.linestyle if len(axes) == 1 else LINES[looks[axis]]
                ax.plot(*zip(*line.items(), strict=True), color=arm.color, linestyle=style, lw=1.6)
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-0.15, 1.1 * max(self.steps[-1], 1))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        if spans(every):
            low, high = min(value for value in every if value > 0), max(every)
            ax.set_yscale("symlog", linthresh=max(low, 1e-9 * high))
            ax.set_ylim(bottom=0)
        said = f": {', '.join(f'{axis} {looks[axis]}' for axis in axes)}" if axes[1:] else ""
        ax.set_title(f"{metric}{said}" if every else f"no {metric} here")
        return ax.axvline(self.steps[-1], color=theme.MUTED, linestyle="--")

    def _draw_spectra(self, ax: Axes) -> list[Any]:
        """Draw the singular values of every arm, those of the first step thin; return the lines."""
        lines = []
        for run, look in zip(self.runs, self.looks, strict=True):
            if run in self.kept:
                ax.plot(spectrum(run, self.name, self.steps[0]), color=look.color, lw=0.6)
            lines += ax.plot([], [], color=look.color, linestyle=look.linestyle, lw=1.6)
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 3, 2)
        ax.set_yticks([1, 1e-2, 1e-4, FLOOR], ["1", "1e-2", "1e-4", "zero"])
        ax.minorticks_off()
        ax.set_xlim(left=0)
        ax.set_title("singular values / largest")
        ax.set_visible(bool(self.kept))
        return lines

    def draw(self, step: int) -> Image.Image:
        """Return the picture of one step."""
        for run, lines, values in zip(self.runs, self.curves, self.spectra, strict=True):
            said = [
                f"{axis} {line[nearest(line, step)]:.4g}".strip()
                for axis, line in sorted(lines.items())
            ]
            if len(said) == 1:
                said = [self.metric, *said]
            self.notes[run].set_text("\n".join(["  ".join(said[:2]), "  ".join(said[2:])]))
            if run in self.maps:
                grid = corners(run, self.name, step)
                for image, part in zip(self.maps[run], (grid, difference(grid)), strict=True):
                    image.set_data(grids.flat(part))
                found = spectrum(run, self.name, step)
                values.set_data(np.arange(len(found)), found)
        for line in self.cursors:
            line.set_xdata([step, step])
        for text in self.steps_said:
            text.set_text(f"step {step:,}")
        column = self.steps.index(step) - 0.5
        for whole, cell in self.boxes:
            whole.set_x(column)
            if cell.get_visible():
                cell.set_xy((column, self.labels.index(label_of(self.name)) - 0.5))
        return self.look()

    def at(self, x: float, y: float) -> dict[str, Any]:
        """Return the layer and step, or the step, that lie at a place of the picture.

        Args:
            x: From 0, left, to 1, right.
            y: From 0, above, to 1, below.
        """
        for ax in [*self.overviews, *self.panels.values()]:
            if ax.get_position().contains(x, 1 - y):
                pixel = self.figure.transFigure.transform((x, 1 - y))
                across, down = ax.transData.inverted().transform(pixel)
                if ax not in self.overviews:
                    return {"step": min(self.steps, key=lambda one: abs(one - across))}
                if self.layers:
                    return {"layer": self.labels[round(down)], "step": self.steps[round(across)]}
        return {}

    def places(self) -> list[list[tuple[float, float, float, float]]]:
        """Return where the two maps of every arm are: left, top, width, height in pixels."""
        wide, tall = self.size
        boxes = [[image.axes.get_position() for image in both] for both in self.maps.values()]
        return [
            [(b.x0 * wide, (1 - b.y1) * tall, b.width * wide, b.height * tall) for b in both]
            for both in boxes
        ]

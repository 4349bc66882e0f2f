"""The picture of explore(): arms side by side, what does not change is drawn once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hcviz.metrics import measure
from hcviz.plots import grids, theme
from hcviz.runs.run import Run

DPI = 100
LARGE, TOP = 1024, 64
"""Of a matrix whose smaller side is over LARGE the spectrum shows the TOP largest values."""
FLOOR = 1e-7
"""Singular values under this share of the largest are drawn as zero; they are good to 1e-8."""
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))


class Canvas:
    """One weight of several arms: its block grid, what sets the copies apart, a metric, a spectrum.

    Args:
        runs: The arms, each started from a clone.
        name: A matrix that all of them have.
        metric: A metric of weights that needs nothing but the weight and its start.
    """

    def __init__(self, runs: Sequence[Run], name: str, metric: str):
        self.runs, self.name, self.metric = list(runs), name, metric
        self.curves = [curves(run, name, metric) for run in runs]
        self.steps = sorted({step for run in runs for step in steps_of(run, name)})
        self.looks = [*theme.arms(run.name for run in runs).values()]
        with theme.style(), theme.context("notebook"), mpl.rc_context({"font.size": 11}):
            self._build()

    def _build(self) -> None:
        """Draw everything once, and keep what no step changes."""
        count = len(self.runs)
        self.figure = Figure(figsize=(2.45 * count + 4, 5.5), dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(self.figure)
        spots = self.figure.subplots(2, count + 1, width_ratios=[1] * count + [1.3], squeeze=False)
        last = [corners(run, self.name, self.steps[-1]) for run in self.runs]
        most = grids.reach(last)
        self.maps, self.notes = [], []
        for (top, low), run, grid, look in zip(spots.T, self.runs, last, self.looks, strict=False):
            apart = difference(grid)
            finer = grids.reach([apart])
            self.maps.append([grids.show(top, grid, most), grids.show(low, apart, finer)])
            for ax in (top, low):
                ax.set(xticks=[], yticks=[])
            top.set_title(run.name, color=look.color, loc="center")
            said = f"apart, \N{PLUS-MINUS SIGN}{finer:.1g}" if apart.any() else "apart: locked"
            low.set_title(said, loc="center", weight="normal")
            self.notes.append(low.set_xlabel(" \n "))
        spots[0, 0].set_ylabel(f"weight, \N{PLUS-MINUS SIGN}{most:.1g}")
        spots[1, 0].set_ylabel("block \N{MINUS SIGN} mean of copies")
        self.cursor = self._draw_metric(spots[0, -1])
        self.spectra = self._draw_spectra(spots[1, -1])
        self.canvas.draw()  # the layout first
        self.figure.set_layout_engine("none")
        moving = [image for both in self.maps for image in both]
        self.moving = [*moving, *self.notes, *self.cursor, *self.spectra]
        self.over = [line for ax in spots[:, :-1].flat for line in ax.lines]
        for artist in [*self.moving, *self.over]:
            artist.set_animated(True)
        self.canvas.draw()
        self.still = self.canvas.copy_from_bbox(self.figure.bbox)

    def _draw_metric(self, ax: Axes) -> list[Any]:
        """Draw the metric of every arm over the steps; return the cursor and its label."""
        every = [
            value for lines in self.curves for line in lines.values() for value in line.values()
        ]
        for lines, look in zip(self.curves, self.looks, strict=True):
            for number, (axis, line) in enumerate(sorted(lines.items())):
                style = look.linestyle if len(lines) == 1 else LINES[number % 3]
                ax.plot(*zip(*line.items(), strict=True), color=look.color, linestyle=style, lw=1.6)
                if axis:
                    place = (-10 - 12 * number, 3)
                    ax.annotate(axis, [*line.items()][-1], place, textcoords="offset points")
        ax.set_xscale("symlog", linthresh=1)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        positive = [value for value in every if value > 0]
        if positive and min(every) >= 0 and max(every) > 100 * min(every):
            ax.set_yscale("symlog", linthresh=max(min(positive), 1e-9 * max(positive)))
            ax.set_ylim(bottom=0)
        ax.set_title(f"{self.metric} over the steps" if every else f"no {self.metric} here")
        label = ax.annotate("", (1, 1), xycoords="axes fraction", ha="right", va="bottom")
        return [ax.axvline(self.steps[-1], color=theme.MUTED, linestyle="--"), label]

    def _draw_spectra(self, ax: Axes) -> list[Any]:
        """Draw the singular values of every arm; return the lines."""
        lines = [
            ax.plot([], [], color=look.color, linestyle=look.linestyle, lw=1.6)[0]
            for look in self.looks
        ]
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 3, 2)
        ax.set_yticks([1, 1e-2, 1e-4, FLOOR], ["1", "1e-2", "1e-4", "zero"])
        ax.minorticks_off()
        ax.set_xlim(0, len(spectrum(self.runs[0], self.name, self.steps[-1])))
        ax.set_title("singular values / largest")
        return lines

    def draw(self, step: int) -> Image.Image:
        """Return the picture of one step."""
        for number, run in enumerate(self.runs):
            grid = corners(run, self.name, step)
            weight, apart = self.maps[number]
            weight.set_data(grids.flat(grid))
            apart.set_data(grids.flat(difference(grid)))
            said = [
                f"{axis} {line[nearest(line, step)]:.4g}".strip()
                for axis, line in sorted(self.curves[number].items())
            ]
            if len(said) == 1:
                said = [self.metric, *said]
            lines = ["  ".join(said[:2]), "  ".join(said[2:])]
            self.notes[number].set_text("\n".join(lines))
            values = spectrum(run, self.name, step)
            self.spectra[number].set_data(np.arange(len(values)), values)
        line, label = self.cursor
        line.set_xdata([step, step])
        label.set_text(f"step {step:,}")
        self.canvas.restore_region(self.still)
        for artist in [*self.moving, *self.over]:
            self.figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        return self.canvas.get_width_height()

    def places(self) -> list[list[tuple[float, float, float, float]]]:
        """Return where the two maps of every arm are: left, top, width, height in pixels."""
        wide, tall = self.size
        boxes = [[image.axes.get_position() for image in both] for both in self.maps]
        return [
            [(b.x0 * wide, (1 - b.y1) * tall, b.width * wide, b.height * tall) for b in both]
            for both in boxes
        ]


def difference(grid: np.ndarray) -> np.ndarray:
    """Return what sets the copies apart, those that are read if there are any."""
    return grids.apart(grid, "read" if grid.shape[1] > 1 else "written")


def nearest(steps: Mapping[int, Any] | Sequence[int], step: int) -> int:
    """Return the last of the steps that is not after a step, or the first."""
    return max((one for one in steps if one <= step), default=min(steps))


_SEEN: WeakKeyDictionary[Run, list] = WeakKeyDictionary()


def look_again(runs: Iterable[Run]) -> None:
    """Forget what was drawn of runs if the files of one have changed since it was looked at."""
    marks = {run: [run.stored(step).stamp for step in run.steps] for run in runs}
    if any(_SEEN.get(run, mark) != mark for run, mark in marks.items()):
        for kept in (steps_of, corners, spectrum, curves):
            kept.cache_clear()
    _SEEN.update(marks)


@lru_cache(maxsize=1024)
def steps_of(run: Run, name: str) -> list[int]:
    """Return the steps whose snapshot holds a tensor."""
    return [step for step in run.steps if name in run.stored(step)]


@lru_cache(maxsize=1024)
def corners(run: Run, name: str, step: int) -> np.ndarray:
    """Return the corner of every block at a step, [n_written, n_read, rows, cols]."""
    blocks = run.blocks(name, nearest(steps_of(run, name), step))
    return blocks[:, :, : grids.CORNER, : grids.CORNER].double().numpy()


@lru_cache(maxsize=1024)
def spectrum(run: Run, name: str, step: int) -> np.ndarray:
    """Return the singular values over the largest, from the Gram matrix; the top of a large one."""
    weight = run.tensor(name, nearest(steps_of(run, name), step))
    if min(weight.shape) > LARGE:
        values = torch.svd_lowrank(weight.float(), q=TOP)[1]
    else:
        wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
        values = torch.linalg.eigvalsh(wide @ wide.T).flip(0).clamp_min(0).sqrt()
    return (values / values[0].clamp_min(1e-300)).clamp_min(FLOOR).numpy()


@lru_cache(maxsize=256)
def curves(run: Run, name: str, metric: str) -> dict[str, dict[int, float]]:
    """Return axis -> step -> value of a metric, mean over its rows; {} where it has none."""
    rows = measure(run, metrics=[metric], tensors=f"^{re.escape(name)}$")
    means = rows.assign(axis=rows["axis"].fillna("")).groupby(["axis", "step"])["value"].mean()
    return {axis: line.droplevel("axis").to_dict() for axis, line in means.groupby("axis")}

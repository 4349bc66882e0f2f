"""explore(): a weight under a slider over the steps, in a notebook."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hcviz import plots, theme
from hcviz.errors import HcvizError
from hcviz.metrics import METRICS
from hcviz.runs import Run

CORNER = 24


class View(widgets.VBox):
    """The slider view: choose an arm and a tensor, move through the steps, or press play."""

    def __init__(self, runs: Sequence[Run]):
        """Build the controls for runs that started from clones."""
        self.runs = {run.name: run for run in runs if run.is_clone}
        if not self.runs:
            names = ", ".join(run.name for run in runs)
            raise HcvizError(
                f"None of these runs ({names}) started from a clone: nothing to compare."
            )
        self.arm = widgets.Dropdown(options=list(self.runs), description="arm")
        self.tensor = widgets.Dropdown(description="tensor", layout={"width": "30em"})
        self.slider = widgets.SelectionSlider(
            options=[-1], description="step", continuous_update=True, layout={"width": "30em"}
        )
        self.play = widgets.Play(interval=600, description="play")
        self.picture = widgets.Image(
            format="png", layout={"max_width": "100%", "object_fit": "contain"}
        )
        controls = widgets.HBox([self.arm, self.tensor], layout={"flex_flow": "row wrap"})
        steps = widgets.HBox([self.play, self.slider], layout={"flex_flow": "row wrap"})
        super().__init__([controls, steps, self.picture])
        self.arm.observe(self._choose_arm, "value")
        self.tensor.observe(self._choose_tensor, "value")
        self.slider.observe(self._redraw, "value")
        self.play.observe(self._advance, "value")
        self._choose_arm()

    @property
    def run(self) -> Run:
        """The arm on show."""
        return self.runs[self.arm.value]

    def _choose_arm(self, _=None) -> None:
        """Offer the matrices of the arm, keeping the tensor and the step where it has them."""
        names = [name for name in self.run.names() if _has_blocks(self.run, name)]
        kept, step = self.tensor.value, self.slider.value
        with self.hold_sync():
            self.tensor.unobserve(self._choose_tensor, "value")
            self.tensor.options = names
            self.tensor.value = kept if kept in names else names[0]
            self.tensor.observe(self._choose_tensor, "value")
            self.slider.unobserve(self._redraw, "value")
            self.slider.options = self.run.steps
            self.slider.value = step if step in self.run.steps else self.run.steps[-1]
            self.slider.observe(self._redraw, "value")
            self.play.max = len(self.run.steps) - 1
        self._choose_tensor()

    def _choose_tensor(self, _=None) -> None:
        """Draw the figure once for a tensor; a move of the slider then only exchanges its data."""
        self.cosines = [_cosine(self.run, step, self.tensor.value) for step in self.run.steps]
        with theme.context("notebook"):
            self.canvas = _Canvas(self.run, self.tensor.value, self.cosines)
        self._redraw()

    def _advance(self, change) -> None:
        """Show the next step while playing."""
        self.slider.value = self.run.steps[change["new"]]

    def _redraw(self, _=None) -> None:
        """Show the chosen step."""
        self.picture.value = self.canvas.draw(self.slider.value)


class _Canvas:
    """The picture: the block grid, what sets the copies apart, and the cosine with a cursor.

    Everything that does not change is drawn once; a step is drawn over it.
    """

    def __init__(self, run: Run, name: str, cosines: Sequence[float]):
        self.run, self.name = run, name
        self.cosines = dict(zip(run.steps, cosines, strict=True))
        grid = _grid(run, run.steps[-1], name)
        with theme.style(), mpl.rc_context({"font.size": 10}):
            self.figure = Figure(figsize=(11, 4), layout="constrained")
            self.canvas = FigureCanvasAgg(self.figure)
            self.figure.get_layout_engine().set(wspace=0.08)
            left, middle, right = self.figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
            plots.blocks(grid, ax=[left], corner=CORNER)
            plots.antisymmetric(grid, ax=[middle], corner=CORNER, along=_along(grid))
            left.set_title("the weight", loc="left")
            middle.set_title("what sets copies apart", loc="left")
            right.plot(run.steps, cosines, marker="o", color=theme.INK)
            right.set_xscale("symlog", linthresh=1)
            right.xaxis.set_major_formatter("{x:,.0f}")
            right.set_xlabel("training step")
            right.set_title("cosine of the copies", loc="left")
            self.images = (left.images[0], middle.images[0])
            self.cursor = right.axvline(run.steps[-1], color=theme.MUTED, linestyle="--")
            self.label = right.annotate("", (0.08, 0.06), xycoords="axes fraction")
            self.moving = [*self.images, *left.lines, *middle.lines, self.cursor, self.label]
            for artist in self.moving:
                artist.set_animated(True)
            self.canvas.draw()
            self.still = self.canvas.copy_from_bbox(self.figure.bbox)

    def draw(self, step: int) -> bytes:
        """Return the picture of one step as PNG."""
        grid = _grid(self.run, step, self.name)
        axis = 1 if _along(grid) == "read" else 0
        self.images[0].set_data(_corner(grid))
        self.images[1].set_data(_corner(grid - grid.mean(axis=axis, keepdims=True)))
        self.cursor.set_xdata([step, step])
        self.label.set_text(f"step {step:,}: {self.cosines[step]:.4f}")
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            self.figure.draw_artist(artist)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).save(buffer, "png", compress_level=1)
        return buffer.getvalue()


@lru_cache(maxsize=256)
def _grid(run: Run, step: int, name: str) -> np.ndarray:
    """Return the blocks of a weight, [n_written, n_read, rows, cols]."""
    return run.blocks(name, step).double().numpy()


def _corner(grid: np.ndarray) -> np.ndarray:
    """Return the corners of all blocks side by side, as ``plots.blocks`` draws them."""
    cut = grid[:, :, :CORNER, :CORNER]
    written, read, rows, cols = cut.shape
    return cut.transpose(0, 2, 1, 3).reshape(written * rows, read * cols)


def _along(grid: np.ndarray) -> str:
    """Return the side along which a weight has copies, reading first."""
    return "read" if grid.shape[1] > 1 else "written"


def _has_blocks(run: Run, name: str) -> bool:
    """Tell whether a tensor is an unfused matrix with copies."""
    dims = run.layout.get(name, ())
    if len(dims) != 2 or any(len(dim.segments) > 1 for dim in dims):
        return False
    return any(dim.segments[0].copies(run.factors) for dim in dims)


def _cosine(run: Run, step: int, name: str) -> float:
    """Return the mean cosine of a weight's copies; not a number where nothing is read twice."""
    rows = METRICS["cosine"].function(run.tensor(name, step), run.layout[name], run.factors)
    values = [row["value"] for row in rows]
    return float(np.mean(values)) if values else float("nan")


def explore(run: Run | str | Path | Sequence[Run | str | Path]) -> View:
    """Show the weights of training runs under a slider over the steps.

    Args:
        run: A run, its folder, or several (an arm each); runs without a clone are left out.

    Returns:
        A widget; the last expression of a notebook cell shows it.

    Raises:
        HcvizError: If no run started from a clone.

    Example:
        >>> view = explore(["runs/demo/symmetric", "runs/demo/dropout-0.1"])  # doctest: +SKIP
    """
    runs = run if isinstance(run, list | tuple) else [run]
    return View([one if isinstance(one, Run) else Run(one) for one in runs])

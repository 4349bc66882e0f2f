"""explore(): weights of several arms under a slider over the steps, in a notebook."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from hcviz.errors import HcvizError
from hcviz.io.files import layer_of
from hcviz.runs.run import Run
from hcviz.views.canvas import Canvas, corners, look_again, steps_of

MOST_ARMS = 4
CHOICE = ("cosine", "ledger", "distance", "norm", "effective_rank", "stable_rank")
"""The metrics on offer: numbers of a weight alone, or of a weight and its start."""


class View(widgets.VBox):
    """The slider view: choose arms, a tensor and a metric; move through the steps, or play.

    The arrow keys move the slider. The mouse over a map shows the copies of one entry.
    """

    def __init__(self, runs: Sequence[Run]):
        """Build the controls for runs that started from clones."""
        self._quiet = False
        self.runs = {run.name: run for run in runs if run.is_clone}
        if not self.runs:
            names = ", ".join(run.name for run in runs)
            raise HcvizError(
                f"None of these runs ({names}) started from a clone: nothing to compare."
            )
        self.arms = {
            name: widgets.Checkbox(number < 3, description=name, indent=False, layout=_wide("auto"))
            for number, name in enumerate(self.runs)
        }
        short = {"style": {"description_width": "auto"}}
        self.layer = widgets.Dropdown(description="layer", layout=_wide("11em"), **short)
        self.tensor = widgets.Dropdown(description="tensor", layout=_wide("22em"), **short)
        self.metric = widgets.Dropdown(
            options=CHOICE, description="metric", layout=_wide("14em"), **short
        )
        self.play = widgets.Play(interval=600, layout=_wide("auto"))
        self.slider = widgets.SelectionSlider(
            options=[("", -1)], description="step", layout=_wide("34em"), **short
        )
        self.picture = widgets.Image(format="jpeg", layout=_over(width="100%", height="auto"))
        self.hover = widgets.HTML(layout=_over(width="100%"))
        self.stack = widgets.GridBox([self.picture, self.hover], layout=_wide("100%"))
        rows = (
            [*self.arms.values()],
            [self.layer, self.tensor, self.metric],
            [self.play, self.slider],
        )
        boxes = [
            widgets.HBox(row, layout={"flex_flow": "row wrap", "grid_gap": "0 1em"}) for row in rows
        ]
        super().__init__([*boxes, self.stack])
        widgets.link((self.play, "value"), (self.slider, "index"))
        followers = [(box, self._choose_arms) for box in self.arms.values()]
        followers += [(self.layer, self._choose_layer), (self.tensor, self._choose)]
        followers += [(self.metric, self._choose), (self.slider, self._redraw)]
        for widget, follow in followers:
            widget.observe(lambda _, follow=follow: self._quiet or follow(), "value")
        self._choose_arms()

    @property
    def shown(self) -> list[Run]:
        """The arms on show, at most four; the first where none is chosen."""
        chosen = [self.runs[name] for name, box in self.arms.items() if box.value]
        return chosen[:MOST_ARMS] or [*self.runs.values()][:1]

    @property
    def names(self) -> list[str]:
        """The matrices that all arms on show have."""
        first, *others = self.shown
        names = [name for name in first.names() if has_blocks(first, name)]
        names = [name for name in names if all(has_blocks(run, name) for run in others)]
        if not names:
            shown = ", ".join(run.name for run in self.shown)
            raise HcvizError(f"No matrix with whole copies is in all of {shown}. Show fewer arms.")
        return names

    def frames(self, most: int = 3) -> dict[str, list[bytes]]:
        """Return the picture of every step as PNG, by tensor, for a page without a kernel.

        Args:
            most: How many tensors: the one on show, then others.
        """
        names = [self.tensor.value, *(n for n in self.names if n != self.tensor.value)][:most]
        canvases = {name: Canvas(self.shown, name, self.metric.value) for name in names}
        return {
            name: [encode(one.draw(s).quantize(128)) for s in one.steps]
            for name, one in canvases.items()
        }

    def _choose_arms(self) -> None:
        """Offer the layers of the arms, keeping what was chosen where they have it."""
        look_again(self.shown)
        self._offer(self.layer, dict.fromkeys(label_of(name) for name in self.names))
        self._choose_layer()

    def _choose_layer(self) -> None:
        """Offer the tensors of the layer, the one of the same kind first chosen."""
        here = {name: tail(name) for name in self.names if label_of(name) == self.layer.value}
        kind = tail(self.tensor.value or "")
        same = next((name for name, short in here.items() if short == kind), None)
        self._offer(self.tensor, here, same)
        self._choose()

    def _choose(self) -> None:
        """Draw the figure once for a choice; a move of the slider then only exchanges its data."""
        self.canvas = Canvas(self.shown, self.tensor.value, self.metric.value)
        self.cells = hover_template(self.canvas)
        self.stack.layout.grid_template_columns = f"minmax(0, {self.canvas.size[0]}px)"
        if [value for _, value in self.slider.options] != self.canvas.steps:
            self._offer(self.slider, dict.fromkeys(self.canvas.steps), self.canvas.steps[-1])
            self.play.max = len(self.canvas.steps) - 1
            self.play.value = self.slider.index
        self._redraw()

    def _offer(self, choice: widgets.Widget, values: dict, wanted: Any = None) -> None:
        """Set what there is to choose, keeping the choice where it is there still."""
        kept = choice.value
        self._quiet = True
        choice.options = [(str(label or value), value) for value, label in values.items()]
        choice.value = next(one for one in (kept, wanted, *values) if one in values)
        self._quiet = False

    def _redraw(self) -> None:
        """Show the chosen step."""
        step = self.slider.value
        # JPEG takes a third of the time of PNG
        self.picture.value = encode(self.canvas.draw(step), "jpeg", quality=85, subsampling=0)
        grids = [corners(run, self.canvas.name, step) for run in self.canvas.runs]
        values = np.concatenate([grid.transpose(2, 3, 0, 1).ravel() for grid in grids])
        self.hover.value = self.cells % tuple(values.tolist())


def _wide(width: str) -> dict[str, str]:
    return {"width": width}


def _over(**layout: str) -> dict[str, str]:
    """Return a layout that puts a widget into the one cell of a grid, above those before it."""
    return {"grid_area": "1 / 1 / 2 / 2", "margin": "0", **layout}


def encode(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def label_of(name: str) -> str:
    """Return the layer that a tensor's name tells, as a label."""
    layer = layer_of(name)
    return "none" if layer is None else str(layer)


def tail(name: str) -> str:
    """Return what a tensor is called inside its layer."""
    head, number, rest = name.partition(f".{label_of(name)}.")
    return (rest if number else head).removesuffix(".weight")


def has_blocks(run: Run, name: str) -> bool:
    """Tell whether a tensor is an unfused matrix with copies, all equally often."""
    dims = run.layout.get(name, ())
    if len(dims) != 2 or any(len(dim.segments) > 1 for dim in dims):
        return False
    factors = [n for dim in dims for n in dim.segments[0].copies(run.factors)]
    return bool(factors) and all(n == int(n) for n in factors) and bool(steps_of(run, name))


def hover_template(canvas: Canvas) -> str:
    """Return transparent cells to lie over the maps; the title of each has room for all its copies.

    The cells of a block are defined once and used for every block of both maps.
    """
    wide, tall = canvas.size
    parts = [f'<svg viewBox="0 0 {wide} {tall}" style="display:block" fill="transparent">']
    for number, (run, places) in enumerate(zip(canvas.runs, canvas.places(), strict=True)):
        written, read, rows, cols = corners(run, canvas.name, canvas.steps[0]).shape
        mark = f"hcviz-{id(canvas)}-{number}"
        copies = "\n".join(["   ".join(["%+.5f"] * read)] * written)
        parts.append(f'<defs><g id="{mark}">')
        parts += [
            f'<rect x="{col}" y="{row}" width="1" height="1">'
            f"<title>row {row}, column {col} of each copy:\n{copies}</title></rect>"
            for row in range(rows)
            for col in range(cols)
        ]
        parts.append("</g></defs>")
        for left, top, width, height in places:
            x, y = width / (read * cols), height / (written * rows)
            parts += [
                f'<use href="#{mark}" transform="translate({left + j * cols * x:.1f} '
                f'{top + i * rows * y:.1f}) scale({x:.3f} {y:.3f})"/>'
                for i in range(written)
                for j in range(read)
            ]
    return "".join([*parts, "</svg>"])


def explore(run: Run | str | Path | Sequence[Run | str | Path]) -> View:
    """Show the weights of training runs side by side under a slider over the steps.

    Above: a corner of every block. Below: each block minus the mean of its copies, on the arm's own
    scale; a locked weight shows nothing there. Right: a metric over the steps, and the singular
    values. Only the tensors on show are read.

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

"""The parts of explore(): what lies over its picture, its data, controls and bookmarks."""

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import anywidget
import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.metrics import LONGEST
from hcviz.plots import grids, theme
from hcviz.runs.rows import table
from hcviz.runs.run import Run
from hcviz.views.canvas import DPI, Canvas, Picture
from hcviz.views.figures import TEXT
from hcviz.views.readings import corners, looks, spectrum

STATE = ("arm", "layer", "tensor", "metric", "step", "scale", "text", "head")
"""What a bookmark may say; only ``arm`` more than once."""
FURTHEST = "furthest apart"
"""The head whose copies differ most in any of the arms."""
KEYS = "left and right move the step, up and down the layer"


class Overlay(anywidget.AnyWidget):
    """A transparent drawing that tells where it was clicked, and which arrow key was pressed.

    A click sends ``{"x": 0.25, "y": 0.5}``, shares of width and height, a key ``{"key": "Left"}``.
    """

    _esm = """
    function render({ model, el }) {
      const show = () => { el.innerHTML = model.get("drawing"); };
      model.on("change:drawing", show);
      show();
      el.tabIndex = 0;
      el.setAttribute("role", "application");
      el.setAttribute("aria-label", model.get("label"));
      el.dataset.lmSuppressShortcuts = "true";  // or JupyterLab takes the arrow keys
      el.addEventListener("click", (event) => {
        const box = el.getBoundingClientRect();
        model.send({
          x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height,
        });
      });
      el.addEventListener("keydown", (event) => {
        if (!event.key.startsWith("Arrow")) return;
        event.preventDefault();
        event.stopPropagation();
        model.send({ key: event.key.slice(5) });
      });
    }
    export default { render };
    """
    drawing = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)

    def on_event(self, act: Callable[[dict[str, Any]], None]) -> None:
        """Have a function called with every click and key."""
        self.on_msg(lambda _, content, __: act(content))


def template(canvas: Canvas) -> str:
    """Return transparent cells to lie over the maps; the title of each has room for all its copies.

    The cells of a block are defined once and used for every block of both maps.
    """
    wide, tall = canvas.size
    parts = [f'<svg viewBox="0 0 {wide} {tall}" style="display:block" fill="transparent">']
    for number, (run, places) in enumerate(zip(canvas.kept, canvas.places(), strict=True)):
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


def fill(cells: str, canvas: Canvas, step: int) -> str:
    """Return the cells of a template with the values of a step."""
    values = [corners(run, canvas.name, step).transpose(2, 3, 0, 1) for run in canvas.kept]
    return cells % tuple(np.concatenate([[], *(one.ravel() for one in values)]).tolist())


def data_of(canvas: Canvas, step: int) -> pd.DataFrame:
    """Return what a picture shows at a step, as rows of :func:`hcviz.measure`."""
    found: list[dict[str, Any]] = []

    def add(run: Run, line: Mapping[int, float], metric: str, **more: Any) -> None:
        where = {"run": run.name, "tensor": canvas.name, "metric": metric, **more}
        found.extend({**where, "step": at, "value": value} for at, value in line.items())

    for metric, arms in canvas.lines.items():
        for run, lines in zip(canvas.runs, arms, strict=True):
            for axis, line in lines.items():
                add(run, line, metric, axis=axis or None)
    for run, layers in zip(canvas.runs, canvas.layers, strict=False):
        for label, line in layers.items():
            add(run, line, f"{canvas.metric}: {canvas.kind}", tensor=None, layer=int(label))
    for run in canvas.kept:
        for number, value in enumerate(spectrum(run, canvas.name, step)):
            add(run, {step: value}, "singular value / largest", row=number)
        for (row, col), value in np.ndenumerate(grids.flat(corners(run, canvas.name, step))):
            add(run, {step: value}, "weight, corner of each block", row=row, col=col)
    return table(found)


class Heads(widgets.VBox):
    """Where heads and their copies look in a sentence, a row an arm; nothing is read while closed.

    What an arm lacks for it is said in the place of its row.
    """

    def __init__(self) -> None:
        """Build the controls."""
        self.opened = box("heads on a sentence", False)
        sentence = named("sentence", "44em", f"the model reads its first {LONGEST} tokens")
        self.text = widgets.Text(TEXT, continuous_update=False, **sentence)
        self.head = widgets.Dropdown(options=[FURTHEST], **named("head", "13em", "of the source"))
        self.image = widgets.Image(format="jpeg", layout=over(width="100%", height="auto"))
        self.overlay = Overlay(layout=over(width="100%"), label=f"heads on a sentence; {KEYS}")
        self.stack = widgets.GridBox([self.image, self.overlay], layout={"width": "100%"})
        self.said = widgets.HTML()
        self.picture: Picture | None = None
        self.frame: pd.DataFrame | None = None
        self._drawn: Any = None
        controls = beside([self.opened, self.text, self.head])
        super().__init__([controls, self.stack, self.said])

    @property
    def state(self) -> dict[str, str]:
        """What is chosen, in the words of a bookmark; where it is closed the text is empty."""
        here = {"text": self.text.value, "head": self.head.value}
        return here if self.opened.value else {"text": ""}

    def ask(self, asked: Mapping[str, Any]) -> None:
        """Set what a bookmark asks for."""
        if "text" in asked:
            self.opened.value = bool(asked["text"])
            self.text.value = asked["text"] or self.text.value
        if "head" in asked:
            self.head.options = [*dict.fromkeys((FURTHEST, asked["head"]))]
            self.head.value = asked["head"]

    def show(self, runs: Sequence[Run], layer: str, step: int, *, own: bool = False) -> None:
        """Show a layer at a step, if it is open; every difference on its own scale or all on one.

        Raises:
            HcvizError: If there is no such head.
        """
        frames, lacks = [], []
        for run in runs if self.opened.value else ():
            try:
                frames.append(looks(run, self.text.value, step, layer))
            except HcvizError as error:
                lacks.append(html.escape(f"No heads of {run.name}: {error}"))
        self.said.value = "".join(f"<div style='line-height: 1.4'>{one}</div>" for one in lacks)
        self.frame = pd.concat(frames, ignore_index=True) if frames else None
        for part in (self.text, self.head):
            part.layout.display = None if self.opened.value else "none"
        self.stack.layout.display = "grid" if frames else "none"
        if frames:
            heads = range(min(frame["head"].max() + 1 for frame in frames))
            there = {name: name for name in (FURTHEST, *map(str, heads))}
            offer(self.head, there, self.head.value)
            self.image.value = encode(self._draw(step, own), "jpeg", quality=85, subsampling=0)

    def _draw(self, step: int, own: bool) -> Image.Image:
        """Draw a figure where arms or words are others than before, else exchange what it shows."""
        head = None if self.head.value == FURTHEST else [int(self.head.value)]
        rows = self.text.value, tuple(self.frame["run"].unique())
        if new := rows != self._drawn:
            title = "Where heads and their copies look"
            with theme.style(), theme.context("notebook"), mpl.rc_context({"figure.dpi": DPI}):
                self.axes = plots.patterns(self.frame, heads=head, most=1, title=title)
                self.titles = [ax.set_title(ax.get_title("left"), loc="left") for ax in self.axes]
                place = "", (1, 1), (0, 22), "axes fraction", "offset points"
                self.titles.append(self.axes[2].annotate(*place, ha="right"))
            self.titles[-1].set_in_layout(False)
        shown = plots.pattern_panels(self.frame, heads=head, most=1)
        images = [ax.images[0] for ax in self.axes]
        for image, title, (_, said, values) in zip(images, self.titles, shown, strict=False):
            image.set_data(values)
            title.set_text(said)
        for image in images[2::3]:
            far = np.abs(image.get_array()).max() if own else 1
            image.set_clim(-far or -1, far or 1)
        scales = ", differences on own scales" if own else ""
        self.titles[-1].set_text(f"layer {self.frame['layer'][0]}, step {step:,}{scales}")
        if new:
            figure = self.axes[0].figure
            plt.close(figure)
            self.picture, self._drawn = Picture(figure, [*images, *self.titles]), rows
            figure.set_layout_engine("none")
            self.stack.layout.grid_template_columns = f"minmax(0, {self.picture.size[0]}px)"
        return self.picture.look()


def named(name: str, width: str, tip: str | None = None) -> dict[str, Any]:
    """Return the options of a control with its name before it, and what the mouse on it tells."""
    style = {"description_width": "auto"}
    return {"description": name, "tooltip": tip, "layout": {"width": width}, "style": style}


def box(name: str, value: bool) -> widgets.Checkbox:
    """Return a checkbox as wide as its name."""
    return widgets.Checkbox(value, description=name, indent=False, layout={"width": "auto"})


def beside(children: Sequence[widgets.Widget]) -> widgets.HBox:
    """Return controls side by side, in more rows where they do not fit."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "grid_gap": "0 1em"})


def over(**layout: str) -> dict[str, str]:
    """Return a layout that puts a widget into the one cell of a grid, above those before it."""
    return {"grid_area": "1 / 1 / 2 / 2", "margin": "0", **layout}


def neighbour(values: Sequence[Any], value: Any, by: int) -> Any:
    """Return the value so many places on, as far as there are any."""
    return values[min(max(values.index(value) + by, 0), len(values) - 1)]


def check(what: str, asked: str, there: Any) -> str:
    """Return what was asked for; refuse what is not there."""
    if asked not in there:
        raise HcvizError(f"There is no {what} {asked!r} here; there are {', '.join(there)}.")
    return asked


def offer(
    choice: widgets.Widget, values: dict[str, Any], asked: str | None, default: Any = None
) -> None:
    """Set what there is to choose, taking what is asked, or else keeping what was chosen."""
    wanted = None if asked is None else values[check(choice.description, asked, values)]
    kept = choice.value
    if [*choice.options] != [*values.items()]:
        choice.options = [*values.items()]
    order = (wanted, kept, default, *values.values())
    choice.value = next(one for one in order if one in values.values())


def parsed(state: str) -> dict[str, Any]:
    """Read a bookmark."""
    try:
        found: dict[str, Any] = parse_qs(state.strip(), strict_parsing=True, keep_blank_values=True)
        for key in found:
            check("entry", key, STATE)
    except ValueError as error:
        raise HcvizError(
            f"The bookmark {state!r} cannot be read: {error}. It looks like layer=2&step=100."
        ) from error
    return {key: values if key == "arm" else values[-1] for key, values in found.items()}


def encode(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()

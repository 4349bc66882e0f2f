"""explore(): weights of several arms under one cursor over the steps, in a notebook."""

import html
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import ipywidgets as widgets

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.views.canvas import Canvas
from hcviz.views.controls import (
    KEYS,
    Heads,
    Overlay,
    beside,
    box,
    check,
    data_of,
    encode,
    fill,
    named,
    neighbour,
    offer,
    over,
    parsed,
    template,
)
from hcviz.views.readings import clones, label_of, look_again, names_of, steps_of, tail

MOST_ARMS = 4
CHOICE = (
    "cosine ledger distance update turn flips norm angle effective_rank stable_rank participation "
    "power_law heads twins"
).split()
"""The metrics on offer; a bookmark may name any other that :func:`hcviz.measure` knows."""
SMALL = 1e9
"""Weights with at most so many entries, all layers and steps together, are mapped unasked."""


class View(widgets.VBox):
    """The linked view: choose arms, a weight and a metric; move through the steps, or play.

    The arrow keys move the slider; over the picture, left and right move the step, up and down the
    layer. A click in the map of layers opens that layer and step, one in a curve that step. The
    mouse over a weight shows the copies of one entry. Below: heads on a sentence, once ticked.
    """

    def __init__(self, runs: Sequence[Run], state: str | None = None):
        """Build the controls for runs that started from clones."""
        self.given, self.runs = list(runs), clones(runs)
        self._quiet, self._kind, self._good = False, "", {}
        self.arms = {
            name: box(name, number < MOST_ARMS - 1) for number, name in enumerate(self.runs)
        }
        self.own, self.mapped = box("own scales", False), box("all layers", True)
        self.layer = widgets.Dropdown(**named("layer", "11em"))
        self.tensor = widgets.Dropdown(**named("tensor", "22em"))
        self.metric = widgets.Dropdown(options=CHOICE, **named("metric", "14em"))
        self.play = widgets.Play(
            interval=600, tooltip="play the steps, stop, repeat", layout={"width": "auto"}
        )
        self.slider = widgets.SelectionSlider(options=[("", -1)], **named("step", "34em"))
        self.picture = widgets.Image(format="jpeg", layout=over(width="100%", height="auto"))
        label = f"map of layers, weights and curves; a click opens a layer and step, {KEYS}"
        self.overlay = Overlay(layout=over(width="100%"), label=label)
        self.stack = widgets.GridBox([self.picture, self.overlay], layout={"width": "100%"})
        self.heads = Heads()
        later = {"continuous_update": False}
        self.bookmark = widgets.Text(
            **later, **named("bookmark", "64em", "hcviz.explore(runs, state=...) opens this again")
        )
        self.stem = widgets.Text(
            "figures/explore", **named("save as", "22em", "PNG, SVG, data and command")
        )
        self.button = widgets.Button(description="save", layout={"width": "auto"})
        self.said = widgets.HTML()
        above = (
            [*self.arms.values(), self.own, self.mapped],
            [self.layer, self.tensor, self.metric],
            [self.play, self.slider],
        )
        below = ([self.bookmark], [self.stem, self.button, self.said])
        super().__init__([*map(beside, above), self.stack, self.heads, *map(beside, below)])
        self.mapped.value = self._entries(self._layers(self._first())) <= SMALL
        self._open({} if state is None else parsed(state))
        self._connect()

    def _connect(self) -> None:
        """Have every control do its work; what cannot be done is said under the picture."""
        widgets.link((self.play, "value"), (self.slider, "index"))
        boxes = [*self.arms.values(), self.own, self.mapped]
        for widget in (*boxes, self.layer, self.tensor, self.metric):
            widget.observe(lambda _: self._try(self._open), "value")
        for widget in (self.slider, self.heads.opened, self.heads.text, self.heads.head):
            widget.observe(lambda _: self._try(self._redraw), "value")
        self.bookmark.observe(
            lambda change: self._try(lambda: self._open(parsed(change["new"]))), "value"
        )
        self.overlay.on_event(lambda event: self._try(lambda: self._go(event)))
        self.heads.overlay.on_event(
            lambda event: self._try(lambda: self._go(event)) if "key" in event else None
        )
        self.button.on_click(lambda _: self._try(self._save))

    @property
    def shown(self) -> list[Run]:
        """The arms on show, at most four; the first where none is chosen."""
        chosen = [self.runs[name] for name, box in self.arms.items() if box.value]
        return chosen[:MOST_ARMS] or [*self.runs.values()][:1]

    @property
    def names(self) -> list[str]:
        """The matrices that all arms on show have, or were measured of."""
        first, *others = map(names_of, self.shown)
        names = [name for name in first if all(name in other for other in others)]
        if not names:
            shown = ", ".join(run.name for run in self.shown)
            raise HcvizError(f"No matrix with whole copies is in all of {shown}. Show fewer arms.")
        return names

    @property
    def state(self) -> str:
        """What is on show, as a short text that opens it again; it can be set."""
        return urlencode(self._now(), doseq=True)

    @state.setter
    def state(self, text: str) -> None:
        good = self._good
        try:
            self._open(parsed(text))
        except HcvizError:
            self._open(good)
            raise

    def save(self, stem: str | Path) -> dict[str, Path]:
        """Write what is on show as ``stem.png``, ``.svg``, ``.csv`` and ``.json`` with the command.

        And the heads, where they are on show, as ``stem-heads.png`` and so on.

        Args:
            stem: As `hcviz.plots.save` takes it.

        Raises:
            HcvizError: If the place cannot be written.
        """
        self.canvas.draw(self.slider.value)
        places = [str(run.path) for run in self.given]
        call = f"hcviz.explore({places!r}, state={self.state!r}).save({str(stem)!r})"
        command = f"python -c {shlex.quote(f'import hcviz; {call}')}"
        data = data_of(self.canvas, self.slider.value)
        written = plots.save(self.canvas.figure, stem, data=data, command=command)
        if self.heads.frame is None:
            return written
        heads = self.heads.picture.figure, f"{stem}-heads"
        more = plots.save(*heads, data=self.heads.frame, command=command)
        return written | {f"heads.{ending}": path for ending, path in more.items()}

    def frames(self, most: int = 3) -> dict[str, list[bytes]]:
        """Return the picture of every step as PNG, by tensor, for a page without a kernel.

        Args:
            most: How many tensors: the one on show, then others whose weights were kept.
        """
        others = [name for name in self.names if name != self.tensor.value and self._is_kept(name)]
        canvases = {name: self._canvas(name) for name in [self.tensor.value, *others][:most]}
        return {
            name: [encode(one.draw(s).quantize(128)) for s in one.steps]
            for name, one in canvases.items()
        }

    def _now(self) -> dict[str, Any]:
        """Return what is chosen, in the words of a bookmark."""
        return {
            "arm": [run.name for run in self.shown],
            "layer": self.layer.value,
            "tensor": tail(self.tensor.value),
            "metric": self.metric.value,
            "step": str(self.slider.value),
            "scale": "own" if self.own.value else "one",
            **self.heads.state,
        }

    def _is_kept(self, name: str) -> bool:
        return all(steps_of(run, name) for run in self.shown)

    def _first(self) -> str:
        """Return the weight to begin with: one that was kept, and in a layer, if there is any."""
        return min(self.names, key=lambda one: (not self._is_kept(one), label_of(one) == "none"))

    def _layers(self, name: str) -> list[str]:
        """Return the weights of the same kind in all layers; outside of them the kind before."""
        if label_of(name) != "none":
            self._kind = tail(name)
        return [n for n in self.names if tail(n) == self._kind and label_of(n) != "none"]

    def _entries(self, names: Sequence[str]) -> float:
        """Return how many numbers the snapshots of some weights hold."""
        return sum(
            len(steps_of(run, name)) * math.prod(dim.wide_size(run.factors) for dim in dims)
            for run in self.shown
            for name, dims in ((name, run.layout[name]) for name in names)
        )

    def _canvas(self, name: str) -> Canvas:
        layers = self._layers(name) if self.mapped.value else []
        return Canvas(self.shown, name, self.metric.value, layers, own=self.own.value)

    def _open(self, asked: Mapping[str, Any] | None = None) -> None:
        """Offer what the arms have; show what is asked, for the rest what was chosen.

        The figure is drawn once; a move of the slider then only exchanges its data.
        """
        asked = asked or {}
        self._quiet = True
        try:
            for name in asked.get("arm", ()):
                check("arm", name, self.arms)
            for name, box in self.arms.items() if "arm" in asked else ():
                box.value = name in asked["arm"]
            if check("scale", asked.get("scale", "one"), ("one", "own")) and "scale" in asked:
                self.own.value = asked["scale"] == "own"
            look_again(self.shown)
            labels = {label_of(name): label_of(name) for name in self.names}
            offer(self.layer, labels, asked.get("layer"), label_of(self._first()))
            here = {tail(n): n for n in self.names if label_of(n) == self.layer.value}
            offer(self.tensor, here, asked.get("tensor"), here.get(self._kind))
            metrics = dict.fromkeys([*CHOICE, asked.get("metric", self.metric.value)])
            offer(self.metric, {name: name for name in metrics}, asked.get("metric"))
            self.canvas = self._canvas(self.tensor.value)
            steps = {str(step): step for step in self.canvas.steps}
            offer(self.slider, steps, asked.get("step"), self.canvas.steps[-1])
            self.play.max = len(steps) - 1
            self.play.value = self.slider.index
            self.heads.ask(asked)
        finally:
            self._quiet = False
        self.cells = template(self.canvas)
        self.stack.layout.grid_template_columns = f"minmax(0, {self.canvas.size[0]}px)"
        self._redraw()

    def _redraw(self) -> None:
        """Show the chosen step."""
        step = self.slider.value
        # JPEG takes a third of the time of PNG
        self.picture.value = encode(self.canvas.draw(step), "jpeg", quality=85, subsampling=0)
        self.overlay.drawing = fill(self.cells, self.canvas, step)
        self._quiet = True
        try:
            self.heads.show(self.shown, self.layer.value, step, own=self.own.value)
            self._good = self._now()
            self.bookmark.value = self.state
        finally:
            self._quiet = False

    def _try(self, act: Callable[[], Any]) -> None:
        """Do what a control asks; where that fails, say why and show what was shown before."""
        if self._quiet:
            return
        good = self._good
        try:
            self.said.value = act() or ""
        except HcvizError as error:
            self.said.value = html.escape(str(error))
            self._open(good)

    def _go(self, event: Mapping[str, Any]) -> None:
        """Follow a click or an arrow key on the picture."""
        if "key" in event:
            across = {"Left": -1, "Right": 1}.get(event["key"], 0)
            down = {"Up": -1, "Down": 1}.get(event["key"], 0)
            asked = {
                "step": neighbour(self.canvas.steps, self.slider.value, across),
                "layer": neighbour([v for _, v in self.layer.options], self.layer.value, down),
            }
        else:
            asked = self.canvas.at(event["x"], event["y"])
        if asked.get("layer", self.layer.value) != self.layer.value:
            self._open({key: str(value) for key, value in asked.items()})
        elif asked:
            self.slider.value = asked["step"]

    def _save(self) -> str:
        written = self.save(self.stem.value)
        return html.escape(f"saved {', '.join(map(str, written.values()))}")


def explore(
    run: Run | str | Path | Sequence[Run | str | Path], *, state: str | None = None
) -> View:
    """Show the weights of training runs side by side under one cursor over the steps.

    Left, for every arm: a metric of each layer over the steps, a corner of every block of a weight,
    and each block minus the mean of its copies; a locked weight shows nothing there. Right: the
    loss, cosine, ledger and the metric over the steps, and the singular values, thin those of the
    first step. A click in the map of layers opens that layer and step. Only the weights on show are
    read, and those of their kind for the map of layers. Below, once "heads on a sentence" is
    ticked: where a head and its copy look in a sentence, by whole models at the cursor's step.

    Args:
        run: A run, its folder, or several (an arm each); runs without a clone are left out.
        state: The bookmark of a view, its ``state``; opens what that showed.

    Returns:
        A widget; the last expression of a notebook cell shows it.

    Raises:
        HcvizError: If no run started from a clone, two clones have one name, or the bookmark names
            what is not there.

    Example:
        >>> view = explore(["runs/demo/symmetric", "runs/demo/dropout-0.1"])  # doctest: +SKIP
        >>> explore("runs/demo/symmetric", state="layer=2&metric=ledger&step=19")  # doctest: +SKIP
    """
    runs = run if isinstance(run, list | tuple) else [run]
    return View([one if isinstance(one, Run) else Run(one) for one in runs], state)

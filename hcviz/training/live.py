"""What is seen of a model while it trains: metrics, so that weights need not be kept, and a bar."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hcviz.architecture.factors import read_factors
from hcviz.errors import HcvizError
from hcviz.io.files import finder
from hcviz.metrics import axes_of, fitting, known_layout, metric_rows, resolve
from hcviz.runs import rows as tables
from hcviz.runs.run import Run
from hcviz.training.schedule import snapshot_steps
from hcviz.widening.layout import layout


class MetricsCallback(TrainerCallback):
    """Measure weights, gradients and Adam's moments at chosen steps, for any `Trainer`.

    The rows are those of `hcviz.measure`, which takes them as they are, as does ``run.metrics``.
    They go to ``metrics.jsonl`` in the Trainer's output folder while it trains, and to
    ``metrics.parquet`` when it is done. A gradient is the one that led to the step it is told for,
    after clipping; the step before, for updates, is the one measured before. The first process
    measures; a model whose parameters are sharded is refused.

    Args:
        metrics: Names as in `hcviz.measure`; also with ``grad.``: ``grad.ledger``.
        tensors: Regular expressions of the tensors to measure; None takes all.
        steps: How many steps (log-spaced, as the snapshots of `hcviz.train`), or which.
        factors: How the model was cloned, as in `hcviz.clone`; by default what its configuration
            says.
        report: Is given the means over tensors of what was measured, by metric and axis, as
            ``{"ledger/R": 0.02}``: ``trainer.log`` hands them to the trackers of ``report_to``
            (TensorBoard, W&B, trackio). `hcviz.train` does so where there are any.

    Raises:
        HcvizError: If a metric is unknown or needs a whole model, or no tensor is found.

    Example:
        >>> trainer.add_callback(MetricsCallback(["ledger", "grad.ledger"]))  # doctest: +SKIP
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("ledger",),
        *,
        tensors: str | Iterable[str] | None = None,
        steps: int | Sequence[int] = 12,
        factors: Mapping[str, Any] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ):
        """Check the names; the model is seen when training begins."""
        self.asked = {label: resolve(label) for label in metrics}
        whole = [label for label, (_, entry) in self.asked.items() if entry.of == "model"]
        if whole:
            raise HcvizError(
                f"{', '.join(whole)} reads a text with a whole model. Keep snapshots, and measure "
                "it afterwards: hcviz.measure(run, ...)."
            )
        self.tensors = [tensors] if isinstance(tensors, str) else tensors or [""]
        self.steps, self.given, self.report = steps, factors, report
        self.shown: dict[str, float] = {}
        self.origin = 0  # the step at which the model came in
        self.seconds = self.trained = 0.0

    @property
    def overhead(self) -> float:
        """Share of the training time, measuring left out, that measuring took in addition."""
        rest = self.trained - self.seconds
        return self.seconds / rest if rest > 0 else 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn the axes of the model, and measure it as it comes."""
        self.began = time.perf_counter()
        self.first = state.is_world_process_zero
        if not self.first:
            return
        model, self.folder = kwargs["model"], Path(args.output_dir)
        self.at = frozenset(snapshot_steps(state.max_steps, self.steps))
        self.factors = read_factors(model.config, self.given)
        self.asked = fitting(self.asked, bool(self.factors))
        self.layout = known_layout(lambda: layout(model, factors=self.factors), bool(self.factors))
        self.parameters = self._chosen(model)
        self.start, self.previous, self.before = {}, {}, None
        self._go_on(state.global_step)
        if state.global_step == self.origin:
            self._measure(self.origin, kwargs.get("optimizer"), gradients=False)
            self._tell(control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the gradients before they are used."""
        if self.first and state.global_step + 1 in self.at:
            self._measure(state.global_step + 1, None, gradients=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure weights and moments after the step."""
        if self.first and state.global_step in self.at:
            self._measure(state.global_step, kwargs.get("optimizer"), gradients=False)
            self._tell(control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn the lines into one table."""
        self.trained += time.perf_counter() - self.began
        if self.first:
            tables.finish_live(self.folder)

    def _chosen(self, model: Any) -> dict[str, torch.nn.Parameter]:
        """Return the parameters to measure."""
        named = dict(model.named_parameters())
        found = {name: named[name] for name in filter(finder(self.tensors), named)}
        if not found:
            raise HcvizError(
                f"No tensor of the model matches {list(self.tensors)!r}; it has "
                f"{', '.join(list(named)[:4])}, ..."
            )
        split = [n for n, p in found.items() if sharded(p)]
        if split:
            raise HcvizError(
                f"{split[0]} is sharded over processes, so no process can measure it. Keep "
                "snapshots, and measure them afterwards: hcviz.measure(run, ...)."
            )
        return found

    def _go_on(self, step: int) -> None:
        """Go on from a step: with the rows up to it, and the weights that metrics look back at."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tables.start_live(self.folder, step)
        if step and self._keeps():
            run = Run(self.folder)
            self.start = {name: run.tensor(name, self.origin) for name in self.parameters}
            last = max(at for at in self.at if at <= step)
            if last in run.steps and "previous" in self._keeps():
                self.before = last
                self.previous = {name: run.tensor(name, last) for name in self.parameters}

    def _keeps(self) -> set[str]:
        """Return which earlier weights the metrics look back at."""
        needs = {extra for _, entry in self.asked.values() for extra in entry.needs}
        return needs | {"previous" for subject, _ in self.asked.values() if subject == "update"}

    def _tell(self, control: Any) -> None:
        """Report the means, and let the Trainer log its loss all the same."""
        shown, self.shown, asked = self.shown, {}, control.should_log
        if self.report and shown:
            self.report(shown)
            control.should_log = asked  # which a log sets back

    @torch.no_grad()
    def _measure(self, step: int, optimizer: Any, *, gradients: bool) -> None:
        """Append the rows of one step to the run's lines."""
        began = time.perf_counter()
        asked = {m: both for m, both in self.asked.items() if (both[0] == "grad") == gradients}
        lines, shown = [], {}
        for name, parameter in self.parameters.items() if asked else ():
            if not gradients and "start" in self._keeps():
                self.start.setdefault(name, parameter.detach().clone())
            given = {
                "": parameter.detach(),
                "grad": parameter.grad,
                "start": self.start.get(name),
                "previous": self.previous.get(name),
                "gap": None if self.before is None else step - self.before,
            }
            if optimizer is not None:
                given |= optimizer.state.get(parameter, {})
            axes = axes_of(self.layout, name, parameter)
            rows = metric_rows(
                asked, given.get, name=name, step=step, axes=axes, factors=self.factors
            )
            for row in rows:
                lines.append(json.dumps(row) + "\n")
                kind = "/".join(filter(None, (row["metric"], row.get("axis"))))
                shown.setdefault(kind, []).append(row["value"])
            if not gradients and "previous" in self._keeps():
                self.previous[name] = parameter.detach().clone()
        self.before = self.before if gradients else step
        with (self.folder / tables.LIVE).open("a", encoding="utf-8") as file:
            file.writelines(lines)
        self.shown |= {kind: sum(found) / len(found) for kind, found in shown.items()}
        self.seconds += time.perf_counter() - began


def sharded(parameter: torch.nn.Parameter) -> bool:
    """Tell whether a process holds a part of a parameter only."""
    return hasattr(parameter, "full_tensor") or not parameter.numel()


class Bar(TrainerCallback):
    """One progress bar with the last losses in it; also hands each log row to a listener."""

    def __init__(self, label: str, *, progress: bool, on_log: Callable[[dict], None] | None):
        """Take the bar's title, whether to show it, and the listener."""
        self.label, self.progress, self.on_log_row = label, progress, on_log
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm

        hidden = not (self.progress and state.is_world_process_zero)
        look = {"desc": self.label, "disable": hidden, "unit": "step"}
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, **look)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        """Show the losses."""
        for key, name in (("loss", "train"), ("eval_loss", "held-out")):
            if key in logs:
                self.shown[name] = f"{logs[key]:.3f}"
        self.bar.set_postfix(self.shown, refresh=False)
        if self.on_log_row and state.is_world_process_zero:
            self.on_log_row({**logs, "step": state.global_step})

    def close(self) -> None:
        """Close the bar, also after an error."""
        if hasattr(self, "bar"):
            self.bar.close()

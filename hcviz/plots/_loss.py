"""Loss over training: all arms, the near ones from close by, and their gap to the source."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme

_X_LABELS = {
    "tokens": "training tokens",
    "step": "training step",
    "seconds": "seconds of training",
    "flops": "training FLOPs",
}
_SPLITS = {"heldout": "held-out", "train": "training"}
_MINUS = "\N{MINUS SIGN}"


@theme.themed
def loss(
    history: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "tokens",
    split: str = "heldout",
    reference: str | float | None = "source",
    against: str | None = "source",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the loss of every arm over training, with its last value at the line's end.

    Clones mostly end within hundredths of the source, and a random start far above. So a figure of
    its own (``ax`` is None) has, beside all arms, a second panel with the arms near the best one if
    some are far, and a third with the differences from the arm ``against`` at the same x: the fair
    control, linear between its points; by FLOPs that is a comparison at equal compute. Rows of one
    arm at one step (seeds) become their mean and a band from lowest to highest. A diamond stands
    where a model has grown, so that a token costs more from there on.

    Args:
        history: Rows with ``hue``, ``x``, split and loss (nats per token), as ``Run.history``.
        hue: Column that tells the arms.
        x: ``tokens``, ``step``, ``seconds`` or ``flops`` (6 N per token, see ``Run.history``).
        split: ``heldout`` or ``train``.
        reference: A dashed level: an arm, whose first loss it is, or a number; None draws none.
        against: The arm of the difference panel; None, or an arm that is not there, draws none.
        ax: Axes for all arms; then there are no other panels.
        title: Title of the figure, where ``ax`` is None; None writes one.

    Returns:
        The axes with all arms; ``axes.figure.axes`` are all of them.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "source", "tokens": [0, 9], "split": "heldout", "loss": [3.4, 3.2]}
        >>> loss(pd.DataFrame(rows)).get_xlabel()
        'training tokens'
    """
    _frames.need(history, [hue, x, "split", "loss"], "The loss figure")
    finite = np.isfinite(history[["loss", x]].astype(float)).all(axis=1)
    rows = history[(history["split"] == split) & finite]
    if rows.empty:
        there = ", ".join(sorted(map(str, history["split"].unique()))) or "nothing"
        raise HcvizError(
            f"The history has no finite loss of the split {split!r}; it has {there}."
            if history.empty or history[x].notna().any()
            else f"The history has no {x}: these runs did not log it. Take x='tokens'."
        )
    looks = theme.arms(theme.arm_order(rows[hue]))
    curves = {name: _curve(rows[rows[hue].astype(str) == name], x) for name in looks}
    best = min(curve["mean"].iloc[-1] for curve in curves.values())
    near = {name: curve for name, curve in curves.items() if curve["mean"].iloc[-1] < 1.15 * best}
    zoom = ax is None and len(near) < len(curves)
    gap = ax is None and against in curves and len(curves) > 1
    axes = _axes.panels(1 + zoom + gap, ax, tall=1.1 if zoom and gap else 0.8, lines=5)
    named, shown = len(axes) == 1, [curves, *[near] * zoom]
    what = f"{_SPLITS.get(split, split)} loss"
    level = _level_of(reference, curves)
    for panel, some in zip(axes, shown, strict=False):
        for name, curve in some.items():
            _axes.draw_mean(panel, curve, looks[name], name)
            if len(grown := curve[curve["grown"]]):
                panel.plot(grown.index, grown["mean"], "D", color=looks[name].color, label="_grown")
        if level is not None:
            _axes.level(panel, level[0], level[1] if named else "", label="_reference")
    axes[0].set_ylabel(f"{what} (nats per token)")
    ends = [{n: (c.index[-1], c["mean"].iloc[-1]) for n, c in some.items()} for some in shown]
    if gap:
        ends.append(_gap_panel(axes[-1], curves, looks, str(against)))
        axes[-1].set_title(f"minus {against}")
        axes[-1].set_ylabel(f"difference at the same {x.replace('flops', 'FLOPs')}")
    for panel in axes:
        panel.set_xlabel(_X_LABELS.get(x, x))
        panel.margins(x=0.02)
        panel.xaxis.set_major_locator(MaxNLocator(4 if len(axes) > 2 else 6))
        panel.xaxis.set_major_formatter(FuncFormatter(_axes.thousands))
    if not named:
        axes[0].set_title("all arms (lower is better)")
        if zoom:
            axes[1].set_title("from close by")
        told = [] if level is None else [f"{level[1]} {level[0]:.2f}"]
        _axes.legend(axes, looks, [Line2D([], [], **_axes.LEVEL, label=t) for t in told], own=True)
    _axes.titles(axes, title or f"{what.capitalize()} over training", own=ax is None)
    axes[0].figure.draw_without_rendering()  # settles limits and heights, for the end labels
    for i, (panel, end) in enumerate(zip(axes, ends, strict=True)):
        write = _signed if gap and i == len(axes) - 1 else "{:.{}f}".format
        said = _said({n: y for n, (_, y) in end.items()}, write, 2 if i == 0 else 3, named=named)
        _axes.end_labels(panel, {n: (*end[n], text) for n, text in said.items()}, looks)
    return axes[0]


def _curve(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return the loss over the seeds of an arm by their mean x, and where its model has grown."""
    by = "step" if "step" in rows else x  # seconds differ from seed to seed, steps do not
    found = _axes.means(rows, by, "loss")
    found["grown"] = False
    if {"tokens", "flops"} <= {*rows}:
        spent = rows.groupby(by)[["tokens", "flops"]].mean().sort_index().astype(float).diff()
        price = spent["flops"] / spent["tokens"]
        found["grown"] = (price.shift(-1) > 1.001 * price).to_numpy()
    return found.set_index(rows.groupby(by)[x].mean().sort_index())


def _level_of(reference: str | float | None, curves: dict) -> tuple[float, str] | None:
    """Return the height and name of the dashed level, if there is one."""
    if isinstance(reference, str):
        if reference not in curves:
            return None
        return float(curves[reference]["mean"].iloc[0]), f"{reference} at start"
    return None if reference is None else (float(reference), "reference")


def _at(base, where):
    """Interpolate a curve; where it has no point yet, as in a run that has just begun, NaN."""
    x, y = (np.asarray(values, dtype=float) for values in (base.index, base))
    where = np.asarray(where, dtype=float)
    return np.interp(where, x, y, np.nan, np.nan) if len(x) else np.full(len(where), np.nan)


def _gap_panel(ax: Axes, curves: dict[str, pd.DataFrame], looks: dict, against: str) -> dict:
    """Draw every arm minus one, on the scale of the arms in proportion.

    Of the others those that end within it are drawn as far as they reach, and the rest get a note.
    """
    base = curves[against]["mean"]
    gaps = {
        name: (curve["mean"].astype(float) - _at(base, curve.index)).dropna()
        for name, curve in curves.items()
        if name != against
    }
    gaps = {name: gap for name, gap in gaps.items() if len(gap)}
    reach = {name: gap.abs().max() for name, gap in gaps.items()}
    usual = sorted(reach.values())[(len(reach) - 1) // 2] if reach else 0.0
    far = [name for name, size in reach.items() if size > 5 * max(usual, 0.02)]
    ax.axhline(0.0, color=looks[against].color, linewidth=1.0, zorder=1.5, label="_zero")
    near = [name for name in gaps if name not in far]
    last = {name: gap.iloc[-1] for name, gap in gaps.items()}
    _draw_gaps(ax, gaps, looks, near)
    ax.margins(y=0.1)
    low, high = ax.get_ylim()
    back = [name for name in far if low <= last[name] <= high]
    away = [name for name in far if name not in back]
    _draw_gaps(ax, gaps, looks, back)
    ax.set_ylim(low, high)
    if away:
        ax.set_ylim(low, high + (0.06 + 0.09 * len(away)) * (high - low))
        up, down = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
        ways = {name: up if last[name] > high else down for name in away}
        notes = [f"{way} {name} {_signed(last[name])} at the end" for name, way in ways.items()]
        ax.text(0.98, 0.99, "\n".join(notes), transform=ax.transAxes, ha="right", va="top",
                color=theme.MUTED, fontstyle="italic")  # fmt: skip
    ends = {name: (gaps[name].index[-1], last[name]) for name in near + back}
    return {against: (base.index[-1], 0.0), **ends}


def _draw_gaps(ax: Axes, gaps: dict[str, pd.Series], looks: dict, names: list[str]) -> None:
    for name in names:
        gap = gaps[name]
        _axes.draw(ax, gap.index.to_numpy(), gap.to_numpy(), looks[name], label=name)


def _said(
    ends: dict[str, float], write: Callable[[float, int], str], digits: int, *, named: bool
) -> dict[str, str]:
    """Write the ends of curves, with a digit more where two would read alike.

    Ends that still do are said once, at the first of them.
    """
    alike = len({write(y, digits) for y in ends.values()}) < len(ends)
    found: dict[str, list[str]] = {}
    for name, y in ends.items():
        found.setdefault(write(y, digits + alike), []).append(name)
    if named:
        return {names[0]: f"{', '.join(names)} {text}" for text, names in found.items()}
    counts = {text: f" ({len(names)} arms)" * (len(names) > 1) for text, names in found.items()}
    return {names[0]: text + counts[text] for text, names in found.items()}


def _signed(value: float, digits: int = 3) -> str:
    text = f"{value:+.{digits}f}" if abs(value) < 1 else f"{value:+.2f}"
    text = text if float(text) else text[1:]  # what rounds to zero has no sign
    return "0" if value == 0 else text.replace("-", _MINUS)

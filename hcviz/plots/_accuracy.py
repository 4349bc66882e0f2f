"""Accuracy on tasks: its mean over training, and every task at the end, with chance beside it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from hcviz.errors import HcvizError
from hcviz.plots import _axes, _frames, theme

MEAN = "mean"


@theme.themed
def accuracy(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    x: str = "step",
    ax: Axes | None = None,
    title: str = "Mean accuracy over training",
) -> Axes:
    """Draw the mean accuracy over all tasks of every arm over training, and that of guessing.

    Where a column ``seed`` tells several runs of an arm apart, a band goes from the lowest to the
    highest.

    Args:
        frame: What :func:`hcviz.evaluate` returns for runs.
        hue: Column that tells the arms.
        x: ``step``, or a column that was added, such as ``tokens``.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns or rows are missing, or a point lacks a task that another has.

    Example:
        >>> rows = {"run": "source", "step": [0, 9], "task": "order", "metric": "acc"}
        >>> ax = accuracy(pd.DataFrame(rows | {"value": [0.5, 0.7], "chance": 0.5}))
        >>> ax.get_ylabel()
        'mean accuracy of 1 task'
    """
    rows, seeds = _accuracies(frame, [hue, x], "accuracy")
    rows = rows[rows[x].notna()]
    if rows.empty:
        raise HcvizError(f"The accuracy figure needs runs, and no row has a {x}.")
    points, tasks = rows.groupby([hue, *seeds, x]), sorted(rows["task"].unique())
    counted = points["task"].nunique()
    if (counted < len(tasks)).any():
        where = dict(zip(counted.index.names, counted.idxmin(), strict=True))
        raise HcvizError(
            f"At {where} there are {counted.min()} of the tasks {', '.join(tasks)}. A mean is "
            "drawn over the same tasks everywhere: evaluate those that are missing."
        )
    means = points["value"].mean().reset_index()
    looks = theme.arms(theme.arm_order(rows[hue]))
    panel = _axes.panels(1, ax)[0]
    for name, look in looks.items():
        curve = _axes.means(means[means[hue].astype(str) == name], x)
        _axes.draw_mean(panel, curve.set_axis(curve.index.astype(float)), look, name)
    level = rows.drop_duplicates("task")["chance"].mean()
    _axes.level(panel, level, "chance", label="_chance")
    if x == "step":
        _axes.step_axis(panel, means[x])
    else:
        panel.set_xlabel({"tokens": "training tokens"}.get(x, x))
        panel.xaxis.set_major_formatter(FuncFormatter(_axes.thousands))
    panel.set_ylabel(f"mean accuracy of {len(tasks)} task{'s' * (len(tasks) > 1)}")
    return _axes.finish([panel], title, looks, own=ax is None)[0]


@theme.themed
def tasks(
    frame: pd.DataFrame,
    *,
    hue: str = "run",
    ax: Axes | None = None,
    title: str = "Accuracy of each task at the end",
) -> Axes:
    """Draw the accuracy of every arm in each task and on average, and a tick where guessing is.

    A line goes one standard error to either side, or from the lowest seed to the highest where a
    column ``seed`` tells several. Of runs the last step of each is taken.

    Args:
        frame: What :func:`hcviz.evaluate` returns.
        hue: Column that tells the arms.
        ax: Axes to draw in; None makes a figure.
        title: Title of the figure, where ``ax`` is None.

    Returns:
        The axes.

    Raises:
        HcvizError: If columns or rows are missing.

    Example:
        >>> rows = {"run": "source", "task": ["name", "order"], "metric": "acc", "step": 9}
        >>> rows |= {"value": [0.6, 0.7], "chance": [0.25, 0.5], "stderr": 0.04}
        >>> [label.get_text() for label in tasks(pd.DataFrame(rows)).get_yticklabels()]
        ['name', 'order', 'mean']
    """
    rows, seeds = _accuracies(frame, [hue, "step", "stderr"], "tasks")
    step = rows["step"].astype("Int64")  # a model has none
    last = step.groupby([rows[key] for key in (hue, *seeds)]).transform("max")
    rows = rows[step.isna() | (step == last).fillna(False)]
    looks = theme.arms(theme.arm_order(rows[hue]))
    names = [*dict.fromkeys(rows["task"]), MEAN]
    panel = _axes.panels(1, ax, tall=0.06 + 0.07 * len(names))[0]
    for number, (name, look) in enumerate(looks.items()):
        found = _ends(rows[rows[hue].astype(str) == name], seeds).reindex(names)
        places = np.arange(len(names)) + 0.64 * ((number + 0.5) / len(looks) - 0.5)
        panel.hlines(places, found["low"], found["high"], color=look.color, label="_range")
        dots = {"linestyle": "none", "markevery": 1, "zorder": 3}
        _axes.draw(panel, found["value"], places, look, label=name, **dots)
    chance = rows.drop_duplicates("task").set_index("task")["chance"]
    chance = [*chance.reindex(names[:-1]), chance.mean()]
    for place, level in enumerate(chance):
        panel.plot([level] * 2, [place - 0.4, place + 0.4], color=theme.MUTED, label="_chance")
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.axhline(len(names) - 1.5, color=theme.MUTED, linewidth=0.6, label="_rule")
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=True, axis="x")
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("accuracy; the grey tick is chance")
    dots = {name: look._replace(linestyle="none") for name, look in looks.items()}
    return _axes.finish([panel], title, dots, own=ax is None)[0]


def _accuracies(
    frame: pd.DataFrame, columns: list[str], name: str
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of accuracy, and the column of the seeds, if there is one."""
    _frames.need(frame, ["task", "metric", "value", "chance", *columns], f"The {name} figure")
    rows = frame[frame["metric"] == "acc"]
    if rows.empty:
        there = ", ".join(sorted(map(str, frame["metric"].unique()))) or "nothing"
        raise HcvizError(f"The {name} figure needs rows of the metric acc; there is {there}.")
    return rows, ["seed"] if "seed" in rows else []


def _ends(rows: pd.DataFrame, seeds: list[str]) -> pd.DataFrame:
    """Return value, low and high of one arm in each task and on average."""
    if seeds and len(set(rows["seed"])) > 1:
        whole = rows.groupby("seed")["value"].mean()
        found = rows.groupby("task")["value"].agg(["mean", "min", "max"])
        found.loc[MEAN] = [whole.mean(), whole.min(), whole.max()]
    else:
        found = rows.set_index("task")[["value", "stderr"]].astype(float)
        spread = np.sqrt((found["stderr"] ** 2).sum()) / len(found)
        found.loc[MEAN] = [found["value"].mean(), spread]
        value, spread = found["value"], found["stderr"]
        found = pd.concat([value, value - spread, value + spread], axis=1)
    return found.set_axis(["value", "low", "high"], axis=1)

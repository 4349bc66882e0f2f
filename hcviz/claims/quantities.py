"""What claims measure: functions of recorded frames, a number for each source and seed.

Each takes the frames, the sources and the factor of a claim, and keywords of its own, and returns a
series by (source, seed). An arm is a name (``"symmetric"``), or ``{arm=, source=, factor=, lr=}``
where its pair of models is another one, or its rate not that with which it ends lowest. Seeds that
one of the arms lacks are left out.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hcviz.claims.budget import differences, read_pair
from hcviz.claims.frames import Frames, Step, View, Who, at_step
from hcviz.errors import HcvizError
from hcviz.statistics.escape import escape, foretold
from hcviz.statistics.losses import forgetting, slopes_at_growth, speedup
from hcviz.training.request import TrainRequest
from hcviz.training.schedule import SCHEDULES

Arm = str | Mapping[str, Any]
UP = r"(?:dense_h_to_4h|fc1|up_proj)\.weight$"
"""Tensors by default: the up-projections."""
ARMS = ("arm", "against", "arms")
"""Keywords that name arms."""

QUANTITIES: dict[str, Callable[..., pd.Series]] = {}


def quantity(function: Callable[..., float]) -> Callable[..., pd.Series]:
    """Register a function of one source and seed; it is called for each of them.

    One that names no arm needs no run: it is of the source alone, a pair of ``configs/pairs``.
    """

    @functools.wraps(function)
    def all_of(
        frames: Frames | None, sources: Sequence[str], factor: int, **keywords: Any
    ) -> pd.Series:
        _check(function, keywords)
        found = {}
        for source in sources:
            whos = _arms(keywords, source, factor)
            runs = [{*frames.of("runs", who)["seed"]} for who in _flat(whos)]
            for seed in sorted(set.intersection(*runs)) if whos else [0]:
                view = View(frames, seed, source)
                found[source, seed] = float(function(view, **{**keywords, **whos}))
        index = pd.MultiIndex.from_tuples(found, names=["source", "seed"]) if found else None
        return pd.Series(list(found.values()), index=index, dtype=float)

    QUANTITIES[function.__name__] = all_of
    return all_of


def _check(function: Callable, keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that a quantity has not, and say which are missing."""
    known = {p.name: p.default for p in [*inspect.signature(function).parameters.values()][1:]}
    missing = {name for name, default in known.items() if default is inspect.Parameter.empty}
    said = {"none of them": keywords.keys() - known, "missing": missing - keywords.keys()}
    if any(said.values()):
        wrong = [f"{', '.join(sorted(names))} is {what}." for what, names in said.items() if names]
        raise HcvizError(f"{function.__name__}() takes {', '.join(known)}; {' '.join(wrong)}")


def _arms(keywords: Mapping[str, Any], source: str, factor: int) -> dict[str, Who | list[Who]]:
    """Return the arms that a quantity's keywords name, for one source."""

    def who(value: Arm) -> Who:
        given = {"arm": value} if isinstance(value, str) else value
        return Who(**({"source": source, "factor": factor} | given))

    named = {key: value for key, value in keywords.items() if key in ARMS}
    return {k: [*map(who, v)] if isinstance(v, list | tuple) else who(v) for k, v in named.items()}


def _flat(whos: Mapping[str, Who | list[Who]]) -> list[Who]:
    return [who for one in whos.values() for who in (one if isinstance(one, list) else [one])]


def whos_of(keywords: Mapping[str, Any], source: str, factor: int) -> list[Who]:
    """Return all arms that a quantity's keywords name, for one source."""
    return list(dict.fromkeys(_flat(_arms(keywords, source, factor))))


@quantity
def loss(view: View, *, arm: Who, against: Who, at: Step = "end") -> float:
    """Held-out loss of an arm minus that of another."""
    return view.loss(arm, at) - view.loss(against, at)


@quantity
def loss_margin(view: View, *, arms: list[Who], at: Step = "end") -> float:
    """The smallest difference between neighbours, where the arms are named from low to high."""
    return np.diff([view.loss(arm, at) for arm in arms]).min()


@quantity
def gain_apart(view: View, *, arms: list[Who]) -> float:
    """Return by how much lower the first arm ends than the second, minus the same of the next two.

    Below zero the first pair gains more.
    """
    first, second, third, fourth = map(view.loss, arms)
    return (first - second) - (third - fourth)


@quantity
def loss_shrinks(view: View, *, arm: Who, against: Who, early: int) -> float:
    """How much smaller the distance of two arms is at the end than at an early step."""
    first = abs(view.loss(arm, early) - view.loss(against, early))
    curves = view.curve(arm), view.curve(against)
    return first - abs(curves[0].iloc[-1] - curves[1].iloc[-1])


@quantity
def loss_apart(view: View, *, arm: Who, against: Who, until: int | None = None) -> float:
    """The largest distance of two loss curves over all steps, or up to one."""
    return (view.curve(arm) - view.curve(against)).abs().loc[:until].max()


@quantity
def parts_later(view: View, *, arms: list[Who], by: float) -> float:
    """How many steps later the losses of two arms are this far apart than those of the next two."""
    gaps = ((view.curve(a) - view.curve(b)).abs() for a, b in (arms[:2], arms[2:]))
    first, second = (one.index[one > by].min() for one in gaps)
    return np.inf if np.isnan(first) or np.isnan(second) else float(first - second)


@quantity
def sooner(view: View, *, arm: Who, against: Who) -> float:
    """How many times sooner an arm is down at the final loss of another."""
    return _sooner(view.rows("losses", arm), view.rows("losses", against), "tokens")


def _sooner(ours: pd.DataFrame, theirs: pd.DataFrame, x: str) -> float:
    rows = pd.concat([ours.assign(run="ours"), theirs.assign(run="theirs")])
    return speedup(rows, against="theirs", x=x).set_index("run").loc["ours", "ratio"]


@quantity
def rule_of_slopes(view: View, *, arms: list[Who]) -> float:
    """Return by how much an arm that a rule names ends above the lowest of several that grew.

    The rule: grow when the grown model's loss falls faster per FLOP than the small one's did. It
    names the first arm, from early growth to late, of which that is so (the last, if of none).
    """
    ends = [view.loss(who) for who in arms]
    slopes = [slopes_at_growth(view.rows("losses", who)) for who in arms]
    named = (end for end, (small, wide) in zip(ends, slopes, strict=True) if wide < small)
    return next(named, ends[-1]) - min(ends) if np.isfinite(slopes).all() else np.nan


@quantity
def rise(view: View, *, arm: Who) -> float:
    """How far the loss first rises above its start."""
    return forgetting(view.rows("losses", arm))["depth"].iloc[0]


@quantity
def value(
    view: View, *, arm: Who, metric: str, at: Step, tensors: str = UP, axis: str | None = None
) -> float:
    """A metric at a step, mean over tensors."""
    return view.mean(arm, metric, at, tensors, axis)


@quantity
def largest(
    view: View, *, arm: Who, metric: str, tensors: str = "", axis: str | None = None
) -> float:
    """The largest value of a metric in any tensor at any step."""
    return view.metric(arm, metric, tensors, axis).to_numpy().max()


@quantity
def change(
    view: View, *, arm: Who, metric: str, since: Step, until: Step, tensors: str = UP,
    axis: str | None = None,
) -> float:  # fmt: skip
    """How much a metric, mean over tensors, changes from one step to another."""
    until, since = (view.mean(arm, metric, at, tensors, axis) for at in (until, since))
    return until - since


@quantity
def share_falling(view: View, *, arm: Who, metric: str, by: float, tensors: str = UP) -> float:
    """The share of tensors in which a metric ends lower than it starts, by more than ``by``."""
    table = view.metric(arm, metric, tensors)
    return (table.iloc[0] - table.iloc[-1] > by).mean()


@quantity
def ratio(view: View, *, arm: Who, against: Who, metric: str, at: Step, tensors: str = UP) -> float:
    """A metric of an arm over that of another, geometric mean over tensors."""
    curves = [np.log(view.metric(who, metric, tensors)).mean(axis=1) for who in (arm, against)]
    return np.exp(at_step(curves[0], at) - at_step(curves[1], at))


@quantity
def empty_share(view: View, *, arm: Who, at: Step, below: float = 1e-5, tensors: str = UP) -> float:
    """The share of singular values under ``below`` of the largest: the room that is not used."""
    rows = view.measured(arm, "spectrum", tensors)
    rows = rows[rows["step"] == (rows["step"].min() if at == "start" else rows["step"].max())]
    relative = rows["value"] / rows.groupby("tensor")["value"].transform("max")
    return (relative < below).mean()


@quantity
def leaves(view: View, *, arm: Who, axis: str, threshold: float) -> float:
    """The step at which the copies along an axis have left; infinite if they do not."""
    found = escape(view.measured(arm, "ledger", axis=axis), by=["axis"], threshold=threshold)[
        "leaves"
    ].iloc[0]
    return np.inf if np.isnan(found) else found


@quantity
def departs(view: View, *, arm: Who, axis: str, than: str, by: float = 2.0) -> float:
    """How many e-folds of steps later an axis grows by a factor from its lowest than another."""
    return np.log(_departs(view, arm, axis, by) / _departs(view, arm, than, by))


@quantity
def escape_per_decibel(view: View, *, arms: list[Who], axis: str, threshold: float) -> float:
    """The slope of the step of departure in the decibels of arms called "noisy N dB"."""
    steps = [leaves.__wrapped__(view, arm=arm, axis=axis, threshold=threshold) for arm in arms]
    decibels = [float(arm.arm.split()[1]) for arm in arms]
    return np.polyfit(decibels, steps, 1)[0] if np.isfinite(steps).all() else np.inf


@quantity
def foretells(view: View, *, arms: list[Who], metric: str, at: int, tensors: str = UP) -> float:
    """Spearman's correlation, over arms, of a metric early on with the loss at the end."""
    early = pd.Series([view.mean(arm, metric, at, tensors) for arm in arms])
    return early.corr(pd.Series([view.loss(arm) for arm in arms]), method="spearman")


@quantity
def order_foretold(
    view: View, *, arm: Who, against: Who, metric: str, at: Step, between: Sequence[int]
) -> float:
    """Spearman's correlation over R, H, N: how fast copies part, how the locked clone curves."""
    table = rates_foretold(view, arm, against, metric, at, between)
    return table["rate"].corr(-table["smallest"], method="spearman")


@quantity
def rate_foretold(
    view: View, *, arm: Who, against: Who, metric: str, at: Step, between: Sequence[int], axis: str
) -> float:
    """How many e-folds faster than measured the locked clone's curvature says that copies part."""
    row = rates_foretold(view, arm, against, metric, at, between).loc[axis]
    return np.log(row["foretold"] / row["rate"])


def rates_foretold(
    view: View, arm: Who, against: Who, metric: str, at: Step, between: Sequence[int]
) -> pd.DataFrame:
    """Return, axis by axis, how fast copies part beside what the curvature foretells.

    Args:
        view: The frames of a seed.
        arm: Whose copies part.
        against: The locked clone whose curvature was measured, with the same rate and text.
        metric: ``curvature``, or ``curvature.adam``.
        at: The step of the curvature, the nearest of those measured.
        between: The steps between which the growth is measured.

    Returns:
        By axis: the smallest eigenvalue, the rate of :func:`hcviz.statistics.escape.foretold`,
        and ``rate``, ``low``, ``high`` of :func:`hcviz.escape`.
    """
    rows = view.rows("curvature", against)
    rows = rows[(rows["metric"] == metric) & (rows["part"] == "smallest")]
    ends = rows.pivot_table(index="step", columns="axis", values="value")
    step = ends.index[np.abs(ends.index - at).argmin()]
    run = view.rows("runs", against).iloc[0]
    warm = TrainRequest.warmup * run["steps"]
    share = step / warm
    if share > 1:
        share = SCHEDULES[TrainRequest.schedule]((step - warm) / (run["steps"] - warm))
    rows = view.rows("metrics", arm)
    found = escape(rows, by=["axis"], between=tuple(between)).set_index("axis")
    found = found[["rate", "low", "high"]].assign(step=step, smallest=ends.loc[step])
    options = {"momentum": TrainRequest.betas[0], "weight_decay": TrainRequest.weight_decay}
    return found.assign(foretold=foretold(found["smallest"], run["lr"] * share, **options))


@quantity
def accuracy(view: View, *, arm: Who, against: Who) -> float:
    """Mean accuracy over the tasks, at the end, minus that of another arm."""
    ours, theirs = (view.accuracy(who).mean(axis=1).iloc[-1] for who in (arm, against))
    return ours - theirs


@quantity
def accuracy_sooner(view: View, *, arm: Who, against: Who) -> float:
    """How many times sooner the mean accuracy is at another arm's at the end."""
    curves = (-view.accuracy(who).mean(axis=1).rename("loss") for who in (arm, against))
    return _sooner(*(one.reset_index().assign(split="heldout") for one in curves), "step")


@quantity
def tasks_won(view: View, *, arm: Who, against: Who) -> float:
    """The share of tasks in which an arm ends above another; a tie is half a task."""
    gaps = view.accuracy(arm).iloc[-1] - view.accuracy(against).iloc[-1]
    return ((gaps > 0) + 0.5 * (gaps == 0)).mean()


@quantity
@functools.cache  # a plan takes seconds
def table_1_differences(view: View) -> float:
    """How many entries of the paper's table 1 differ from the clone that we would make."""
    return differences(read_pair(view.source), 1)


@quantity
def table_2_differences(view: View, *, apart: Sequence[str] = ()) -> float:
    """How many entries of table 2, but those named, differ from what our launch would ask for."""
    return differences(read_pair(view.source), 2, apart)


def _departs(view: View, who: Who, axis: str, by: float) -> float:
    """Return the first step, after a ledger's lowest, at which it is ``by`` times that."""
    curve = view.measured(who, "ledger", axis=axis).groupby("step")["value"].mean()
    after = curve.loc[curve.idxmin() :]
    above = after[after >= by * curve.min()]
    return float(above.index[0]) if len(above) and curve.min() > 0 else np.inf

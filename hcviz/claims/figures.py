"""The figures of the recorded runs; what the paper shows in each is its function's docstring."""

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hcviz import plots
from hcviz.claims.claim import claims
from hcviz.claims.frames import Frames, View, Who, everyone, is_recorded, open_frames
from hcviz.claims.quantities import rates_foretold

HALF, WHOLE = "nano:gpt-neox-half", "nano:gpt-neox"
FAMILIES = {"gpt-neox": HALF, "opt": "nano:opt-half", "olmo": "nano:olmo-half"}
NAMES = {"gpt-neox": "GPT-NeoX", "opt": "OPT", "olmo": "OLMo"}
MAIN = ["noisy 10 dB", "symmetric", "random init", "source"]
FIVE = ["symmetric", "noisy 10 dB", "noisy diagonal", "diagonal", "random init"]
COPIES = ["symmetric", "noisy 10 dB", "dropout 0.1"]
QUARTER = "nano:gpt-neox-quarter"
GROWN = ["noisy 10 dB", "grown at a quarter", "grown at half", "grown at three quarters", "source"]
ROUNDED = ["symmetric", "diagonal", "diagonal in float64", "symmetric in float64"]
BASES = {
    f"base at step {step}": Who("noisy 10 dB", f"{HALF}@{step}") for step in (188, 375, 750)
} | {"whole base": Who("noisy 10 dB", HALF), "random init": Who("random init", HALF)}
FACTORS = {
    "random init": Who("random init", WHOLE),
    "2-fold from 128": Who("noisy 10 dB", WHOLE),
    "4-fold from 64": Who("noisy 10 dB", HALF, 4),
}
TOKENS = 2048
"""In a step of the long comparison."""
Drawn = tuple[Any, pd.DataFrame]
"""Axes, and the table that was drawn."""

FIGURES: dict[str, Callable[[dict[str, Frames]], Iterator[tuple[str, Drawn]]]] = {}


def figure(function: Callable) -> Callable:
    """Register a figure: it yields a suffix of its file's name, and what was drawn."""
    FIGURES[function.__name__.replace("_", "-")] = function
    return function


def recordings() -> dict[str, Frames]:
    """Return the recorded comparisons that claims rest on and that ship, by name."""
    names = sorted({claim.recording for claim in claims().values() if claim.recording})
    return {name: open_frames(name) for name in names if is_recorded(name)}


def show(name: str, part: str = "") -> Any:
    """Draw one figure of the recorded runs, or say that they do not allow it yet.

    Args:
        name: Of :data:`FIGURES`.
        part: Which of those that the figure has: a family, a family and ``-accuracy``; none for a
            figure that has one part only.

    Returns:
        The axes; None where its runs are not there.

    Example:
        >>> axes = show("figure-2", "gpt-neox")  # doctest: +SKIP
    """
    for suffix, (axes, _) in FIGURES[name](recordings()):
        if suffix == part:
            return axes
        plt.close(np.ravel(np.asarray(axes, dtype=object))[0].figure)
    print(f"{' '.join(filter(None, (name, part)))}: these runs are not recorded yet.")
    return None


def _arms(rows: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Return rows with the arm as their run, in an order, leaving out what is not there."""
    rows = rows.assign(run=rows["arm"])
    rows = rows[rows["run"].isin(order)]
    return rows.sort_values("run", key=lambda names: names.map(order.index), kind="stable")


def _losses(frames: Frames, whos: list[Who] | dict[str, Who]) -> pd.DataFrame:
    """Return the losses of arms, named by the arm or as they are in a mapping."""
    named = whos if isinstance(whos, dict) else {who.arm: who for who in whos}
    parts = [frames.of("losses", who).assign(run=name) for name, who in named.items()]
    return pd.concat(parts, ignore_index=True)


def _late(rows: pd.DataFrame, by: str = "step") -> pd.DataFrame:
    """Leave out the first eighth of the training, in which a random start is far above."""
    return rows[rows[by] >= rows[by].max() / 8]


def _by_family(
    recorded: dict[str, Frames], table: str, order: list[str], *metrics: str
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the families that were run, with the rows of some arms, of the named metrics if any."""
    for family, source in FAMILIES.items():
        rows = _arms(recorded["long"].chosen(table, everyone(order, [source])), order)
        rows = rows[rows["metric"].isin(metrics)] if metrics else rows
        if len(rows):
            yield family, rows


@figure
def parting(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. Left, who ends lowest; right, whether its copies have parted.

    A locked clone has the size of a large model and does what its source does; its copies stay on
    the line at 1.
    """
    frames = recorded["long"]
    rows = _losses(frames, everyone([*MAIN, "dropout 0.1"], [HALF]))
    copies = _arms(frames.chosen("metrics", everyone(COPIES, [HALF])), COPIES)
    if rows.empty or copies.empty:
        return
    copies = copies[copies["metric"] == "cosine"]
    yield "", (plots.headline(rows, copies), pd.concat([rows, copies], ignore_index=True))


@figure
def figure_2(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper draws the mean accuracy of ten tasks over training, a panel for each family.

    The clone reaches the random start's final accuracy 2.2 to 4 times sooner and ends higher; in
    the first steps it forgets, clearest in OLMo. The source, trained on, is not shown.
    """
    right = dict(_by_family(recorded, "accuracy", MAIN))
    for family, rows in _by_family(recorded, "losses", MAIN):
        title = f"{NAMES[family]}: held-out loss over training"
        yield family, (plots.loss(rows, title=title), rows)
        if family in right:
            rows = right[family].assign(tokens=right[family]["step"] * TOKENS)
            title = f"{NAMES[family]}: mean accuracy over training"
            yield f"{family}-accuracy", (plots.accuracy(rows, x="tokens", title=title), rows)


@figure
def figure_4(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper draws the accuracy of each task at the end: the clone is better in most.

    Ours are ten tasks of held-out text that models of this size can do; the tick is chance.
    """
    for family, rows in _by_family(recorded, "accuracy", MAIN):
        last = rows[rows["step"] == rows["step"].max()]
        title = f"{NAMES[family]}: accuracy of each task at the end"
        yield family, (plots.tasks(last, title=title), rows)


@figure
def figure_5(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper draws the cosine of the left and right half of every row, mean over rows.

    Up-projections and the unembedding. It starts at 1 and falls in most layers; dropout is named as
    the likely cause, and not tested.
    """
    for family, rows in _by_family(recorded, "metrics", COPIES, "cosine", "cosine.baseline"):
        title = f"{NAMES[family]}: do the copies part? Cosine of the cloned halves over training"
        yield family, (plots.cosine(rows, title=title), rows)


@figure
def figure_6(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper draws the singular values of three matrices, before and after training.

    Half of the clone's are zero at the start; after training they are like those of a random start.
    """
    order = ["symmetric", "noisy 10 dB", "random init"]
    for family, rows in _by_family(recorded, "metrics", order, "spectrum"):
        rows = rows[rows["seed"] == 0]
        title = f"{NAMES[family]}: does training fill the empty half? Singular values"
        yield family, (plots.spectrum(rows, title=title), rows)


@figure
def figure_7(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper compares five ways to start Pythia-1.4B: at random, and by four expansions.

    Best are symmetric and noisy symmetric, about alike, then noisy diagonal, then diagonal, and
    last the random start. Ours begins at an eighth of the training: before, a random start is far
    above. A family is drawn once all of its arms have all of their seeds.
    """
    for family, rows in _by_family(recorded, "losses", FIVE):
        seeds = rows.groupby("run")["seed"].nunique().reindex(FIVE)
        if (seeds == seeds.max()).all():
            rows = _late(rows)
            title = f"{NAMES[family]}: four expansions and a random start"
            yield family, (plots.loss(rows, reference=None, title=title), rows)


@figure
def figure_8(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper clones OPT-350M from three points of its training.

    The longer the base was trained, the better the clone; the difference is mostly early.
    """
    rows = _losses(recorded["long"], BASES)
    if len(rows["run"].unique()) > 2:
        yield "", (plots.loss(rows, reference=None, against="whole base"), rows)


@figure
def figure_9(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper makes OPT-5.3B two-fold from 1.3B and four-fold from 350M, and from random weights.

    Both clones beat the random start; two-fold from the larger base is better. Ours begins at an
    eighth of the training.
    """
    rows = _late(_losses(recorded["long"], FACTORS))
    if len(rows["run"].unique()) > 1:
        yield "", (plots.loss(rows, reference=None, against="random init"), rows)


@figure
def ledger(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. The share of the squared norm that sets copies apart, by axis.

    R is the residual stream, H the heads, N the neurons; a locked clone lies on zero.
    """
    for family, rows in _by_family(recorded, "metrics", COPIES, "ledger"):
        title = f"{NAMES[family]}: who leaves the clone, and along which axis?"
        yield family, (plots.ledger(rows, title=title), rows)


@figure
def rates(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper gives one learning rate for both arms. Here each has the best of a small grid.

    Seed 0 of the families, of figures 8 and 9: factors of two, until the best has worse neighbours.
    """
    runs, pairs = recorded["long"].runs.query("seed == 0"), {}
    for family, source in FAMILIES.items():
        arms = runs.query("source == @source and factor == 2")["arm"].unique()
        pairs[family] = NAMES[family], {arm: Who(arm, source) for arm in arms}
    pairs |= {"bases": ("Younger bases", BASES), "factors": ("Twofold and fourfold", FACTORS)}
    keys = [*runs[["arm", "source", "factor"]].itertuples(index=False, name=None)]
    for part, (name, whos) in pairs.items():
        named = {(who.arm, who.source, who.factor): arm for arm, who in whos.items()}
        rows = runs.assign(run=[named.get(key) for key in keys]).dropna(subset=["run"])
        rows = rows.sort_values("run", key=lambda run: run.map([*whos].index), kind="stable")
        rows = rows[rows.groupby("run")["lr"].transform("nunique") > 1]
        if len(rows):
            title = f"{name}: each arm at several learning rates"
            yield part, (plots.rates(rows, title=title), rows)


@figure
def breakers(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. What sets the copies apart, each at the same budget."""
    if "breakers" not in recorded:
        return
    runs = recorded["breakers"].runs.query("factor == 2")
    base = runs[runs["arm"] == "symmetric"].set_index("seed")["loss"]
    rows = runs[runs["arm"] != "symmetric"]
    rows = rows.assign(value=rows["loss"] - rows["seed"].map(base)).dropna(subset=["value"])
    yield "", (plots.differences(rows, hue="arm", against="symmetric"), rows)


@figure
def rounding(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. Copies of a diagonal clone are set apart by rounding alone.

    Those of a symmetric clone are equal bit by bit, and rounded alike. Those of a diagonal one are
    summed in another order; the rounding grows until the clone leaves the locked one's losses,
    in float64 later than in float32.
    """
    if "breakers" in recorded:
        rows = _losses(recorded["breakers"], everyone(ROUNDED, [QUARTER]))
        if len(rows):
            title = "A diagonal clone leaves by rounding alone"
            axes = plots.loss(rows, x="step", reference=None, against="symmetric", title=title)
            yield "", (axes, rows)


@figure
def growing(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. Growth inside a run, at three points of it, at equal compute.

    The noisy clone is the one that grew before the run; diamonds are where the others grow.
    """
    if "growing" in recorded:
        rows = _late(_losses(recorded["growing"], everyone(GROWN, [QUARTER])), "flops")
        yield "", (plots.loss(rows, x="flops", reference=None, against="noisy 10 dB"), rows)


@figure
def curvature(recorded: dict[str, Frames]) -> Iterator[tuple[str, Drawn]]:
    """The paper has no such figure. How fast copies part, and how fast the curvature says they do.

    The curvature is that of the noiseless clone at step 230, as Adam sees it; the copies part in
    the arm whose first gradients had noise, from step 110 to 230.
    """
    frames = recorded.get("breakers")
    if frames is None or frames.curvature is None:
        return
    arms = (Who(arm, QUARTER) for arm in ("gradient noise", "symmetric"))
    asked = (*arms, "curvature.adam", 230, (110, 230))
    seeds = sorted(frames.curvature["seed"].unique())
    parts = [rates_foretold(View(frames, s), *asked).reset_index().assign(seed=s) for s in seeds]
    rows = pd.concat(parts, ignore_index=True)
    yield "", (plots.foretold(rows), rows)

"""What loss curves say: how much sooner one arm gets where another ends, and the early rise."""

import numpy as np
import pandas as pd
from scipy import stats

from hcviz.errors import HcvizError


def speedup(
    history: pd.DataFrame,
    *,
    against: str = "random init",
    hue: str = "run",
    x: str = "tokens",
    split: str = "heldout",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return how many times sooner each arm reaches the final loss of another.

    ``needed`` is the first ``x`` at which a curve, linear between its points, is down at that loss;
    the ratio is that of ``against`` over the arm's own. Each seed is compared with the same seed of
    ``against``, or with its mean where it has no such seed.

    Args:
        history: Rows with ``hue``, ``x``, split and loss, and seed where there are several, as
            ``Run.history``.
        against: The arm whose final loss is the target.
        hue: Column that tells the arms.
        x: What is saved: ``tokens``, ``flops``, ``seconds`` or ``step``.
        split: ``heldout`` or ``train``.
        level: Of the interval.

    Returns:
        One row per arm: ``hue``, seeds, target (loss), needed (mean over seeds), ratio, low, high.
        The ratio is the geometric mean over the seeds, and low to high Student's interval of its
        logarithm. One seed has no interval: NaN. An arm that starts below the target has an
        infinite ratio, one that never reaches it 0; if a seed is so, the ratio is the seeds' median
        and there is no interval. Where ``against`` itself ends no lower than it starts, there is
        nothing to be reached, and the ratio is NaN.

    Raises:
        HcvizError: If columns or the arm ``against`` are missing.

    Example:
        >>> rows = {"run": ["a"] * 3 + ["b"] * 3, "tokens": [0, 4, 8] * 2, "split": "heldout"}
        >>> frame = pd.DataFrame(rows | {"loss": [4.0, 3.0, 2.0, 4.0, 2.0, 1.0]})
        >>> round(float(speedup(frame, against="a").set_index("run").loc["b", "ratio"]), 6)
        2.0
    """
    curves = _curves(history, hue, x, split, "speedup()")
    if against not in curves:
        raise HcvizError(
            f"against={against!r}: there is no such arm in the column {hue!r}; there are "
            f"{', '.join(curves)}."
        )
    mean = history[(history[hue].astype(str) == against) & (history["split"] == split)]
    mean = mean.groupby(x, as_index=False)["loss"].mean().sort_values(x)
    rows = []
    for name, seeds in curves.items():
        pairs = [(curves[against].get(seed, mean), curve) for seed, curve in seeds.items()]
        targets = [base["loss"].iloc[-1] for base, _ in pairs]
        each = zip(pairs, targets, strict=True)
        both = np.array([[_reached(one, x, target) for one in pair] for pair, target in each])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(both[:, 0]) - np.log(both[:, 1])
        low = high = np.nan
        middle = np.mean(logs) if np.isfinite(logs).all() else np.median(logs)
        if len(logs) > 1 and np.isfinite(logs).all():
            low, high = stats.t.interval(level, len(logs) - 1, middle, max(stats.sem(logs), 1e-300))
        ends = np.exp([middle, low, high])
        rows.append((name, len(logs), np.mean(targets), both[:, 1].mean(), *ends))
    return pd.DataFrame(rows, columns=[hue, "seeds", "target", "needed", "ratio", "low", "high"])


def forgetting(
    history: pd.DataFrame, *, hue: str = "run", x: str = "tokens", split: str = "heldout"
) -> pd.DataFrame:
    """Return how far, and for how long, each run first rises above the loss it started from.

    Args:
        history: Rows with ``hue``, ``x``, split and loss, and seed where there are several, as
            ``Run.history``.
        hue: Column that tells the arms.
        x: The unit of length: ``tokens``, ``step``, ``flops`` or ``seconds``.
        split: ``heldout`` or ``train``.

    Returns:
        One row per arm and seed: ``hue``, seed, start (loss), depth (highest loss of the first
        stretch above the start, less the start), at (its ``x``) and length (``x`` from the last
        point at or under the start until the loss is back, linear between points). A run that never
        rises has depth and length 0, one that does not come back an infinite length.

    Raises:
        HcvizError: If columns are missing.

    Example:
        >>> rows = {"run": "a", "tokens": [0, 2, 4, 6], "split": "heldout"}
        >>> frame = forgetting(pd.DataFrame(rows | {"loss": [3.0, 3.5, 3.2, 2.8]}))
        >>> [float(frame[column][0]) for column in ("depth", "at", "length")]
        [0.5, 2.0, 5.0]
    """
    rows = []
    for name, seeds in _curves(history, hue, x, split, "forgetting()").items():
        for seed, curve in seeds.items():
            at, loss = curve[x].to_numpy(float), curve["loss"].to_numpy(float)
            above = loss > loss[0]
            if not above.any():
                rows.append((name, seed, loss[0], 0.0, at[0], 0.0))
                continue
            first = int(np.argmax(above))
            stretch = int(np.argmin(above[first:])) or len(loss) - first
            peak = first + int(np.argmax(loss[first : first + stretch]))
            back = _reached(curve.iloc[first:], x, loss[0])
            rows.append((name, seed, loss[0], loss[peak] - loss[0], at[peak], back - at[first - 1]))
    return pd.DataFrame(rows, columns=[hue, "seed", "start", "depth", "at", "length"])


def _curves(history: pd.DataFrame, hue: str, x: str, split: str, what: str) -> dict:
    """Return arm -> seed -> its rows by x, of one split and with finite losses."""
    missing = [name for name in (hue, x, "split", "loss") if name not in history]
    if missing:
        raise HcvizError(
            f"{what} needs the columns {', '.join(missing)}; the frame has "
            f"{', '.join(map(str, history))}. Histories come from Run.history."
        )
    rows = history[history["split"] == split].dropna(subset=[x, "loss"])
    if rows.empty:
        raise HcvizError(
            f"{what}: no row of the split {split!r} has both {x} and loss. "
            "Runs trained before these were logged have no flops; take x='tokens'."
        )
    seeds = rows["seed"] if "seed" in rows else pd.Series(0, index=rows.index)
    rows = rows.assign(**{hue: rows[hue].astype(str), "seed": seeds.fillna(0)})
    return {
        name: {seed: curve.sort_values(x) for seed, curve in arm.groupby("seed")}
        for name, arm in rows.groupby(hue, sort=False)
    }


def _reached(curve: pd.DataFrame, x: str, target: float) -> float:
    """Return the first x at which a curve is down at a loss; infinite if it never is."""
    at, loss = curve[x].to_numpy(float), curve["loss"].to_numpy(float)
    down = np.flatnonzero(loss <= target)
    if not len(down):
        return np.inf
    i = down[0]
    if i == 0:
        return at[0]
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return at[i - 1] + share * (at[i] - at[i - 1])


def slopes_at_growth(history: pd.DataFrame, *, window: float = 0.2) -> tuple[float, float]:
    """Return by how much the held-out loss changed per FLOP before a model grew, and after.

    Args:
        history: Rows of one run with split, step, flops and loss, as ``Run.history``; the model
            grows where a step begins to cost more.
        window: Share of all FLOPs, on either side, through which a straight line is fitted.

    Returns:
        The slope before and the slope after; NaN where no step costs more than the first, or a side
        has a single point.

    Example:
        >>> flops, loss = [0, 1, 2, 6, 10], [9.0, 8.0, 7.0, 5.0, 3.0]
        >>> rows = {"step": range(5), "flops": flops, "loss": loss, "split": "heldout"}
        >>> [round(slope, 3) for slope in slopes_at_growth(pd.DataFrame(rows), window=0.5)]
        [-1.0, -0.5]
    """
    rows = history[history["split"] == "heldout"].sort_values("step")
    step, flops, loss = (rows[name].to_numpy(dtype=float) for name in ("step", "flops", "loss"))
    price = np.diff(flops) / np.diff(step)
    dearer = price > 1.001 * price[0]
    grown = flops[dearer.argmax()]
    near = np.abs(flops - grown) <= window * flops[-1]
    sides = [near & (flops <= grown), near & (flops >= grown)]
    if not dearer.any() or min(side.sum() for side in sides) < 2:
        return np.nan, np.nan
    return tuple(float(np.polyfit(flops[side], loss[side], 1)[0]) for side in sides)

"""How fast copies part, and when they have left: measured, and foretold by a curvature."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hcviz.errors import HcvizError

ESCAPE = ["state", "rate", "low", "high", "r2", "first", "last", "pivot", "level", "leaves"]


def escape(
    frame: pd.DataFrame,
    *,
    by: Sequence[str] = ("run", "axis"),
    threshold: float = 0.01,
    between: tuple[int, int] | None = None,
    confidence: float = 0.95,
    metric: str = "ledger",
) -> pd.DataFrame:
    """Fit the growth of the antisymmetric part in a symmetry ledger, and tell when it leaves.

    The amplitude is the square root of the share of squared norm. Where it grows, the logarithm is
    fitted by a line in the step: exponential growth has one rate. ``r2`` says how well that holds;
    a low one is another law of growth, or a learning rate that changes.

    Args:
        frame: Rows of :func:`hcviz.measure`; tensors that should not count are filtered before.
        by: Columns that tell the curves; the share is the mean over everything else. Add
            ``tensor`` and ``part`` for a curve per weight.
        threshold: The share of squared norm above which the copies have left.
        between: Steps to fit in. None takes the snapshots in a row over which the amplitude grows
            by the largest factor, and of them those up to the threshold, where they are three:
            beyond it growth saturates.
        confidence: Of the interval of the rate; from the residuals, as if they were independent.
        metric: The ledger to take, for example ``update.ledger``.

    Returns:
        A row per curve: ``state`` (locked: exactly 0 throughout; inside; left), ``rate`` per step
        with its interval ``low`` to ``high`` and ``r2`` (NaN under three growing snapshots), the
        steps ``first`` and ``last`` of the fit, its ``level`` (amplitude) at the step ``pivot``,
        and ``leaves``, the first step above the threshold, between snapshots by interpolation on
        the log (NaN: never).

    Raises:
        HcvizError: If columns or rows are missing, or the threshold is no share.

    Example:
        >>> rows = {"run": "a", "axis": "R", "metric": "ledger", "step": [0, 10, 20, 30]}
        >>> found = escape(pd.DataFrame(rows | {"value": [1e-8, 1e-6, 1e-4, 1e-2]}), threshold=1e-3)
        >>> found[["state", "rate", "leaves"]].round(3).to_dict("records")
        [{'state': 'left', 'rate': 0.23, 'leaves': 25.0}]
    """
    missing = {"step", "metric", "value", *by} - set(frame.columns)
    rows = frame if missing else frame[frame["metric"] == metric]
    if missing or rows.empty:
        raise HcvizError(
            f"escape() needs rows of the metric {metric!r} with the columns step, value, "
            f"{', '.join(by)}; "
            + (f"{', '.join(sorted(missing))} missing." if missing else "there are none.")
            + f" Ask for them: hcviz.measure(run, metrics=[{metric!r}])."
        )
    if not 0 < threshold < 1:
        raise HcvizError(f"threshold={threshold} is no share of squared norm; give one in (0, 1).")
    groups = rows.groupby(list(by), sort=False, dropna=False)
    found = [
        dict(zip(by, key, strict=True)) | _escape(curve, threshold, between, confidence)
        for key, part in groups
        if len(curve := part.groupby("step")["value"].mean().dropna())
    ]
    return pd.DataFrame(found, columns=[*by, *ESCAPE])


def _escape(curve: pd.Series, threshold: float, between, confidence: float) -> dict:
    """Describe one curve: the share by step."""
    steps, shares = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    above = np.flatnonzero(shares > threshold)
    state = "left" if len(above) else "inside" if shares.any() else "locked"
    found = dict.fromkeys(ESCAPE, np.nan) | {"state": state}
    if len(above):
        k = above[0]
        found["leaves"] = steps[k]
        if k and shares[k - 1] > 0:
            ends = np.log(shares[k - 1 : k + 1])
            found["leaves"] = np.interp(np.log(threshold), ends, steps[k - 1 : k + 1])
    if between:
        inside = (steps >= between[0]) & (steps <= between[1])
        steps, shares = steps[inside], shares[inside]
    steps, logs = steps[shares > 0], np.log(shares[shares > 0]) / 2
    if not between and len(logs):
        runs = np.split(np.arange(len(logs)), np.flatnonzero(np.diff(logs) <= 0) + 1)
        best = max(runs, key=lambda run: logs[run[-1]] - logs[run[0]])
        before = best[logs[best] <= np.log(threshold) / 2]
        best = before if len(before) >= 3 else best
        steps, logs = steps[best], logs[best]
    if len(logs) < 3:
        return found
    fit = stats.linregress(steps, logs)
    half = stats.t.ppf((1 + confidence) / 2, len(logs) - 2) * fit.stderr
    return found | {
        "rate": fit.slope, "low": fit.slope - half, "high": fit.slope + half,
        "r2": fit.rvalue**2, "first": steps[0], "last": steps[-1],
        "pivot": steps.mean(), "level": np.exp(logs.mean()),
    }  # fmt: skip


def foretold(smallest: float, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0):
    """Return the rate at which copies part if the loss curves along them as it does now.

    With w <- (1 - lr weight_decay) w - lr m and m <- momentum m + (1 - momentum) λ w, an amplitude
    grows by the larger root of (z - 1 + lr weight_decay)(z - momentum) = (1 - momentum) lr |λ| z in
    a step. A sector that curves upward is left by no first step: there only the decay is counted.

    Args:
        smallest: The sector's smallest eigenvalue λ, as the optimizer sees it: that of
            ``curvature.adam`` for AdamW, of ``curvature`` for gradient descent. Arrays are taken
            entry by entry.
        lr: The learning rate at this step.
        momentum: Of the gradient: the first beta of AdamW, 0 for plain gradient descent.
        weight_decay: Decoupled, as AdamW has it.

    Returns:
        The logarithm of the growth, per step, as the ``rate`` of :func:`escape`.

    Example:
        >>> round(float(foretold(-2.0, 0.01, momentum=0.0)), 4)  # log(1 + 0.02)
        0.0198
    """
    push = (1 - momentum) * lr * np.maximum(-np.asarray(smallest, dtype=float), 0)
    kept = 1 - lr * weight_decay
    both = kept + momentum + push
    return np.log((both + np.sqrt(both**2 - 4 * kept * momentum)) / 2)

"""judge(): what paired numbers, one a seed, say of a claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from hcviz.errors import HcvizError

REPRODUCED, DIRECTION = "reproduced", "direction only"
NOT, SCALE, NONE = "not reproduced", "not at this scale", "no runs yet"
VERDICTS = (REPRODUCED, DIRECTION, NOT, SCALE, NONE)
"""What can be said of a claim; the last is no verdict."""
EXPECT = ("above", "below", "equal")


@dataclass(frozen=True)
class Verdict:
    """What runs say of a claim."""

    name: str
    """One of :data:`VERDICTS`."""
    effect: float = np.nan
    """Mean over seeds."""
    low: float = np.nan
    high: float = np.nan
    """Student's interval of the mean; NaN for one seed."""
    seeds: int = 0
    sources: Mapping[str, float] = field(default_factory=dict)
    """The mean of each source, where the numbers say whose they are."""

    def __str__(self) -> str:
        """Return name, effect and interval, as ``reproduced: -0.07 [-0.08, -0.06], 3 seeds``."""
        if not self.seeds:
            return self.name
        inside = "" if np.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        counted = f"{self.seeds} value{'s' * (self.seeds > 1)}"
        return f"{self.name}: {self.effect:.3g}{inside}, {counted}"


def judge(
    values: Sequence[float] | pd.Series,
    *,
    expect: str,
    bound: float = 0.0,
    tolerance: float = 0.0,
    seeds: int = 3,
    level: float = 0.95,
) -> Verdict:
    """Judge a claim by numbers that were measured, one for each seed (of each source).

    - ``above`` and ``below``: reproduced if the whole interval lies beyond ``bound`` by more than
      ``tolerance``; direction only if the mean lies on that side of ``bound``.
    - ``equal``: reproduced if the whole interval lies within ``tolerance`` of ``bound`` (two
      one-sided tests), direction only if the mean does. A tolerance of 0 asks for all values to be
      ``bound`` exactly.
    - A number that is not finite means that what is claimed cannot be measured in these runs, for
      example a loss that is never reached: not at this scale.
    - Fewer than ``seeds`` numbers never say more than direction only, exact equality excepted. Nor
      do numbers of several sources of which one has its mean on the other side: seeds of one model
      are more alike than models are, and many of one must not outvote another.

    Args:
        values: The numbers; a series by (source, seed) says whose they are.
        expect: ``above``, ``below`` or ``equal``.
        bound: What they are compared with.
        tolerance: See above; in the unit of the numbers, never negative.
        seeds: How many numbers a firm verdict needs.
        level: Of the interval.

    Raises:
        HcvizError: If ``expect`` is none of the three, or the tolerance is negative or no number.

    Example:
        >>> str(judge([-0.08, -0.07, -0.06], expect="below"))
        'reproduced: -0.07 [-0.0948, -0.0452], 3 values'
    """
    if expect not in EXPECT:
        raise HcvizError(f"expect={expect!r} is none of {', '.join(EXPECT)}.")
    if not tolerance >= 0:
        raise HcvizError(f"tolerance={tolerance} is no distance; give 0 or more.")
    values = pd.Series(values, dtype=float)
    if values.empty:
        return Verdict(NONE)
    if not np.isfinite(values).all():
        return Verdict(SCALE, seeds=len(values))

    def so(mean: float) -> bool:
        if expect == "equal":
            return abs(mean - bound) <= tolerance
        return mean > bound if expect == "above" else mean < bound

    mean, low, high, sources = values.mean(), np.nan, np.nan, {}
    if len(values) > 1:
        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
        low, high = mean - half, mean + half
    if values.index.nlevels > 1:
        sources = values.groupby(level=0, sort=False).mean().to_dict()
    if expect == "equal" and tolerance == 0:
        name = REPRODUCED if (values == bound).all() else NOT
    else:
        ends = np.array([low, high]) - bound  # NaN is not firm
        sign = {"above": 1, "below": -1}.get(expect)
        firm = (sign * ends > tolerance) if sign else (abs(ends) <= tolerance)
        enough = len(values) >= seeds and all(map(so, sources.values()))
        name = REPRODUCED if firm.all() and enough else DIRECTION if so(mean) else NOT
    return Verdict(name, float(mean), float(low), float(high), len(values), sources)

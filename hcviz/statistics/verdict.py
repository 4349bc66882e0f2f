"""judge(): what paired numbers, one a seed, say of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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

    def __str__(self) -> str:
        """Return name, effect and interval, as ``reproduced: -0.07 [-0.08, -0.06], 3 seeds``."""
        if not self.seeds:
            return self.name
        inside = "" if np.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        counted = f"{self.seeds} value{'s' * (self.seeds > 1)}"
        return f"{self.name}: {self.effect:.3g}{inside}, {counted}"


def judge(
    values: Sequence[float],
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
    - Fewer than ``seeds`` numbers never say more than direction only, exact equality excepted.

    Args:
        values: The numbers.
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
    values = np.asarray(values, float)
    if not len(values):
        return Verdict(NONE)
    if not np.isfinite(values).all():
        return Verdict(SCALE, seeds=len(values))
    mean, low, high = values.mean(), np.nan, np.nan
    if len(values) > 1:
        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
        low, high = mean - half, mean + half
    if expect == "equal" and tolerance == 0:
        name = REPRODUCED if (values == bound).all() else NOT
    elif expect == "equal":
        inside = max(abs(low - bound), abs(high - bound)) <= tolerance  # NaN is not
        near = abs(mean - bound) <= tolerance
        name = REPRODUCED if inside else DIRECTION if near else NOT
    else:
        sign = 1 if expect == "above" else -1
        firm = min(sign * (low - bound), sign * (high - bound)) > tolerance
        name = REPRODUCED if firm else DIRECTION if sign * (mean - bound) > 0 else NOT
    if name == REPRODUCED and len(values) < seeds and not (expect == "equal" and not tolerance):
        name = DIRECTION
    return Verdict(name, float(mean), float(low), float(high), len(values))

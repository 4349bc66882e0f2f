"""A logarithmic axis with a shaded strip at its foot, where exact zeros are drawn."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hcviz.plots import theme


class Strip:
    """Where the zeros of a log axis go.

    A zero has no place on a log axis, and here it is the most telling value. Each arm that has one
    gets a lane of its own in the strip, so that locked arms do not hide each other.

    Args:
        ax: The axes; ``finish`` makes its y axis logarithmic.
        arms: Name -> the values of its curves; those at or under ``floor`` go to its lane.
        others: Further values that the axis has to reach (thin lines).
        floor: Values at or under it count as zero; 0 means exact zeros only.
        top: Upper end of the data.
    """

    def __init__(
        self,
        ax: Axes,
        arms: Mapping[str, Any],
        others: Iterable[float] = (),
        *,
        floor: float = 0.0,
        top: float = 1.0,
    ) -> None:
        values = np.concatenate([np.ravel(v).astype(float) for v in [*arms.values(), list(others)]])
        positive = values[values > floor]
        lowest = positive.min() if len(positive) else top
        # At least two decades, so that a nearly flat line is not blown up.
        edge = 10.0 ** np.floor(min(np.log10(lowest) - 0.15, np.log10(top) - 2))
        self.edge = max(edge, floor)
        self.ax, self.floor, self.top = ax, floor, top
        resting = [name for name, v in arms.items() if (np.asarray(v, dtype=float) <= floor).any()]
        self.depth = (0.13 + 0.055 * len(resting)) * np.log10(top / self.edge)
        share = self.depth / (len(resting) + 1.9)  # the lowest 1.2 lanes are for the strip's name
        self.lanes = {n: self.edge * 10 ** (-share * (i + 0.7)) for i, n in enumerate(resting)}

    def place(self, values: Any, lane: str) -> np.ndarray:
        """Return the values with zeros moved to their arm's lane."""
        values = np.asarray(values, dtype=float)
        return np.where(values <= self.floor, self.lanes.get(lane, self.edge), values)

    def finish(self, text: str | None = None, *, headroom: float = 0.05) -> None:
        """Shade and name the strip, cut the spine above it, and label the decades.

        Args:
            text: The strip's name; None says what counts as zero.
            headroom: Empty room over ``top``, as a share of the decades.
        """
        ax, decades = self.ax, np.log10(self.top / self.edge)
        text = text or f"zero (under {self.floor:.0e})".replace("e-0", "e-")
        bottom = self.edge * 10**-self.depth
        ax.set_yscale("log")
        ax.set_ylim(bottom, self.top * 10 ** (headroom * decades))
        look = {"facecolor": theme.PALE, "edgecolor": "none", "zorder": 0}
        ax.axhspan(bottom, self.edge, **look, label="_strip")
        ax.axhline(self.edge, color="#3c3c3c", linewidth=0.6, zorder=1, label="_edge")
        last = int(np.floor(np.log10(self.top) + 1e-9))
        first = int(np.ceil(np.log10(self.edge) + 0.2))
        ticks = [10.0**k for k in range(last, first - 1, -max(1, (last - first) // 4))]
        lanes = np.log10([*self.lanes.values()] or [self.edge * 10 ** (-self.depth / 2)])
        ax.yaxis.set_major_locator(FixedLocator([*ticks, 10 ** lanes.mean()]))
        ax.yaxis.set_major_formatter(FuncFormatter(self._tick))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="y", which="minor", length=0)
        at = self.depth / (self.depth + decades * (1 + headroom))
        slash = {"marker": [(-1, -0.45), (1, 0.45)], "markersize": 7, "markeredgewidth": 0.9}
        ax.plot([0, 0], [at - 0.012, at + 0.012], transform=ax.transAxes, linestyle="none", **slash,
                markeredgecolor="#3c3c3c", clip_on=False, zorder=6, label="_cut")  # fmt: skip
        ax.annotate(
            text, xy=(1, 0), xycoords="axes fraction", xytext=(-4, 2), textcoords="offset points",
            ha="right", va="bottom", color=theme.MUTED, fontstyle="italic", zorder=6,
            fontsize=0.92 * plt.rcParams["font.size"],
        )  # fmt: skip

    def _tick(self, value: float, _: object) -> str:
        if value < self.edge:
            return "0"
        power = round(np.log10(value))
        return {0: "1", -1: "0.1"}.get(power, f"$10^{{{power}}}$")

"""How hcviz figures look: three plain dictionaries (style, context, palette) and one look per arm.

Each dictionary holds matplotlib settings and works as a ``with`` block; nothing is changed outside
it. Every arm has a colour, a line pattern and a marker, so that a figure survives a grey printer
and colour-blind eyes.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb

from hcviz.errors import HcvizError

INK, MUTED, PALE = "#000000", "#5f5f5f", "#e9e9ec"


class Arm(NamedTuple):
    """The look of one arm of a comparison."""

    color: str
    linestyle: str | tuple[float, tuple[float, ...]]
    marker: str


# The lightness of the five (CIE L*: 0, 27, 46, 58, 73) rises in steps that a grey print keeps.
ARMS = {
    "source": Arm("#000000", "-", "x"),
    "symmetric": Arm("#0b3c8c", "-", "o"),
    "noisy 10 dB": Arm("#c1440e", (0, (5, 1.5)), "s"),
    "dropout 0.1": Arm("#1b9e77", (0, (5, 1.5, 1, 1.5)), "^"),
    "random init": Arm("#e5a93c", (0, (1.2, 1.2)), "D"),
}
_OTHER_COLORS = ("#4b1d6b", "#a3365f", "#3b8fc4", "#b9b53a")
_OTHER_LINES = ((0, (3, 1)), (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (2, 2)), "-")
_OTHER_MARKERS = ("v", "P", "*", "<", "X", ">", "h")

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#3c3c3c",
    "axes.facecolor": "white",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.titleweight": "bold",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": "#dedee2",
    "grid.linewidth": 0.6,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": "#3c3c3c",
    "ytick.color": "#3c3c3c",
}
# Name -> (font size in points, line width in points, figure width in inches).
_CONTEXTS = {"paper": (8.0, 1.5, 7.0), "notebook": (10.0, 1.8, 9.0), "talk": (14.0, 2.6, 12.5)}
_active: ContextVar[str] = ContextVar("hcviz_context", default="paper")


class Params(dict[str, Any]):
    """A dictionary of matplotlib settings that can be used in a ``with`` statement."""

    context: str | None = None

    def __enter__(self) -> "Params":
        self.__dict__.setdefault("_open", []).append(stack := contextlib.ExitStack())
        stack.enter_context(mpl.rc_context(dict(self)))
        if self.context is not None:
            stack.callback(_active.reset, _active.set(self.context))
        return self

    def __exit__(self, *_: object) -> None:
        self.__dict__["_open"].pop().close()


def style() -> Params:
    """Return the settings of colours of the frame, grid, spines and fonts."""
    return Params(_STYLE)


def context(name: str = "paper") -> Params:
    """Return the settings of sizes: fonts, lines and the width of a figure.

    Used in a ``with`` block it also holds for the hcviz figures drawn inside.

    Args:
        name: ``paper`` (7 in wide), ``notebook`` or ``talk``.

    Raises:
        HcvizError: If there is no such context.

    Example:
        >>> with context("talk"):
        ...     mpl.rcParams["font.size"]
        14.0
    """
    if name not in _CONTEXTS:
        raise HcvizError(f"No context is called {name!r}; choose one of {', '.join(_CONTEXTS)}.")
    font, line, width = _CONTEXTS[name]
    params = Params(
        {
            "axes.labelsize": font,
            "axes.linewidth": 0.5 * line,
            "axes.titlesize": font,
            "figure.figsize": (width, 0.5 * width),
            "figure.titlesize": 1.12 * font,
            "font.size": font,
            "legend.fontsize": font,
            "legend.handlelength": 3.2,
            "lines.linewidth": line,
            "lines.markersize": 2.9 * line,
            "xtick.labelsize": 0.9 * font,
            "ytick.labelsize": 0.9 * font,
        }
    )
    params.context = name
    return params


def palette() -> Params:
    """Return the colour cycle, for lines that are not arms."""
    colors = [look.color for look in ARMS.values()] + list(_OTHER_COLORS)
    return Params({"axes.prop_cycle": cycler(color=colors)})


def themed(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Let a drawing function work under the theme and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # A notebook's backend switches interactive mode on when it is loaded by the first figure.
        # Loaded inside the theme, that would be undone with it, and no further figure would show.
        plt.draw_if_interactive()
        with style(), palette(), context(_active.get()):
            return draw(*args, **kwargs)

    return wrapper


def _plain(name: str) -> str:
    return str(name).lower().replace("-", " ").replace("_", " ").strip()


def arms(names: Iterable[str]) -> dict[str, Arm]:
    """Give every arm its look: a fixed one by its name, or the next of a cycle.

    Case, dashes and underscores do not matter: ``noisy-10-db`` is ``noisy 10 dB``. In a cycle
    colour, line and marker turn at different speeds: 140 looks before one comes back.

    Args:
        names: The arms of one figure, in order.

    Returns:
        Name -> look, in the order of ``names``.

    Example:
        >>> arms(["symmetric", "my run"])["symmetric"].marker
        'o'
    """
    known = {_plain(name): look for name, look in ARMS.items()}
    looks: dict[str, Arm] = {}
    others = 0
    for name in dict.fromkeys(map(str, names)):
        look = known.get(_plain(name))
        if look is None:
            i, others = others, others + 1
            turns = (_OTHER_COLORS, _OTHER_LINES, _OTHER_MARKERS)
            look = Arm(*(values[i % len(values)] for values in turns))
        looks[name] = look
    return looks


def arm_order(names: Iterable[str]) -> list[str]:
    """Sort arms as a figure lists them: the known ones in the theme's order, then as they came."""
    known = ["symmetric", "noisy 10 db", "dropout 0.1", "source", "random init"]
    names = list(dict.fromkeys(map(str, names)))
    rank = {n: known.index(_plain(n)) if _plain(n) in known else len(known) for n in names}
    return sorted(names, key=rank.__getitem__)


def lightness(color: Any) -> float:
    """Return the CIE lightness L* of a colour: 0 is black, 100 white; what a grey print keeps."""
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


def diverging() -> Colormap:
    """Return the map for signed values: dark blue, neutral grey at zero, pale yellow.

    Its lightness only rises, so that the sign can be read in grey too.
    """
    stops = ["#041a40", "#1d4a8c", "#54779f", "#8a8a8a", "#b9995a", "#edc95c", "#fffbd0"]
    return LinearSegmentedColormap.from_list("hcviz-diverging", stops, N=256)

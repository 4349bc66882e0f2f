"""What a run does when: its learning rate, snapshots and breakers, and the order of its data.

Shapes: N blocks, C context.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hcviz.errors import HcvizError
from hcviz.io.parameters import parse_pairs


def _cosine_to_tenth(progress: float) -> float:
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine-to-tenth": _cosine_to_tenth,
    "linear-to-tenth": lambda progress: 1 - 0.9 * progress,
    "constant": lambda progress: 1.0,
}
"""Learning rate after warm-up, as a share of the peak; progress runs from 0 to 1."""


def snapshot_steps(steps: int, snapshots: int | Sequence[int]) -> list[int]:
    """Return the steps to save at: 0, the last, and log-spaced ones between, or the given ones.

    Example:
        >>> snapshot_steps(100, 6)
        [0, 1, 3, 10, 32, 100]
        >>> snapshot_steps(100, [50])
        [0, 50, 100]
    """
    if not isinstance(snapshots, int):
        wrong = [step for step in snapshots if not 0 <= step <= steps]
        if wrong:
            raise HcvizError(f"snapshots at {wrong} lie outside the run's steps 0 to {steps}.")
        return sorted({0, *map(int, snapshots), steps})
    if snapshots < 2:
        raise HcvizError(
            f"snapshots must be at least 2 (the first and the last step), not {snapshots}."
        )
    chosen = [0]
    for target in np.geomspace(steps, 1, min(snapshots - 1, steps))[::-1]:
        chosen.append(min(max(chosen[-1] + 1, round(float(target))), steps))
    return sorted({*chosen, steps})


BREAKERS: dict[str, dict[str, Any]] = {
    "gradient-noise": {"scale": 0.01, "decay": 1.0, "at": 1, "steps": 1, "axis": "RHN"},
    "moments-reset": {"at": "10%", "steps": "5%", "axis": "RHN"},
    "copy-rate": {"factor": 2.0, "at": 1, "steps": "100%", "axis": "RHN"},
    "copy-frozen": {"at": 1, "steps": "10%", "axis": "RHN"},
    "moments-warm": {"at": 1, "steps": "5%"},
}
"""The settings of every breaker, as they are if nothing else is said; docs/breakers.md
explains them."""


@dataclass(frozen=True)
class Breaker:
    """One breaker with its settings; those that its name has not stay as they are here."""

    name: str
    at: int | str = 1
    """The first step that it acts on, or after which share of the run's steps: 10%."""
    steps: int | str = 1
    """For how many steps, or for which share of the run's."""
    axis: str = "RHN"
    """Along which axes the last copy is another than the rest: R, H, N or several of them."""
    scale: float = 0.0
    """Norm of the noise over the norm of each tensor's gradient."""
    decay: float = 1.0
    """What the scale is multiplied by from step to step."""
    factor: float = 0.0
    """How far the copy goes of the way that the optimizer would take it."""

    def span(self, total: int) -> range:
        """Return the steps that it acts on in a run of so many.

        Raises:
            HcvizError: If they begin after its end.
        """
        first, count = (
            max(1, round(float(value[:-1]) / 100 * total)) if isinstance(value, str) else value
            for value in (self.at, self.steps)
        )
        if first > total:
            raise HcvizError(
                f"{self.name} sets in at step {first}, and the run has {total}. Choose an earlier "
                "step, or a share of the run: at=10%."
            )
        return range(first, first + count)

    def share(self, done: int, count: int) -> float | None:
        """Return how far the copy goes in a step, as a share of its way; None if as it would."""
        if self.name == "moments-reset":
            return (done + 1) / count if done + 1 < count else None
        return None if self.name == "gradient-noise" else self.factor


def parse_breakers(asked: str | Sequence[str] | None) -> list[Breaker]:
    """Read breakers as they are written: a name, and settings after a colon.

    Args:
        asked: One or several; a name alone has the settings of :data:`BREAKERS`.

    Raises:
        HcvizError: If a name or a setting is none, or has a value that it cannot have.

    Example:
        >>> parse_breakers("copy-rate:factor=3,axis=N")[0].factor
        3.0
    """
    return [_parse(text) for text in ([asked] if isinstance(asked, str) else asked or ())]


def _parse(text: str) -> Breaker:
    """Read one breaker."""
    name, _, rest = str(text).partition(":")
    if name not in BREAKERS:
        raise HcvizError(
            f"Unknown breaker {name!r}. Use one of {', '.join(BREAKERS)}; settings come after a "
            "colon: gradient-noise:scale=0.01,steps=1,axis=N"
        )
    known, settings = BREAKERS[name], dict(BREAKERS[name])
    for key, word in parse_pairs(rest).items():
        if key not in known:
            raise HcvizError(
                f"{text!r}: {name} has no setting {key!r}. It has "
                f"{', '.join(f'{one}={value}' for one, value in known.items())}."
            )
        try:
            settings[key] = READ[key](word)
        except ValueError as error:
            raise HcvizError(f"{text!r}: {key} is {error}, not {word!r}.") from None
    return Breaker(name, **settings)


def _when(word: str) -> int | str:
    """Read a number of steps, or a share of them."""
    if re.fullmatch(r"[1-9]\d*", word):
        return int(word)
    if re.fullmatch(r"\d+(\.\d+)?%", word) and 0 < float(word[:-1]) <= 100:
        return word
    raise ValueError("a number of steps, such as 100, or a share of the run, such as 10%")


def _number(word: str) -> float:
    """Read a number of at least zero."""
    try:
        if 0 <= float(word) < float("inf"):
            return float(word)
    except ValueError:
        pass
    raise ValueError("a number of at least 0")


def _axes(word: str) -> str:
    """Read the letters of axes."""
    letters = "RHN" if word == "all" else word
    if not letters or set(letters) - set("RHN"):
        raise ValueError("R (hidden), H (heads), N (ffn), several of them (RN), or all")
    return "".join(letter for letter in "RHN" if letter in letters)


READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("at", "steps"), _when),
    **dict.fromkeys(("scale", "decay", "factor"), _number),
    "axis": _axes,
}
"""How the value of each setting is read."""


class BlockOrder(Dataset):
    """Blocks in a training order that depends on the seed, the number of blocks and nothing else.

    Every epoch is a fresh permutation. Items are dictionaries with ``input_ids`` and ``labels``,
    int64 [C].
    """

    def __init__(self, blocks: torch.Tensor, *, count: int, seed: int | None = None):
        """Take ``count`` blocks: in shuffled epochs with a seed, evenly spaced without one."""
        self.blocks = blocks
        size = len(blocks)
        if seed is None:
            self.order = np.linspace(0, size - 1, min(count, size)).round().astype(int)
        else:
            epochs = range(-(-count // size))
            shuffled = [np.random.default_rng([seed, n]).permutation(size) for n in epochs]
            self.order = np.concatenate(shuffled)[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.blocks[self.order[index]].long()
        return {"input_ids": block, "labels": block}

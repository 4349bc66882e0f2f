"""What a run does when: its learning rate, its snapshots and the order of its data.

Shapes: N blocks, C context.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from hcviz.errors import HcvizError


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


class BlockOrder(Dataset):
    """Blocks in a training order that depends on the seed, the number of blocks and nothing else.

    Every epoch is a fresh permutation. Items are dictionaries with ``input_ids`` and ``labels``,
    int64 [C].
    """

    def __init__(self, blocks: torch.Tensor, *, count: int, seed: int | None = None):
        """Take ``count`` blocks: in shuffled epochs with a seed, evenly spaced without one."""
        self.blocks = blocks
        if seed is None:
            self.order = (
                np.linspace(0, len(blocks) - 1, min(count, len(blocks))).round().astype(int)
            )
        else:
            epochs = -(-count // len(blocks))
            shuffled = [
                np.random.default_rng([seed, epoch]).permutation(len(blocks))
                for epoch in range(epochs)
            ]
            self.order = np.concatenate(shuffled)[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = self.blocks[self.order[index]]
        return {"input_ids": block, "labels": block}

"""Which snapshots of a run stand where they do not belong, from the distances between them."""

from collections.abc import Iterator

import numpy as np

MARGIN = 0.1
"""How much shorter the way must be, and how much nearer the neighbours, elsewhere."""


def misplaced(apart: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield the snapshots that belong elsewhere, from the distances of all pairs.

    The way through all snapshots, in order, is the shortest if distances grow with the time between
    two: so they do in a walk that never turns back, at any speed. A snapshot is out of order if the
    way gets shorter when it is put elsewhere, by a tenth of its own links, and its neighbours there
    are nearer on average by a tenth as well. The worst is put in its place, and the rest is looked
    at again.

    Yields:
        The snapshot, the nearest of its new neighbours, and the new mean distance over the old.

    Example:
        >>> at = np.array([0, 3, 1, 2, 4])
        >>> [(one, beside) for one, beside, _ in misplaced(abs(at[:, None] - at))]
        [(1, 3)]
    """
    order = list(range(len(apart)))
    for _ in range(len(apart)):
        _, one, place, beside, share = max(_moves(apart, order), default=(0, None, 0, 0, 0))
        if one is None:
            return
        yield one, beside, share
        order.remove(one)
        order.insert(place, one)


def _moves(apart: np.ndarray, order: list[int]) -> Iterator[tuple[float, int, int, int, float]]:
    """Yield what can be put elsewhere: how much of the way that saves, which, where, ..."""
    for at, one in enumerate(order):
        rest = order[:at] + order[at + 1 :] or order
        near = [rest[max(place - 1, 0) : place + 1] for place in range(len(order))]
        links = [apart[one, beside] for beside in near]
        adds = [link.sum() - apart[two[0], two[-1]] for link, two in zip(links, near, strict=True)]
        for place, link in enumerate(links):
            nearer = link.mean() < (1 - MARGIN) * links[at].mean()
            saved = adds[at] - adds[place]
            if nearer and saved > MARGIN * links[at].sum():
                beside = near[place][int(link.argmin())]
                yield saved, one, place, beside, link.mean() / links[at].mean()

"""Snapshots out of order: told from distances, and no false alarm."""

import numpy as np
import pytest

from hcviz.statistics.order import misplaced


def test_a_moved_snapshot_is_told_where_it_belongs():
    at = np.array([0, 1, 9, 2, 3, 4, 5, 6, 7, 8, 10])
    for apart in (abs(at[:, None] - at), np.sqrt(abs(at[:, None] - at))):
        [(one, beside, share)] = misplaced(apart)
        assert one == 2
        assert beside in (9, 10)
        assert share < 0.9


def test_noise_around_one_place_has_no_order_to_lose():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 5000))
    squares = np.square(points).sum(1)
    apart = np.sqrt(np.clip(squares[:, None] + squares - 2 * points @ points.T, 0, None))
    assert list(misplaced(apart)) == []


@pytest.mark.parametrize("steps", [range(9), [0, *(2**k for k in range(9))]])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_way_that_never_turns_back_is_in_order(steps, power):
    at = np.array(steps)
    assert list(misplaced(abs(at[:, None] - at) ** power)) == []
    assert list(misplaced(abs(at[:1, None] - at[:1]))) == []

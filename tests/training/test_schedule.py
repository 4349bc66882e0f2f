"""hcviz.training.schedule."""

import pytest
import torch

from hcviz.training.schedule import BlockOrder, snapshot_steps


def test_an_epoch_shows_every_block_once():
    blocks = torch.arange(10)[:, None]
    order = BlockOrder(blocks, count=25, seed=3)
    seen = [int(order[i]["input_ids"]) for i in range(25)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert [int(item["input_ids"]) for item in BlockOrder(blocks, count=4)] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("steps", "count"), [(120, 12), (1, 2), (9, 2), (3, 9), (2000, 20), (11, 12)]
)
def test_snapshots_are_log_spaced(steps, count):
    at = snapshot_steps(steps, count)
    assert len(at) == min(count, steps + 1)
    assert (at[0], at[-1]) == (0, steps)
    assert at == sorted(set(at))

"""A wide weight as a grid of blocks: views, hand-checked, and whole units per copy."""

import pytest
import torch

from hcviz.architecture.axes import Dim, Segment, source_units, wide_shape
from hcviz.architecture.blocks import grid, pieces

FACTORS = {"hidden": 2, "ffn": 2, "kv_heads": 2, "group": 3}


def square(rows=2, cols=2):
    return (
        Dim("write", (Segment((("ffn", rows),)),)),
        Dim("read", (Segment((("hidden", cols),)),)),
    )


def test_grid_by_hand():
    wide = torch.arange(16).view(4, 4)
    blocks = grid(wide, square(), FACTORS)
    assert blocks.tolist() == [
        [[[0, 1], [4, 5]], [[2, 3], [6, 7]]],
        [[[8, 9], [12, 13]], [[10, 11], [14, 15]]],
    ]


def test_grid_is_a_view_that_writes_through():
    wide = torch.zeros(4, 6)
    blocks = grid(wide, square(2, 3), FACTORS)
    assert blocks.data_ptr() == wide.data_ptr()
    assert blocks.stride() == (12, 3, 6, 1)
    blocks[1, 0, 0, 2] = 5.0
    assert wide.nonzero().tolist() == [[2, 2]]


def test_grid_of_a_slice_and_of_a_transpose_reads_the_right_memory():
    large = torch.arange(64).view(8, 8)
    part = large[2:6, 4:]
    assert grid(part, square(), FACTORS)[1, 0].tolist() == [[36, 37], [44, 45]]
    turned = (square()[1], square()[0])  # a Conv1D keeps what it reads first
    blocks = grid(part.T, turned, FACTORS)
    assert torch.equal(blocks, grid(part, square(), FACTORS))


def test_vectors_have_one_column_of_blocks():
    bias = torch.arange(4)
    blocks = grid(bias, square()[:1], FACTORS)
    assert blocks.shape == (2, 1, 2, 1)
    assert blocks[1, 0].flatten().tolist() == [2, 3]


def test_heads_are_copied_as_wholes_and_in_their_groups():
    # 1 key/value head of 2 query heads of size 2, to 2 key/value heads with 3 x 2 query heads each
    levels = (("kv_heads", 1), ("group", 2), (None, 2))
    query = (Dim("write", (Segment(levels, "q"),)),)
    assert wide_shape(query, FACTORS) == (24,)
    (piece,) = pieces(torch.arange(24), query, FACTORS)
    assert piece.copy_axes == ("kv_heads", "group")
    assert piece.write_copies == (2, 3)
    assert piece.grid()[:, 0, :, 0].tolist() == [list(range(4 * k, 4 * k + 4)) for k in range(6)]


def test_pieces_of_a_fused_matrix():
    # rows: 2 queries, 1 key, 1 value unit; copies of each stay inside its own stretch
    parts = [Segment((("kv_heads", size),), part) for size, part in ((2, "q"), (1, "k"), (1, "v"))]
    axes = (Dim("write", tuple(parts)), Dim("keep", (Segment(((None, 1),)),)))
    wide = torch.arange(8).view(8, 1)
    found = {p.part: p.grid()[:, 0, :, 0].tolist() for p in pieces(wide, axes, FACTORS)}
    assert found == {"q": [[0, 1], [2, 3]], "k": [[4], [5]], "v": [[6], [7]]}
    with pytest.raises(ValueError, match=r"fused from \['q', 'k', 'v'\]"):
        grid(wide, axes, FACTORS)


def test_stacked_parts_inside_one_segment():
    # up and gate on top of each other: the copies of both are [t; t] and [b; b], not [t; b; t; b]
    axes = (Dim("write", (Segment(((None, 2), ("ffn", 2)), "gate/up"),)),)
    copies = grid(torch.arange(8), axes, FACTORS)[:, 0, :, 0]
    assert copies.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_no_factors_mean_one_block():
    source = torch.arange(4.0).view(2, 2)
    assert torch.equal(grid(source, square(), {})[0, 0], source)


def test_wrong_shape_is_named_with_the_expected_one():
    with pytest.raises(ValueError, match=r"\(4, 5\) does not fit .*\(4, 4\)"):
        grid(torch.zeros(4, 5), square(), FACTORS)


def test_source_units_divide_by_the_factors():
    assert source_units(square(4, 6), FACTORS) == square(2, 3)
    with pytest.raises(ValueError, match="hidden has 5 units"):
        source_units(square(4, 5), FACTORS)

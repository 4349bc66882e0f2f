"""hcviz.diff: by hand, in known sectors, and through files."""

import numpy as np
import pytest
import tiny
import torch

import hcviz
from hcviz.errors import HcvizError

UP, DOWN = (f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("up", "down"))


@pytest.fixture(scope="module")
def small():
    return tiny.model()


def by_tensor(frame):
    return frame.set_index("tensor")


@pytest.mark.parametrize("options", [{}, {"hidden": 3}, {"hidden": 1, "ffn": 2, "heads": 1}])
@pytest.mark.parametrize("tied", [False, True])
def test_a_symmetric_clone_has_not_moved(options, tied):
    model = tiny.model(tie_word_embeddings=tied)
    wide = hcviz.clone(model, **options)
    frame = hcviz.diff(model, wide)
    assert len(frame) == len(dict(wide.named_parameters()))
    assert frame["moved"].max() < 1e-7  # the folded head's 1/3 is rounded
    untied = hcviz.clone(model, **options, tie="untie")
    assert hcviz.diff(model, untied)["moved"].max() < 1e-7


def test_sectors_by_hand(small):
    wide = hcviz.clone(small, hidden=2)
    later = hcviz.clone(small, hidden=2)
    old = by_name(wide)[UP].double()
    rows, cols = (size // 2 for size in old.shape)
    change = {  # along: what is added to the four blocks
        "symmetric": [[1, 1], [1, 1]],
        "R": [[1, -1], [1, -1]],
        "N": [[1, 1], [-1, -1]],
        "both": [[1, -1], [-1, 1]],
    }
    for sector, signs in change.items():
        pattern = torch.tensor(signs).repeat_interleave(rows, 0).repeat_interleave(cols, 1)
        by_name(later)[UP].data = by_name(wide)[UP].data + 0.5 * pattern
        for first in (wide, small):
            row = by_tensor(hcviz.diff(first, later)).loc[UP]
            size = 0.5 * np.sqrt(old.numel()) / old.norm().item()
            assert row["moved"] == pytest.approx(size, rel=1e-5)
            for name in ("symmetric", "R", "N"):
                inside = name == sector or (sector == "both" and name in "RN")
                expected = size if inside else 0.0  # up to the rounding of w + 0.5 in float32
                assert row[name] == pytest.approx(expected, rel=1e-5, abs=6e-8 * size), name
        others = by_tensor(hcviz.diff(wide, later)).drop(UP)
        assert others["moved"].eq(0).all()


def by_name(model):
    return dict(model.named_parameters())


def test_the_split_adds_up_for_one_axis(small):
    """Bias and gain have one axis of copies: moved^2 = symmetric^2 + R^2."""
    wide, later = (hcviz.clone(small, hidden=2) for _ in range(2))
    gain = by_name(later)["model.norm.weight"]
    gain.data = torch.randn(gain.shape, generator=torch.Generator().manual_seed(1))
    row = by_tensor(hcviz.diff(wide, later)).loc["model.norm.weight"]
    assert row["moved"] ** 2 == pytest.approx(row["symmetric"] ** 2 + row["R"] ** 2, rel=1e-9)
    assert np.isnan(row["N"])


def test_noise_lies_outside_the_symmetric_part(small):
    wide = hcviz.clone(small, expansion="noisy-symmetric", snr_db=20)
    frame = by_tensor(hcviz.diff(small, wide))
    assert frame.loc[[UP, DOWN], "moved"].to_numpy() == pytest.approx([0.1, 0.1], rel=1e-3)
    assert frame["symmetric"].max() < 1e-6


def test_folders_and_factors_do_as_well_as_models(small, tmp_path):
    wide = hcviz.clone(small, expansion="diagonal")
    expected = hcviz.diff(small, wide)
    small.save_pretrained(tmp_path / "small")
    wide.save_pretrained(tmp_path / "wide")
    del wide.config.hcviz
    wide.save_pretrained(tmp_path / "silent")
    for options in ({}, {"factors": {"hidden": 2}}):
        for name in ("wide", "silent"):
            frame = hcviz.diff(tmp_path / "small", tmp_path / name, **options)
            joined = by_tensor(frame).loc[expected["tensor"], ["moved", "R", "N"]]
            assert joined.equals(by_tensor(expected)[["moved", "R", "N"]])


def test_models_without_copies_have_no_sectors(small):
    frame = hcviz.diff(small, tiny.model(seed=1))
    assert frame[["R", "H", "N"]].isna().all(axis=None)
    assert np.allclose(frame["moved"], frame["symmetric"])


def test_what_cannot_be_compared_is_said(small, tmp_path):
    with pytest.raises(HcvizError, match="keeps family and depth"):
        hcviz.diff(small, tiny.model("opt", hidden_size=32))
    with pytest.raises(HcvizError, match=r"There is no folder '.*nowhere'"):
        hcviz.diff(small, tmp_path / "nowhere")

"""A streamed clone that is disturbed: by another process, by a disk that fills up."""

import pytest
import tiny

import hcviz
from hcviz.io.files import locked

QUICK = {"hidden": 2, "check": "twin", "max_shard_size": "20KB", "progress": False}


def test_a_clone_that_another_process_is_making_is_left_alone(tmp_path):
    tiny.model().save_pretrained(tmp_path / "src")
    with locked(tmp_path / "out"):
        with pytest.raises(hcviz.HcvizError, match=r"out is being written by another process"):
            hcviz.clone_checkpoint(tmp_path / "src", tmp_path / "out", **QUICK)
        assert not list(tmp_path.glob(".tmp-*-clone"))
    hcviz.clone_checkpoint(tmp_path / "src", tmp_path / "out", **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"src", "out"}

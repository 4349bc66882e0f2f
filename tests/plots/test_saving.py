"""Saving: picture, data and command together, the same bytes again, and nothing half-written."""

import json
import os

import frames
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hcviz import plots
from hcviz.errors import HcvizError


def test_save_writes_pictures_data_and_command(tmp_path):
    frame = frames.ledger()
    paths = plots.save(
        plots.ledger(frame), tmp_path / "new" / "fig5.a", data=frame, command="hcviz figures 5"
    )
    assert [path.name for path in paths.values()] == [
        "fig5.a.png",
        "fig5.a.svg",
        "fig5.a.csv",
        "fig5.a.json",
    ]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        p.name for p in paths.values()
    )
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert b"hcviz figures 5" in paths["png"].read_bytes()
    assert "hcviz figures 5" in paths["svg"].read_text()
    pd.testing.assert_frame_equal(
        pd.read_csv(paths["csv"])[["run", "value"]], frame[["run", "value"]]
    )
    record = json.loads(paths["json"].read_text())
    assert record["command"] == "hcviz figures 5"
    assert record["data"]["rows"] == len(frame)


def test_save_gives_the_same_bytes_for_the_same_figure(tmp_path):
    written = [
        plots.save(plots.loss(frames.history()), tmp_path / str(i) / "loss") for i in range(2)
    ]
    for ending in ("png", "svg", "json"):
        assert written[0][ending].read_bytes() == written[1][ending].read_bytes()
    assert "csv" not in written[0]


@pytest.mark.parametrize("before", range(4))
def test_a_failed_save_keeps_the_whole_old_figure_and_no_scraps(tmp_path, monkeypatch, before):
    fig, frame = Figure(figsize=(1, 1)), frames.history()
    paths = plots.save(fig, tmp_path / "loss", data=frame, command="old")
    old = {path: path.read_bytes() for path in paths.values()}
    replace, calls = os.replace, []

    def fails(*args):
        calls.append(args)
        if len(calls) > before:
            raise OSError("No space left on device")
        replace(*args)

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(HcvizError, match=r"loss\.png .*disk is full \(No space left.*Make room"):
        plots.save(fig, tmp_path / "loss", data=frame[:1], command="new")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old
    with pytest.raises(HcvizError, match="disk is full"):
        plots.save(fig, tmp_path / "other" / "loss", command="new")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("stem", ["", ".", "..", "a\0b", "\ud800"])
def test_a_place_without_a_name_is_refused(stem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HcvizError, match="has no name of its own to be written under"):
        plots.save(Figure(), stem)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names of other bytes")
def test_a_name_of_other_bytes_is_written_out_where_text_is_wanted(tmp_path):
    paths = plots.save(Figure(), tmp_path / os.fsdecode(b"a\xff"))
    assert rb"a\udcff" in paths["png"].read_bytes()
    assert json.loads(paths["json"].read_text())["files"][0] == os.fsdecode(b"a\xff.png")


def test_what_is_no_figure_is_refused(tmp_path):
    with pytest.raises(HcvizError, match="figure or axes, and got a str"):
        plots.save("figure", tmp_path / "x")

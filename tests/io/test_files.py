"""Nothing is lost: folders and files appear whole or not at all."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hcviz
from hcviz.io.files import check_free, check_space, data_folder, fresh_folder, locked, write_text

HOLD = """
import sys, time
from hcviz.io.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(120)
"""


def fill(folder, text="new"):
    with fresh_folder(folder, overwrite=True) as place:
        (place / "a.txt").write_text(text)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp")]


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with fresh_folder(out) as place:
        (place / "a.txt").write_text("new")
        assert not out.exists()
        assert place.parent == out.parent
    assert (out / "a.txt").read_text() == "new"
    assert leftovers(out.parent) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_folder_and_leaves_no_scratch(tmp_path, error):
    out = tmp_path / "out"
    fill(out, "old")

    def fail():
        with fresh_folder(out, overwrite=True) as place:
            (place / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (out / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_failure_makes_no_folder(tmp_path):
    with pytest.raises(RuntimeError), fresh_folder(tmp_path / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused_and_untouched(tmp_path):
    out = tmp_path / "out"
    fill(out, "old")
    with pytest.raises(hcviz.HcvizError, match=r"out already exists.*--overwrite"):
        with fresh_folder(out):
            pytest.fail("the block must not run")
    assert (out / "a.txt").read_text() == "old"


def test_overwrite_replaces_the_whole_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.txt").write_text("old")
    fill(out)
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    assert leftovers(tmp_path) == []


def test_overwrite_replaces_a_file(tmp_path):
    out = tmp_path / "out"
    out.write_text("a file")
    fill(out)
    assert (out / "a.txt").read_text() == "new"


def test_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    fill(out, "old")
    original = type(out).rename

    def rename(self, target):
        if self.name.startswith(".tmp-out"):
            raise OSError("no")
        return original(self, target)

    monkeypatch.setattr(type(out), "rename", rename)
    with pytest.raises(OSError, match="no"):
        fill(out)
    assert (out / "a.txt").read_text() == "old"


def test_empty_folder_counts_as_free(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    check_free(out)
    with fresh_folder(out) as place:
        (place / "a.txt").write_text("new")
    assert (out / "a.txt").exists()


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("a" * 300)):
        with pytest.raises(hcviz.HcvizError, match=r"Cannot write beside .*(out|aaa).* writable"):
            with fresh_folder(out):
                pass
        with pytest.raises(hcviz.HcvizError, match=r"(out|aaa) cannot be written.* writable"):
            write_text(out, "new")


@pytest.mark.parametrize("out", ["", ".", "..", "/", "a/..", "a/\0", "\ud800"])
def test_a_place_without_a_name_is_refused(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hcviz.HcvizError, match="has no name of its own"):
        write_text(out, "new")
    with pytest.raises(hcviz.HcvizError, match="has no name of its own"):
        with fresh_folder(out, overwrite=True):
            pass
    assert not list(tmp_path.iterdir())


def test_text_is_written_by_rename(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    assert write_text(path, "ä") == path
    assert path.read_bytes() == "ä".encode()

    def full(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(hcviz.HcvizError, match=r"a\.txt cannot be written: disk full"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "ä"
    assert leftovers(tmp_path) == []


def test_space_is_asked_of_the_nearest_folder_that_exists(tmp_path):
    check_space(tmp_path / "a" / "b", 1, "A clone")
    message = r"A clone needs 1000000000.00 GB, and .* has .* GB free.*another disk"
    with pytest.raises(hcviz.HcvizError, match=message) as caught:
        check_space(tmp_path / "a" / "b", 10**18, "A clone")
    assert str(tmp_path) in str(caught.value)


def test_data_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HCVIZ_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("HCVIZ_DATA")
    assert data_folder().name == "data"


@contextlib.contextmanager
def held(path):
    """Let another process hold the lock of a path; it is killed at the end."""
    command = [sys.executable, "-c", HOLD, str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(hcviz.__file__).parents[1])}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_at_once_and_a_killed_one_leaves_nothing_stuck(tmp_path):
    out = tmp_path / "deep" / "out"
    with held(out) as process:
        began = time.monotonic()
        message = (
            rf"out is being written by another process \({process.pid}\)\. Wait .*another folder"
        )
        with pytest.raises(hcviz.HcvizError, match=message), locked(out):
            pytest.fail("the block must not run")
        with pytest.raises(hcviz.HcvizError, match="being written"):
            fill(out)
        assert time.monotonic() - began < 5
        with locked(tmp_path / "deep" / "other"):
            pass
    assert process.returncode == -9
    fill(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_two_names_of_a_folder_share_its_lock(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    for name in (tmp_path / "link", "."):
        with locked(tmp_path / "out"), pytest.raises(hcviz.HcvizError), locked(name):
            pytest.fail("the block must not run")


def test_a_folder_whose_parent_cannot_be_written_is_locked_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path.parent)
    with locked(tmp_path), pytest.raises(hcviz.HcvizError, match="written by"), locked(tmp_path):
        pytest.fail("the block must not run")
    assert not leftovers(tmp_path.parent)


def test_a_disk_that_knows_no_locks_is_used_without(tmp_path, monkeypatch):
    def unknown(self, **options):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.FileLock.acquire", unknown)
    fill(tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").exists()

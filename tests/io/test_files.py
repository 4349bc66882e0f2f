"""Nothing is lost: folders and files appear whole or not at all."""

import pytest

import hcviz
from hcviz.io.files import check_free, check_space, data_folder, fresh_folder, write_text


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
    with pytest.raises(hcviz.HcvizError, match=r"Cannot write beside .*out.* writable place"):
        with fresh_folder(tmp_path / "file" / "out"):
            pass


def test_text_is_written_by_rename(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    assert write_text(path, "ä") == path
    assert path.read_bytes() == "ä".encode()

    def full(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="disk full"):
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

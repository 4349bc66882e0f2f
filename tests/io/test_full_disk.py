"""A disk that fills up in the middle: our error with the remedy, nothing half-made; it goes on."""

import contextlib
import json

import pytest
import tiny
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import hcviz
from hcviz.cli.views import measure
from hcviz.errors import HcvizError
from hcviz.io.files import full_disk, needing_room
from hcviz.text.corpus import load_corpus

resource = pytest.importorskip("resource", reason="needs a limit on the size of files")

SHORT = {"steps": 2, "snapshots": 2, "batch_size": 2, "metrics": ["norm"], "progress": False}
CLONE = {"hidden": 2, "max_shard_size": "100KB", "check": "twin", "progress": False}


@contextlib.contextmanager
def at_most(size):
    """Let no file get larger, which libraries meet as they meet a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def levels(folder):
    """Return limits at each of which another file is the first that cannot be written."""
    sizes = {path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    found = sorted({size - 1 for size in sizes if size > 4096} | {4096})
    return found[:: max(1, len(found) // 8)]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refused(call):
    with pytest.raises(HcvizError, match=r"cannot be written: .*[mM]ake room and run the same"):
        call()


def test_training_leaves_whole_snapshots_and_a_true_record_and_goes_on(tmp_path):
    text = tiny.write_text(tmp_path)
    corpus = load_corpus(text, tokenizer=tiny.tokenizer(), context=16)

    def trained(name, limit=None):
        with contextlib.ExitStack() as stack:
            filled = [] if limit else [True]

            def fill(row):
                if not filled:
                    filled.append(stack.enter_context(at_most(limit)))

            return hcviz.train(
                tiny.model(), out=tmp_path / name, corpus=corpus, on_log=fill, **SHORT
            )

    whole = trained("whole")
    want = {name: whole.tensor(name, 2) for name in whole.names(2)}
    limits = levels(whole.path)
    assert len(limits) > 3
    for limit in limits:
        out = tmp_path / str(limit)
        refused(lambda limit=limit: trained(str(limit), limit))
        assert json.loads((out / "run.json").read_text())["status"] == "stopped: cannot write"
        for folder in out.glob("checkpoint-*"):
            assert names(folder) == names(whole.path / folder.name)
        again = trained(str(limit))
        assert again.info["status"] == "done"
        assert names(out) == names(whole.path)
        assert all(torch.equal(weight, again.tensor(name, 2)) for name, weight in want.items())
    with at_most(4096):
        refused(lambda: trained("early"))
    assert not (tmp_path / "early").exists()


def test_a_streamed_clone_is_there_whole_or_not_at_all_and_goes_on(tmp_path):
    src = tmp_path / "src"
    tiny.model().save_pretrained(src)
    tiny.tokenizer().save_pretrained(src)
    hcviz.clone_checkpoint(src, tmp_path / "whole", **CLONE)
    limits = levels(tmp_path / "whole")
    assert len(limits) > 2
    for limit in limits:
        out = tmp_path / str(limit)
        with at_most(limit):
            refused(lambda out=out: hcviz.clone_checkpoint(src, out, **CLONE))
        assert not out.exists()
        assert not list(tmp_path.rglob("*.part"))
        hcviz.clone_checkpoint(src, out, **CLONE)
        assert names(out) == names(tmp_path / "whole")
        for path in out.glob("*.safetensors"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        assert load_file(next(out.glob("*.safetensors")))


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_table_keeps_the_old_one(tmp_path, ending):
    run, out = tmp_path / "run", tmp_path / f"table.{ending}"
    hcviz.clone(tiny.model(), hidden=2).save_pretrained(run / "checkpoint-0")
    out.write_text("old")
    with at_most(512):
        refused(lambda: measure((run,), metrics=("ledger",), out=out))
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"run", out.name}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        Exception("No space left on device (os error 28)"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
    ids=repr,
)
def test_a_full_disk_is_known_in_every_disguise(tmp_path, error):
    def fails():
        with needing_room(tmp_path / "x"):
            raise RuntimeError("could not save") from error

    refused(fails)
    assert full_disk(error) is error


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), RuntimeError("shapes differ")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error), match=str(error.args[-1])), needing_room(tmp_path / "x"):
        raise error

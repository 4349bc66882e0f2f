"""Files that somebody damaged, changed or made up, and odd words: our error, or the right result.

A short round is part of every test run. `make fuzz` tries as many inputs as HCVIZ_FUZZ says, new
ones each time; what fails is shown in its smallest form, with a line that repeats it.
"""

import contextlib
import math
import os
import shutil
import sqlite3
import struct
import sys
import time
import warnings
from pathlib import Path

import hypothesis.strategies as st
import models
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import HealthCheck, assume, given, settings
from mutations import BYTES, NUMBERS, WORDS, bad_frame, bad_json, damaged
from tables import peak

import hcviz
from hcviz import cli
from hcviz.io.sources import load
from hcviz.runs.recorded import record, recorded
from hcviz.runs.rows import COLUMNS
from hcviz.runs.run import HISTORY
from hcviz.text.corpus import load_corpus

resource = pytest.importorskip("resource", reason="needs a limit on memory")
INPUTS = int(os.environ.get("HCVIZ_FUZZ", 0))
"""How many inputs a long round tries over all kinds; 0 is the short round, the same each time."""
SECONDS = 20
"""Of this process's time: what takes longer hangs."""
MEMORY = 2**31
"""Bytes that one input may add to the most that this process has held."""
pytestmark = [
    pytest.mark.timeout(6 * 3600 if INPUTS else 600),
    pytest.mark.filterwarnings("ignore"),
]


def inputs(share: float, short: int):
    """Try a share of the inputs of a long round, or so many in the short one."""
    return settings(
        max_examples=math.ceil(share * INPUTS) or short,
        derandomize=not INPUTS,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def listing(folder):
    """Return what lies in a folder, with sizes and times."""
    found = (path for path in folder.rglob("*"))
    return {path: path.lstat()[6:9:2] for path in found if not path.is_dir()}


@pytest.fixture(scope="module", autouse=True)
def limited():
    """Let an input that takes all memory fail by itself, where the system can do that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.is_file():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 4 * MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def ours(place, *names, free=()):
    """Let pass only an error of ours that names the file or its folder; nothing else is touched.

    Args:
        place: A folder: only what lies in ``out`` of it, and caches, may change.
        names: One of them is in the message.
        free: What else may be written in it.
    """
    before, start, held, said = listing(place), time.process_time(), peak(), ""
    try:
        yield
    except hcviz.HcvizError as error:
        said = str(error)
    assert not said or not names or any(str(name) in said for name in names), said
    spent = time.process_time() - start
    assert spent < SECONDS, f"{spent} seconds"
    assert peak() - held < MEMORY
    allowed = (place / "out", *free, *(path for path in place.rglob(".hcviz-cache")))
    new = dict(set(listing(place).items()) ^ set(before.items()))
    assert not [path for path in new if not any(path.is_relative_to(one) for one in allowed)]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Make what is whole, once: models, a run, a recording, and a text."""
    root = tmp_path_factory.mktemp("seeds")
    short = {"vocab_size": 2048, "max_position_embeddings": 32}
    for name in ("llama", "gpt_neox", "opt", "gemma3", "phi3"):
        models.fresh(name, **short).save_pretrained(root / name)
        tiny.tokenizer().save_pretrained(root / name)
    text = tiny.write_text(root, documents=12)
    wide = hcviz.clone(models.fresh("llama", **short), hidden=2, expansion="noisy-symmetric")
    run = hcviz.train(
        wide, out=root / "run", tokenizer=tiny.tokenizer(), corpus=str(text), steps=2, snapshots=3,
        batch_size=2, context=16, eval_blocks=2, progress=False, metrics=["ledger"],
        metric_tensors=["o_proj"],
    )  # fmt: skip
    tensors = [name for name in run.names() if "o_proj" in name]
    frame = hcviz.measure(run, metrics=["cosine"], tensors=tensors, cache=False)
    record([run], root / "recorded", tensors=tensors, frame=frame, command="make it")
    wide.save_pretrained(root / "shards", max_shard_size="200KB")
    tiny.tokenizer().save_pretrained(root / "shards")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@contextlib.contextmanager
def copied(seeds, place, name, file=None, data=b""):
    """Lay a copy of a seed in an empty place, with one file of it replaced."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    here = shutil.copytree(seeds / name, place / name, copy_function=os.link)
    if file is not None:
        (here / file).unlink()
        (here / file).write_bytes(data)
    with contextlib.chdir(place), warnings.catch_warnings(action="ignore"):
        yield here


@torch.no_grad()
def computes(model):
    """See that a model computes numbers of the right shape."""
    logits = model(input_ids=models.ids()).logits
    assert logits.shape == (2, models.LENGTH, model.config.vocab_size)


@inputs(0.25, 15)
@given(data=st.data())
def test_configurations(seeds, place, data):
    name = data.draw(st.sampled_from(["llama", "gpt_neox", "opt", "gemma3", "phi3", "shards"]))
    file = seeds / name / "config.json"
    bad = data.draw(bad_json(file.read_bytes()))
    verb = data.draw(st.sampled_from(["load", "layout", "clone", "declone", "target"]))
    names = {"declone": (), "target": (place / name, "to_config", "Every factor is 1")}
    names = names.get(verb, (place / name,))
    with copied(seeds, place, name, "config.json", bad) as here, ours(place, *names):
        if verb == "load":
            computes(load(here)[0])
        elif verb == "layout":
            run = hcviz.Run.of(here)
            assert set(run.layout) >= set(run.names())
            assert run.is_clone in (True, False)
        elif verb == "clone":
            done = hcviz.clone_checkpoint(here, place / "out", progress=False, check="full")
            assert done.path is None or done.report.passed
        elif verb == "target":
            hcviz.clone_checkpoint(
                seeds / name, place / "out", to_config=here, progress=False, check="twin"
            )
        else:
            hcviz.declone(load(here)[0])


RUN_FILES = [
    *("run.json", "trainer_state.json", "metrics.parquet", "checkpoint-1/config.json"),
    *("checkpoint-2/trainer_state.json", "checkpoint-2/resume.json", "checkpoint-0/config.json"),
]


@inputs(0.15, 12)
@given(data=st.data())
def test_run_files(seeds, place, data):
    file = data.draw(st.sampled_from(RUN_FILES))
    whole = (seeds / "run" / file).read_bytes()
    bad = data.draw(damaged(whole) if file.endswith("parquet") else bad_json(whole))
    with copied(seeds, place, "run", file, bad) as here, ours(place, here):
        see_run(hcviz.Run(here), data)
    if file in ("run.json", "checkpoint-2/resume.json") and not data.draw(st.integers(0, 9)):
        with copied(seeds, place, "run", file, bad) as here, ours(place, place / "out"):
            shutil.copytree(here, place / "out")
            hcviz.train(
                seeds / "llama", out=place / "out", corpus=str(seeds / "text.jsonl"), steps=2,
                batch_size=2, context=16, progress=False,
            )  # fmt: skip


def see_run(run, data):
    """Look at a run from a side that is drawn."""
    look = data.draw(st.sampled_from(["history", "name", "metrics", "measure", "texts", "speed"]))
    if look == "history":
        assert list(run.history.columns) == HISTORY
        assert run.history["loss"].dtype == float
        assert run.history["step"].dtype == int
    elif look == "name":
        assert isinstance(run.name, str)
        assert str(run.factors)
    elif look == "metrics":
        assert set(run.metrics.columns) >= set(COLUMNS)
        assert run.metrics["value"].dtype == float
    elif look == "speed":
        hcviz.speedup(run.history, against=run.name)
    else:
        metrics = ["cosine", "ledger"] if look == "measure" else ["twins"]
        frame = hcviz.measure(run, metrics=metrics, tensors="o_proj", cache=False)
        assert frame["value"].dtype == float


@inputs(0.05, 4)
@given(data=st.data())
def test_measured_numbers_that_were_kept(seeds, place, data):
    with copied(seeds, place, "run") as here, ours(place):

        def measured():
            return hcviz.measure(here, metrics=["cosine", "norm"], tensors="layers.0.*o_proj")

        first, base = measured(), here / ".hcviz-cache" / "metrics.sqlite"
        if data.draw(st.booleans()):
            base.write_bytes(data.draw(damaged(base.read_bytes())))
        else:
            with contextlib.closing(sqlite3.connect(base)) as kept, kept:
                entries = kept.execute("SELECT what, rows FROM kept").fetchall()
                what, rows = data.draw(st.sampled_from(entries))
                bad = data.draw(bad_json(rows.encode()) | st.sampled_from([None, 1, "[]", b"[]"]))
                if isinstance(bad, bytes) and data.draw(st.booleans()):
                    bad = bad.decode(errors="replace")
                bad = data.draw(st.sampled_from([rows for _, rows in entries] + [bad] * 4))
                kept.execute("UPDATE kept SET rows = ? WHERE what = ?", (bad, what))
        pd.testing.assert_frame_equal(measured(), first)


@inputs(0.12, 15)
@given(data=st.data())
def test_recordings(seeds, place, data):
    file = data.draw(st.sampled_from(["recorded.json", "metrics.parquet", "metrics.parquet"]))
    whole = (seeds / "recorded" / file).read_bytes()
    if file == "recorded.json":
        bad = data.draw(bad_json(whole))
    elif data.draw(st.booleans()):
        bad = data.draw(damaged(whole))
    else:
        bad = data.draw(bad_frame(pd.read_parquet(seeds / "recorded" / file)))
    with copied(seeds, place, "recorded", file, bad) as here, ours(place, here):
        found = recorded(str(here))
        assert set(found.frame.columns) >= set(COLUMNS)
        assert found.frame["value"].dtype == float
        assert pd.api.types.is_integer_dtype(found.frame["step"])
        assert list(found.history.columns) == HISTORY
        assert len(found.metric("cosine")) <= len(found.frame)
        assert [run.name for run in found.runs]


@inputs(0.1, 10)
@given(data=st.data())
def test_indices_of_shards(seeds, place, data):
    file = "model.safetensors.index.json"
    bad = data.draw(bad_json((seeds / "shards" / file).read_bytes()))
    with copied(seeds, place, "shards", file, bad) as here, ours(place, here):
        if data.draw(st.booleans()):
            model, right = load(here)[0], load(seeds / "shards")[0]
            assert all(map(torch.equal, model.state_dict().values(), right.state_dict().values()))
        else:
            run = hcviz.Run.of(here)
            assert all(torch.is_tensor(run.tensor(name)) for name in run.names())


@inputs(0.15, 15)
@given(data=st.data())
def test_weights(seeds, place, data):
    file = "model.safetensors"
    whole = (seeds / "llama" / file).read_bytes()
    size = 8 + struct.unpack("<Q", whole[:8])[0]
    head = data.draw(bad_json(whole[8:size]) | damaged(whole[8:size]))
    bad = struct.pack("<Q", len(head)) + head + whole[size:]
    bad = data.draw(st.just(bad) | damaged(whole[: size + 8]).map(lambda x: x + whole[size + 8 :]))
    with copied(seeds, place, "llama", file, bad) as here, ours(place, here):
        if data.draw(st.booleans()):
            computes(load(here)[0])
        else:
            run = hcviz.Run.of(here)
            assert all(torch.is_tensor(run.tensor(name)) for name in run.names())


LINES = ['{"text": "One thing and another."}', '{"text": "Then a third thing."}'] * 9


@inputs(0.14, 20)
@given(data=st.data())
def test_texts(place, data):
    path = place / data.draw(st.sampled_from(["text.jsonl", "text.jsonl", "text.txt"]))
    whole = "\n".join(LINES).encode()
    at = data.draw(st.integers(0, len(LINES) - 1))
    line = data.draw(bad_json(LINES[at].encode()) | st.sampled_from(BYTES))
    other = b"\n".join([*map(str.encode, LINES[:at]), line, *map(str.encode, LINES[at + 1 :])])
    path.write_bytes(data.draw(st.just(other) | damaged(whole)))
    with ours(place, path):
        corpus = load_corpus(path, tokenizer=tiny.tokenizer(), context=8, holdout=0.2)
        assert corpus.train.shape[1] == corpus.heldout.shape[1] == 8
        assert math.isfinite(corpus.bytes_per_token)


TYPED = [*map(str, NUMBERS), *WORDS, "(", "[a-", "*", "(?P<x>", "cuda", "cuda:99", "meta", "gpu:x"]
TYPED += ["2", "1.5", "3/2", "float32", "int8", "asv:1", "grammar:-1", "grammar:0", "hf:", "0,1"]
TYPED += ["ffn=2", "ffn=x,heads=", "=", "hidden_size=64", "1.2.3GB", "5", "5XB", "none", "a.csv"]
COMMANDS = {
    "clone SRC out": "hidden ffn heads kv-heads head-dim expert-ffn to-config expansion snr-db "
    "seed tie dtype max-shard-size check device",
    "verify SRC SRC": "dtype device csv",
    "declone WIDE out": "overwrite",
    "deepen SRC out": "layers method",
    "train SRC --out out --steps 1 --batch-size 1 --context 8": "corpus steps batch-size context "
    "lr dropout seed snapshots keep snapshot-dtype disk-budget metrics metric-tensors label device "
    "dtype",
    "measure RUN": "metrics tensors steps out",
    "plot RUN --out out/x": "figure out tensors steps",
    "diff SRC WIDE": "factors top out",
}


@inputs(0.04, 5)
@given(data=st.data())
def test_command_line(seeds, place, data):
    command = data.draw(st.sampled_from(list(COMMANDS)))
    option = data.draw(st.sampled_from(COMMANDS[command].split()))
    words = [f"--{option}", *data.draw(st.lists(st.sampled_from(TYPED), min_size=1, max_size=2))]
    words = [word.replace("\x00", "") for word in words]
    if "train" in command and option == "steps":
        assume(not {"1000000", "1000000000"} & {*words})  # hours, as asked
    free = [place] if option in ("out", "csv") else []
    with copied(seeds, place, "run") as here, ours(place, free=free):
        names = {"SRC": seeds / "llama", "WIDE": seeds / "shards", "RUN": here}
        text = [str(names.get(word, word)) for word in command.split()] + words
        if "train" in command and option != "corpus":
            text += ["--corpus", str(seeds / "text.jsonl")]
        assert exit_code(text) in (0, 1, 2)


def exit_code(words):
    """Run a command in this process, silent."""
    before, sys.argv = sys.argv, ["hcviz", *words]
    with open(os.devnull, "w", errors="replace") as nowhere:
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                cli.main()
        except SystemExit as stop:
            return stop.code or 0
        finally:
            sys.argv = before

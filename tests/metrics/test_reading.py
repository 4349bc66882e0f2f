"""What measure() reads, keeps and measures again."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import hcviz
from hcviz.architecture.axes import Dim
from hcviz.architecture.factors import read_factors
from hcviz.architecture.infer import infer
from hcviz.architecture.segments import segments
from hcviz.cloning.declone import declone
from hcviz.io.checkpoint import Stored
from hcviz.metrics import METRICS, metric
from hcviz.metrics._reading import code_files
from hcviz.runs import rows as tables
from hcviz.runs.run import Run
from hcviz.statistics.marchenko import density
from hcviz.widening.expansion import widen
from hcviz.widening.layout import layout

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    wide = hcviz.clone(tiny.model(), hidden=2, expansion="noisy-symmetric")
    return hcviz.train(
        wide, out=folder / "wide", corpus=tiny.write_text(folder), tokenizer=tiny.tokenizer(),
        steps=4, snapshots=[1, 2], batch_size=2, context=16, eval_blocks=2, progress=False,
    )  # fmt: skip


@pytest.fixture
def run(whole, tmp_path):
    """A copy that a test may spoil."""
    return Run(shutil.copytree(whole.path, tmp_path / "run", ignore=lambda *_: [tables.CACHE]))


@pytest.fixture
def reads(monkeypatch):
    """The tensors that are read: (step, name)."""
    seen, read = [], Stored.tensor

    def watched(self, name):
        seen.append((int(self.folder.name.split("-")[1]), name))
        return read(self, name)

    monkeypatch.setattr(Stored, "tensor", watched)
    return seen


def test_every_tensor_is_read_once_whatever_is_asked_of_it(run, reads):
    @metric("moved", needs_clone=False, needs=("start", "previous"))
    def moved(weight, axes, factors, start, previous):
        yield {"value": (weight - (start if previous is None else previous)).abs().max().item()}

    frame = hcviz.measure(
        run, metrics=["ledger", "update.ledger", "moved"], tensors=["mlp"], steps=[0, 2, 4]
    )
    METRICS.pop("moved")
    names = [name for name in run.names() if "mlp" in name]
    assert sorted(reads) == sorted((step, name) for step in run.steps for name in names)
    by_step = frame[frame["metric"] == "moved"].groupby("step")["value"].max()
    assert by_step[0] == 0
    assert (by_step[[2, 4]] > 0).all()


def test_what_was_measured_is_not_read_again(run, reads):
    first = hcviz.measure(run, metrics=["ledger", "pairs"], tensors="mlp")
    assert reads
    reads.clear()
    again = hcviz.measure(run, metrics=["pairs", "ledger"], tensors="mlp", steps=run.steps)
    assert reads == []
    key = ["step", "tensor", "metric", "axis", "row", "col"]
    pairs = [frame.sort_values(key, ignore_index=True) for frame in (first, again)]
    assert pairs[0].equals(pairs[1])
    hcviz.measure(run, metrics=["ledger", "update.ledger"], tensors="up_proj", steps=[1])
    assert {name for _, name in reads} == {name for name in run.names() if "up_proj" in name}


def test_another_content_is_measured_again(run, reads):
    kwargs = {"metrics": ["ledger", "update.ledger"], "tensors": NAME}
    before = hcviz.measure(run, **kwargs)
    path, other = (run.path / f"checkpoint-{step}" / "model.safetensors" for step in (2, 4))
    shutil.copy(other, path)
    os.utime(path, ns=(1, 1))
    reads.clear()
    after = hcviz.measure(run, **kwargs)
    assert (0, NAME) not in reads  # nothing that was kept of the others is read for itself
    assert not before.equals(after)
    values = after[after["metric"] == "ledger"].groupby("step")["value"].sum()
    assert values[2] == values[4]
    assert after.query("metric == 'update.ledger' and step == 4")["value"].eq(0).all()
    assert after.equals(hcviz.measure(run, **kwargs, cache=False))


def test_other_factors_are_measured_again(run):
    both = Run.of(run.path, factors={"hidden": 2})
    ffn = Run.of(run.path, factors={"hidden": 1, "ffn": 2, "heads": 1})
    assert set(hcviz.measure(both, metrics=["ledger"], tensors=NAME)["axis"]) == {"N", "R"}
    assert set(hcviz.measure(ffn, metrics=["ledger"], tensors=NAME)["axis"]) == {"N"}


OTHER = """
import sys, pathlib, hcviz.metrics
from hcviz.metrics._reading import code_files
root = pathlib.Path(hcviz.__file__).parents[1]
loaded = {m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "hcviz"}
files = set(map(str, code_files("hcviz.metrics", root)))
print(sorted(loaded - files), len(loaded) > 30, any("plots" in name for name in files), root)
hcviz.measure(sys.argv[1], metrics=["ledger"], tensors=sys.argv[2])
"""


@pytest.fixture(scope="module")
def other(whole, tmp_path_factory):
    """What a version of hcviz that cannot read a weight says of a run that this one measured."""
    run = Run(shutil.copytree(whole.path, tmp_path_factory.mktemp("measured") / "run"))
    hcviz.measure(run, metrics=["ledger"], tensors=NAME)
    root = tmp_path_factory.mktemp("other").resolve()
    shutil.copytree(Path(hcviz.__file__).parent, root / "hcviz")
    with (root / "hcviz" / "io" / "checkpoint.py").open("a", encoding="utf-8") as file:
        file.write("\n\nStored.tensor = None\n")
    words = [sys.executable, "-c", OTHER, str(run.path), NAME]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False)
    return root, done.stdout, done.stderr


def test_other_code_is_measured_again(other):
    assert other[2].strip().endswith("'NoneType' object is not callable")


def test_all_code_that_metrics_load_or_import_later_tells_their_results(other):
    """What importing and measuring load, by whatever way, is in the hash."""
    assert other[1].split() == ["[]", "True", "False", str(other[0])]
    files = code_files("hcviz.metrics", Path(hcviz.__file__).parents[1])
    deciding = (Dim, segments, widen, infer, read_factors, density, declone, layout, Run, Stored)
    assert {Path(inspect.getfile(inspect.unwrap(one))) for one in deciding} <= set(files)


def test_imports_are_followed_into_functions_and_packages(tmp_path):
    texts = {
        "own/__init__.py": "",
        "own/numbers/__init__.py": "from own.numbers._one import one",
        "own/numbers/_one.py": "import math\ndef one():\n    from own.base import axes, infer",
        "own/base/__init__.py": "from own.base.deep import x",
        "own/base/axes.py": "import own.errors as e",
        "own/base/infer.py": "import numpy",
        "own/base/deep/__init__.py": "x = 1",
        "own/base/alone.py": "",
        "own/errors.py": "",
        "own/plots.py": "import own.numbers",
        "numpy.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    left_out = {"own/base/alone.py", "own/plots.py", "numpy.py"}
    files = code_files("own.numbers", tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in files} == texts.keys() - left_out


def test_a_place_that_cannot_be_written_is_measured_all_the_same(run):
    (run.path / tables.CACHE).write_text("a file where the folder would go")
    assert len(hcviz.measure(run, metrics=["ledger"], tensors=NAME)) == 2 * len(run.steps)


def test_a_damaged_cache_does_no_harm(run):
    frame = hcviz.measure(run, metrics=["ledger"], tensors=NAME)
    (run.path / tables.CACHE / "metrics.sqlite").write_bytes(b"no database at all" * 100)
    assert frame.equals(hcviz.measure(run, metrics=["ledger"], tensors=NAME))


def test_cache_false_leaves_nothing_behind(run):
    hcviz.measure(run, metrics=["ledger"], tensors=NAME, cache=False)
    assert not (run.path / tables.CACHE).exists()


def test_rows_of_a_run_that_goes_on_are_read_up_to_the_cut_line(tmp_path):
    line = '{"step": 1, "tensor": "a", "metric": "ledger", "value": 0.5}\n'
    (tmp_path / tables.LIVE).write_text(line + line[:20])
    assert list(tables.read_live(tmp_path)["value"]) == [0.5]
    tables.finish_live(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [tables.WHOLE]
    assert list(tables.read_live(tmp_path)["value"]) == [0.5]


def test_moments_of_another_training_in_the_same_place_are_read_anew(run):
    """A folder's name does not tell what lies in it."""
    path = run.path / "checkpoint-4" / "optimizer.pt"
    asked = {"metrics": ["exp_avg.norm"], "tensors": NAME, "steps": [4]}
    before = hcviz.measure(run, **asked)["value"].item()
    state = torch.load(path, weights_only=True)
    for moments in state["state"].values():
        moments["exp_avg"] *= 2
    path.unlink()  # as another training does: what is mapped stays as it was
    torch.save(state, path)
    os.utime(path, ns=(1, 1))
    assert hcviz.measure(run, **asked)["value"].item() == pytest.approx(2 * before)
    fresh = hcviz.measure(Run(run.path), **asked, cache=False)["value"].item()
    assert fresh == pytest.approx(2 * before)


def test_a_run_that_is_trained_again_in_its_place_is_another(run, tmp_path):
    """The same object follows what lies in its folder: factors, axes and steps."""
    assert (run.factors["hidden"], run.config.hidden_size) == (2, 32)
    wide = hcviz.clone(tiny.model(), hidden=3)
    assert hcviz.measure(run, metrics=["ledger"], tensors=NAME)["step"].nunique() == 4
    shutil.rmtree(run.path)
    wide.save_pretrained(run.path / "checkpoint-0")
    assert (run.steps, run.factors["hidden"], run.config.hidden_size) == ([0], 3, 48)
    frame = hcviz.measure(run, metrics=["ledger"], tensors=NAME)
    assert frame["value"].eq(0).all()
    assert run.blocks(NAME).shape[:2] == (3, 3)


def test_two_that_measure_a_run_at_once_both_keep_what_they_found(tmp_path):
    one, other = tables.Cache(tmp_path), tables.Cache(tmp_path)
    one.put("a", "mark", [{"value": 1}])
    other.put("b", "mark", [{"value": 2}])
    other.commit()
    assert one.get("b", "mark") == [{"value": 2}]
    one.commit()
    assert other.get("a", "mark") == [{"value": 1}]

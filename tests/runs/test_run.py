"""hcviz.runs.run."""

import json
import shutil

import pandas as pd
import pytest
import tiny
import torch

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import Checkpoint
from hcviz.runs.run import HISTORY, Run
from hcviz.text.corpus import load_corpus
from hcviz.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps that started from a clone; read only."""
    from hcviz.cloning.clone import clone

    folder = tmp_path_factory.mktemp("runs")
    corpus = load_corpus(tiny.write_text(folder), tokenizer=tiny.tokenizer(), context=16)
    wide = clone(tiny.model(tie_word_embeddings=True), hidden=2)
    options = {"steps": 3, "snapshots": [1], "batch_size": 2, "progress": False}
    return train(wide, out=folder / "clone", corpus=corpus, label="my clone", **options)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that a test may spoil."""
    return Run(shutil.copytree(run.path, tmp_path / "copy"))


def test_a_run_knows_its_name_and_steps(run):
    assert (run.name, run.steps) == ("my clone", [0, 1, 3])
    assert repr(run).startswith("Run(")
    assert "steps 0 to 3" in repr(run)


def test_the_clone_recipe_is_recorded(run):
    assert run.is_clone
    assert run.factors["hidden"] == 2
    assert run.info["clone"]["factors"] == run.factors
    saved = json.loads((run.path / "checkpoint-3" / "config.json").read_text())
    assert saved["hcviz"]["factors"] == run.factors


def test_history_is_tidy(run):
    history = run.history
    assert list(history.columns) == HISTORY
    assert set(history.split) == {"train", "heldout"}
    assert set(history.run) == {"my clone"}
    assert history.loss.notna().all()
    assert history[history.split == "train"].lr.notna().all()
    assert not history.duplicated(["step", "split"]).any()


def test_a_tensor_is_the_models(run):
    model = run.model(3)
    assert not model.training
    stored = run.names(3)
    assert "lm_head.weight" not in stored  # tied to the embedding, stored once
    assert set(stored) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        assert torch.equal(run.tensor(name, 3), weight)


def test_the_last_step_is_the_default(run):
    name = run.names()[0]
    assert torch.equal(run.tensor(name), run.tensor(name, 3))
    assert not torch.equal(run.tensor(name), run.tensor(name, 0))


def test_reading_a_tensor_reads_no_other(run, monkeypatch):
    taken, read = [], Checkpoint.tensor

    def watched(self, key, **options):
        taken.append(key)
        return read(self, key, **options)

    monkeypatch.setattr(Checkpoint, "tensor", watched)
    name = run.names()[2]
    run.tensor(name, 1)
    assert taken == [name]


def test_blocks_are_a_grid_of_source_shapes(run):
    name = "model.layers.0.mlp.up_proj.weight"
    blocks = run.blocks(name, 0)
    assert tuple(blocks.shape) == (2, 2, 32, 16)
    wide = run.tensor(name, 0)
    assert torch.equal(blocks[0, 1], wide[:32, 16:])
    assert torch.equal(blocks[0, 0], blocks[1, 1])


def test_a_run_of_no_clone_has_no_blocks(copy):
    info = copy.info
    info["clone"] = None
    (copy.path / "run.json").write_text(json.dumps(info))
    assert not copy.is_clone
    with pytest.raises(HcvizError, match="did not start from a clone"):
        copy.blocks("model.layers.0.mlp.up_proj.weight")


def test_what_is_not_there_is_named(run, tmp_path):
    with pytest.raises(HcvizError, match="no snapshot at step 2; it has 0, 1, 3"):
        run.tensor(run.names()[0], 2)
    with pytest.raises(
        HcvizError, match=r"no tensor 'layers\.0\.up_proj\.weight' .*mlp\.up_proj\.weight"
    ):
        run.tensor("layers.0.up_proj.weight")
    with pytest.raises(HcvizError, match=r"There is no folder '.*nowhere' .*hcviz train wrote"):
        Run(tmp_path / "nowhere")
    with pytest.raises(HcvizError, match="holds no whole checkpoint"):
        Run(tmp_path)


def test_a_truncated_file_is_named(copy):
    path = copy.path / "checkpoint-1" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    for read in (copy.names, copy.model):
        with pytest.raises(HcvizError, match=r"checkpoint-1.*cut short; delete its checkpoint"):
            read(1)
    assert copy.tensor(copy.names(3)[0], 3) is not None


def test_unfinished_folders_do_not_count(copy):
    (copy.path / "checkpoint-2").mkdir()
    (copy.path / "checkpoint-2" / ".tmp-model.safetensors").write_bytes(b"half")
    (copy.path / "checkpoint-best").mkdir()
    assert copy.steps == [0, 1, 3]


def test_a_run_that_is_still_going_has_a_history(copy):
    (copy.path / "trainer_state.json").unlink()
    shutil.rmtree(copy.path / "checkpoint-3")
    assert copy.history.step.max() == 1
    (copy.path / "run.json").unlink()
    assert copy.name == "copy"
    assert copy.info == {}
    assert copy.is_clone  # the checkpoints' configuration says so


def test_sharded_checkpoints_are_read(copy):
    whole = {name: copy.tensor(name, 3) for name in copy.names(3)}
    folder = copy.path / "checkpoint-3"
    model = copy.model(3)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert copy.names(3) == sorted(whole)
    assert all(torch.equal(copy.tensor(name, 3), weight) for name, weight in whole.items())
    next(folder.glob("model-*.safetensors")).unlink()
    assert copy.steps == [0, 1]


def test_an_empty_history_is_an_empty_frame(copy):
    for path in copy.path.rglob("trainer_state.json"):
        path.unlink()
    assert isinstance(copy.history, pd.DataFrame)
    assert copy.history.empty
    assert list(copy.history.columns) == HISTORY

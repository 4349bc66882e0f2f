"""Partial snapshots, their dtype, and a budget that is told first and kept."""

import shutil

import pytest
import tiny
import torch

import hcviz
from hcviz.errors import HcvizError
from hcviz.training.snapshots import Keeping, plan

SHORT = {"steps": 6, "snapshots": [2, 4], "batch_size": 2, "lr": 1e-2, "progress": False}
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(wide, corpus, tmp_path_factory):
    return hcviz.train(wide, out=tmp_path_factory.mktemp("w") / "run", corpus=corpus, **SHORT)


@pytest.fixture(scope="module")
def thin(wide, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("t") / "run"
    options = {"keep": "up_proj", "snapshot_dtype": "bfloat16", **SHORT}
    return hcviz.train(wide, out=out, corpus=corpus, **options)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_older_snapshots_keep_the_chosen_tensors_and_the_newest_all(thin, whole):
    assert thin.steps == [0, 2, 4, 6]
    assert thin.names(2) == [name for name in whole.names() if "up_proj" in name]
    assert thin.names(6) == whole.names(6)
    assert torch.equal(thin.tensor(UP, 2), whole.tensor(UP, 2).bfloat16())
    assert torch.equal(thin.tensor(UP, 6), whole.tensor(UP, 6))
    assert (thin.path / "checkpoint-6" / "optimizer.pt").is_file()
    assert not list(thin.path.rglob(".tmp*"))


def test_a_whole_model_is_refused_where_there_is_none(thin):
    with pytest.raises(HcvizError, match=r"step 2 run .* keeps 2 tensors only .*steps 6;"):
        thin.model(2)
    assert thin.model(6) is not None
    with pytest.raises(HcvizError, match=r"no tensor 'lm_head\.weight' at step 2.*'up_proj' finds"):
        thin.tensor("lm_head.weight", 2)


def test_measure_takes_what_each_snapshot_has(thin):
    frame = hcviz.measure(thin, metrics=["ledger"], cache=False)
    steps = frame.groupby("tensor")["step"].unique().map(list)
    assert steps[UP] == [0, 2, 4, 6]
    assert steps["lm_head.weight"] == [6]


def test_a_dtype_alone_leaves_models(wide, corpus, tmp_path, whole):
    options = {**SHORT, "snapshot_dtype": "float16"}
    run = hcviz.train(wide, out=tmp_path / "r", corpus=corpus, **options)
    assert run.tensor(UP, 2).dtype == torch.float16
    assert run.model(2).lm_head.weight.shape == whole.model(2).lm_head.weight.shape
    assert size(run.path / "checkpoint-2") < 0.6 * size(whole.path / "checkpoint-2")


def test_an_interrupted_run_goes_on_from_a_whole_checkpoint(thin, wide, corpus, tmp_path):
    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    options = {"out": tmp_path / "run", "corpus": corpus, "keep": "up_proj", **SHORT}
    options["snapshot_dtype"] = "bfloat16"
    with pytest.raises(KeyboardInterrupt):
        hcviz.train(wide, on_log=stop, **options)
    resumed = hcviz.train(wide, **options)
    assert torch.equal(resumed.tensor(UP, 6), thin.tensor(UP, 6))
    assert resumed.names(4) == thin.names(4)


@pytest.mark.parametrize("family", ["mixtral", "gpt_neox"])
def test_shards_and_stored_names_are_thinned_alike(family, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    folder = tmp_path / "checkpoint-3"
    model.save_pretrained(folder, max_shard_size="10KB")
    before = hcviz.Run.of(folder)
    chosen = [name for name in before.names() if "layers.1." in name or "lm_head" in name]
    kept = {name: before.tensor(name) for name in chosen}
    Keeping("layers[.]1[.]|lm_head").thin(folder)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    run = hcviz.Run.of(folder)
    assert run.names() == sorted(kept)
    assert all(torch.equal(run.tensor(name), weight) for name, weight in kept.items())


def test_a_budget_lowers_the_number_of_snapshots_and_is_kept(wide, corpus, tmp_path, capfd):
    options = {**SHORT, "steps": 12, "snapshots": 12}
    full = plan(wide, tiny.tokenizer(), Keeping(), steps=12, snapshots=12)
    budget = int(0.8 * full.peak)
    seen = []
    run = hcviz.train(
        wide, out=tmp_path / "r", corpus=corpus, disk_budget=budget, eval_blocks=2,
        on_log=lambda row: seen.append(size(tmp_path / "r")), **{**options, "progress": True},
    )  # fmt: skip
    assert 2 < len(run.steps) < len(full.steps)
    assert max(*seen, size(run.path)) <= budget
    told = capfd.readouterr().err.partition("\n")[0]
    assert told.startswith(f"r: {len(run.steps)} snapshots of ")
    assert "GB on the disk" in told


def test_the_most_that_lies_on_the_disk_is_what_was_told(wide, corpus, tmp_path, monkeypatch):
    from hcviz.training.trainer import Snapshots

    planned = plan(wide, tiny.tokenizer(), Keeping("up_proj"), steps=6, snapshots=[2, 4])
    peaks, finish = [], Snapshots.on_save

    def watched(self, args, *rest, **kwargs):
        peaks.append(size(tmp_path / "r"))
        finish(self, args, *rest, **kwargs)

    monkeypatch.setattr(Snapshots, "on_save", watched)
    hcviz.train(wide, out=tmp_path / "r", corpus=corpus, keep="up_proj", **SHORT)
    assert 0.7 * planned.peak < max(peaks) <= planned.peak


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disk_budget": "10kB"}, r"'10kB' is too small: 4 snapshots of .*keep=\.\.\."),
        ({"disk_budget": "10kB", "snapshots": 5}, "is too small: 2 snapshots"),
        ({"disk_budget": "much"}, "'much' is no size"),
        ({"keep": "nowhere"}, "keep='nowhere' finds no tensor of the model"),
        ({"snapshot_dtype": "int8"}, "use bfloat16, float16 or float32"),
        ({"snapshot_dtype": "pfloat"}, "use bfloat16, float16 or float32"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(wide, corpus, tmp_path, options, message):
    with pytest.raises(HcvizError, match=message):
        hcviz.train(wide, out=tmp_path / "r", corpus=corpus, **{**SHORT, **options})
    assert not (tmp_path / "r").exists()


def test_a_full_disk_is_seen_by_the_plan(wide, corpus, tmp_path, monkeypatch):
    planned = plan(wide, tiny.tokenizer(), Keeping(), steps=6, snapshots=[2, 4])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=planned.peak - 1))
    with pytest.raises(HcvizError, match="A run of 4 snapshots needs"):
        hcviz.train(wide, out=tmp_path / "r", corpus=corpus, **SHORT)

"""hcviz.training.train and the rooms it is made of: trainer, record, arguments."""

import json
import math
import shutil

import pytest
import tiny
import torch

from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.training.schedule import BlockOrder
from hcviz.training.train import train

SHORT = {"steps": 6, "snapshots": [2, 4], "batch_size": 4, "lr": 1e-2, "progress": False}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A whole run of the arguments in SHORT; read only."""
    return train(tiny.model(), out=tmp_path_factory.mktemp("runs") / "one", corpus=corpus, **SHORT)


def weights(run, step):
    return {name: run.tensor(name, step) for name in run.names(step)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(run):
    return run.history[["step", "split", "loss"]].to_numpy().tolist()


# what a run leaves


def test_a_run_is_a_trainer_folder_with_a_record(run):
    assert run.steps == [0, 2, 4, 6]
    assert {"checkpoint-0", "checkpoint-6", "run.json", "trainer_state.json"} <= {
        path.name for path in run.path.iterdir()
    }
    info = run.info
    assert (info["status"], info["label"], info["world_size"]) == ("done", "one", 1)
    assert info["tokens"] == 6 * 4 * 16
    assert info["epochs"] == pytest.approx(6 * 4 / info["corpus"]["train_tokens"] * 16, abs=1e-3)
    assert info["corpus"]["origin"] == {"file": "text.jsonl"}
    assert {"python", "torch", "transformers"} <= info["versions"].keys()
    assert torch.backends.cpu.get_cpu_capability() in info["machine"]
    assert not list(run.path.rglob(".tmp*"))


def test_the_first_snapshot_is_the_model_as_it_came(run):
    model = tiny.model()
    state = {name: weight for name, weight in model.state_dict().items() if name in run.names(0)}
    assert same(weights(run, 0), state)
    assert not same(weights(run, 6), state)


def test_the_model_that_was_given_is_left_alone(corpus, tmp_path):
    model = tiny.model().eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train(
        model,
        out=tmp_path / "r",
        corpus=corpus,
        dropout=0.1,
        **{**SHORT, "steps": 2, "snapshots": 2},
    )
    assert same(before, model.state_dict())
    assert model.config.attention_dropout == 0.0
    assert not model.training


def test_only_the_newest_checkpoint_can_be_resumed(run):
    states = {path.parent.name for path in run.path.glob("checkpoint-*/optimizer.pt")}
    assert states == {"checkpoint-6"}


def test_checkpoints_load_with_stock_classes(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run.path / "checkpoint-4"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(folder).decode([0]) == "<|endoftext|>"
    assert model.config.use_cache
    mode = (folder / "config.json").stat().st_mode
    assert (folder / "model.safetensors").stat().st_mode == mode


def test_history_holds_training_and_heldout_losses(run):
    history = run.history
    assert list(history[history.split == "heldout"].step) == [0, 2, 4, 6]
    assert list(history[history.split == "train"].step) == [1, 2, 3, 4, 5, 6]
    assert history.loss.iloc[0] == pytest.approx(math.log(2048), abs=0.2)
    assert list(history.tokens) == [step * 64 for step in history.step]
    assert history.seconds.is_monotonic_increasing


def test_the_rate_warms_up_and_decays_to_a_tenth(corpus, tmp_path):
    options = {**SHORT, "steps": 10, "snapshots": 2, "warmup": 0.2, "lr": 0.01}
    rates = train(tiny.model(), out=tmp_path / "r", corpus=corpus, **options).history.lr.dropna()
    assert rates.iloc[0] == pytest.approx(0.005)
    assert rates.max() == pytest.approx(0.01)
    assert 0.001 <= rates.iloc[-1] < 0.0016


def test_the_heldout_loss_is_that_of_the_fixed_blocks(run, corpus):
    blocks = torch.stack([item["input_ids"] for item in BlockOrder(corpus.heldout, count=32)])
    with torch.no_grad():
        loss = run.model(6)(input_ids=blocks, labels=blocks).loss.item()
    assert run.history.query("split == 'heldout'").loss.iloc[-1] == pytest.approx(loss, rel=1e-5)


def test_training_learns(corpus, tmp_path):
    options = {**SHORT, "steps": 40, "snapshots": 2}
    history = train(tiny.model(), out=tmp_path / "r", corpus=corpus, **options).history
    heldout = history[history.split == "heldout"].loss
    assert heldout.iloc[-1] < heldout.iloc[0] - 1


# the same for every arm, and again


def test_the_same_request_gives_the_same_run(run, corpus, tmp_path):
    again = train(tiny.model(), out=tmp_path / "again", corpus=corpus, **SHORT)
    assert losses(again) == losses(run)
    assert same(weights(again, 6), weights(run, 6))


def test_every_arm_sees_the_same_batches(corpus, tmp_path):
    seen = {}

    def watch(arm, model):
        def note(module, args, kwargs):
            if module.training:
                seen.setdefault(arm, []).append(kwargs["input_ids"].clone())

        model.register_forward_pre_hook(note, with_kwargs=True)
        return model

    options = {**SHORT, "steps": 3, "snapshots": 2, "corpus": corpus}
    train(watch("small", tiny.model()), out=tmp_path / "a", **options)
    train(
        watch("wide", tiny.model("gpt_neox", hidden_size=32)),
        out=tmp_path / "b",
        dropout=0.2,
        **options,
    )
    train(watch("other", tiny.model()), out=tmp_path / "c", seed=1, **options)
    batches = {arm: torch.stack(found) for arm, found in seen.items()}
    assert batches["small"].shape == (3, 4, 16)
    assert torch.equal(batches["small"], batches["wide"])
    assert not torch.equal(batches["small"], batches["other"])


def test_accumulation_and_other_trainer_arguments_pass_through(run, corpus, tmp_path):
    split = {"gradient_accumulation_steps": 2}
    parts = train(tiny.model(), out=tmp_path / "r", corpus=corpus, trainer_args=split, **SHORT)
    ours, theirs = losses(run), losses(parts)
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], abs=1e-4)


# going on, and not losing anything


def test_a_whole_run_is_returned_as_it_is(run, corpus):
    rows = []
    again = train(tiny.model(), out=run.path, corpus=corpus, on_log=rows.append, **SHORT)
    assert again.steps == run.steps
    assert rows == []


def test_another_request_does_not_touch_a_run(run, corpus):
    before = (run.path / "run.json").read_text()
    with pytest.raises(
        HcvizError, match=r"differs in lr, seed\. Use --overwrite .* or another --out"
    ):
        train(tiny.model(), out=run.path, corpus=corpus, **{**SHORT, "lr": 1e-3, "seed": 4})
    with pytest.raises(HcvizError, match="differs in model"):
        train(tiny.model(seed=1), out=run.path, corpus=corpus, **SHORT)
    with pytest.raises(HcvizError, match="already holds this run"):
        train(tiny.model(), out=run.path, corpus=corpus, resume=False, **SHORT)
    assert (run.path / "run.json").read_text() == before


def test_overwrite_replaces_a_run_and_nothing_else(run, corpus, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(run.path, out)
    options = {**SHORT, "steps": 2, "snapshots": 2, "corpus": corpus, "overwrite": True}
    assert train(tiny.model(), out=out, **options).steps == [0, 2]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(HcvizError, match="is not a run, so --overwrite does not delete it"):
        train(tiny.model(), out=mine, **options)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_nan_stops_the_run_and_keeps_what_was_good(corpus, tmp_path):
    out = tmp_path / "r"
    with pytest.raises(
        HcvizError, match=r"loss became nan at step \d of 6 .*Lower the learning rate"
    ):
        train(tiny.model(), out=out, corpus=corpus, **{**SHORT, "lr": 1e20, "snapshots": 7})
    run = Run(out)
    assert run.info["status"] == "stopped: HcvizError"
    assert 0 in run.steps
    assert all(
        bool(weight.isfinite().all()) for s in run.steps for weight in weights(run, s).values()
    )


def test_no_disk_is_said_before_the_first_step(corpus, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(HcvizError, match=r"4 snapshots .* GB free"):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, **SHORT)
    assert not (tmp_path / "r").exists()


def test_a_place_that_cannot_be_written_is_said_before_the_first_step(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HcvizError, match=r"Cannot write .*Choose a writable place"):
        train(tiny.model(), out=tmp_path / "file" / "r", corpus=corpus, **SHORT)


def test_a_disk_that_fills_up_keeps_the_snapshots(corpus, tmp_path, monkeypatch):
    from hcviz.training.trainer import SnapshotTrainer

    save = SnapshotTrainer.save_model

    def full(self, output_dir=None, _internal_call=False):
        if output_dir.endswith("-4"):
            raise OSError(28, "No space left on device")
        save(self, output_dir, _internal_call)

    monkeypatch.setattr(SnapshotTrainer, "save_model", full)
    with pytest.raises(
        HcvizError, match=r"stopped at step 4 .*the disk is full.*run the same command"
    ):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, **SHORT)
    assert Run(tmp_path / "r").steps == [0, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"warmup": 2}, "warmup is a share"),
        ({"schedule": "cosine"}, "Unknown schedule 'cosine'. Use one of cosine-to-tenth"),
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
        ({"snapshots": 1}, "snapshots must be at least 2"),
        ({"snapshots": [99]}, r"snapshots at \[99\] lie outside"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"device": "meta"}, "The device 'meta' cannot be used"),
        ({"trainer_args": {"seed": 3}}, "may not hold seed"),
        ({"trainer_args": {"sede": 3}}, "The Trainer refuses"),
        ({"trainer_args": {"gradient_accumulation_steps": 3}}, "Use a multiple of 3"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(changes, message, corpus, tmp_path):
    with pytest.raises(HcvizError, match=message):
        train(tiny.model(), out=tmp_path / "r", **{**SHORT, "corpus": corpus, **changes})
    assert not (tmp_path / "r").exists()


def test_text_that_does_not_fit_the_model_is_refused(corpus, tmp_path):
    options = {**SHORT, "out": tmp_path / "r", "tokenizer": tiny.tokenizer()}
    with pytest.raises(HcvizError, match="context 16 is longer than the model's 8 positions"):
        train(tiny.model(max_position_embeddings=8), corpus=corpus, **options)
    with pytest.raises(HcvizError, match="the model has 100"):
        train(tiny.model(vocab_size=100), corpus=corpus, **options)
    with pytest.raises(HcvizError, match="No tokenizer was found"):
        train(tiny.model(vocab_size=100), corpus="asv", out=tmp_path / "r")


# what is shown


def test_silence_is_silent(corpus, tmp_path, capfd):
    train(tiny.model(), out=tmp_path / "r", corpus=corpus, **SHORT)
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_bar_shows_the_losses_and_nothing_else_is_printed(corpus, tmp_path, capfd):
    train(
        tiny.model(), out=tmp_path / "r", corpus=corpus, label="arm", **{**SHORT, "progress": True}
    )
    shown = capfd.readouterr()
    assert shown.out == ""
    last = shown.err.rstrip().split("\r")[-1]
    assert last.startswith("arm: 100%")
    assert "train=" in last
    assert "held-out=" in last
    assert "\n" not in shown.err.rstrip("\n")


def test_the_listener_gets_every_row(corpus, tmp_path):
    rows = []
    run = train(
        tiny.model(), out=tmp_path / "r", corpus=corpus, on_log=rows.append, eval_every=3, **SHORT
    )
    found = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert found == list(run.history.query("split == 'heldout'").loss)
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 2, 3, 4, 6]


def test_dropout_is_kept_with_the_checkpoint(corpus, tmp_path):
    options = {**SHORT, "steps": 1, "snapshots": 2}
    run = train(tiny.model("opt"), out=tmp_path / "r", corpus=corpus, dropout=0.25, **options)
    config = json.loads((run.path / "checkpoint-1" / "config.json").read_text())
    assert (config["dropout"], config["attention_dropout"], config["layerdrop"]) == (
        0.25,
        0.25,
        0.0,
    )
    assert run.model().model.decoder.layers[0].dropout == 0.25

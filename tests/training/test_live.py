"""What is measured while a model trains is what its snapshots would have told."""

import json

import pandas as pd
import pytest
import tiny
import torch

import hcviz
from hcviz.errors import HcvizError
from hcviz.runs import rows as tables

SHORT = {
    "steps": 5,
    "snapshots": [1, 3],
    "batch_size": 2,
    "lr": 1e-2,
    "eval_blocks": 2,
    "progress": False,
}
METRICS = ["ledger", "update.ledger", "exp_avg.ledger", "distance"]
KEY = ["step", "tensor", "metric", "axis"]


@pytest.fixture(scope="module")
def run(wide, corpus, tmp_path_factory):
    """A run measured live at its snapshots; read only."""
    out = tmp_path_factory.mktemp("live") / "run"
    return hcviz.train(wide, out=out, corpus=corpus, metrics=METRICS, **SHORT)


def values(frame):
    return frame.sort_values(KEY, ignore_index=True)[[*KEY, "value"]]


def test_live_rows_are_those_of_the_snapshots(run, wide, corpus, tmp_path):
    plain = hcviz.train(wide, out=tmp_path / "run", corpus=corpus, **SHORT)
    live, later = run.metrics, hcviz.measure(plain, metrics=METRICS)
    assert set(live["step"]) == {0, 1, 3, 5}
    moments = live["metric"] == "exp_avg.ledger"  # older checkpoints drop the optimizer
    assert set(live[moments]["step"]) == {1, 3, 5}
    pd.testing.assert_frame_equal(values(live[~moments | (live["step"] == 5)]), values(later))
    assert not list(run.path.glob("*.jsonl"))
    assert 0 < run.info["metrics_overhead"]


def test_measure_takes_live_rows_and_reads_no_weights_for_them(run, monkeypatch):
    monkeypatch.setattr("hcviz.io.checkpoint.Stored.tensor", None)
    frame = hcviz.measure(run, metrics=["ledger", "update.ledger"], steps=[1, 5], cache=False)
    assert set(frame["step"]) == {1, 5}
    live = run.metrics.query("metric in ('ledger', 'update.ledger') and step in (1, 5)")
    pd.testing.assert_frame_equal(values(frame), values(live))


def test_steps_without_a_snapshot_are_measured(wide, corpus, tmp_path):
    options = {**SHORT, "snapshots": 2, "metric_steps": [2, 4], "metric_tensors": "up_proj"}
    run = hcviz.train(wide, out=tmp_path / "r", corpus=corpus, metrics=["ledger"], **options)
    frame = hcviz.measure(run, metrics=["ledger"], tensors="up_proj")
    assert run.steps == [0, 5]
    assert set(frame["step"]) == {0, 2, 4, 5}


def test_gradients_of_a_locked_clone_have_equal_copies(corpus, tmp_path):
    locked = hcviz.clone(tiny.model(), hidden=2)
    asked = {"metrics": ["grad.ledger", "grad.norm"], "metric_tensors": "mlp"}
    run = hcviz.train(locked, out=tmp_path / "r", corpus=corpus, **asked, **SHORT)
    frame = run.metrics
    assert set(frame["step"]) == {1, 3, 5}
    assert frame.query("metric == 'grad.ledger'")["value"].eq(0).all()
    assert frame.query("metric == 'grad.norm'")["value"].gt(0).all()
    with pytest.raises(HcvizError, match="Gradients are not kept in checkpoints"):
        hcviz.measure(run, metrics=["grad.cosine"], tensors="mlp")


def test_the_gradient_is_the_one_that_the_step_uses(corpus, tmp_path):
    """Plain gradient descent without decay: the update is the rate times the gradient."""
    options = {**SHORT, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    run = hcviz.train(
        tiny.model(), out=tmp_path / "r", corpus=corpus, metrics=["grad.norm"],
        **{**options, "snapshots": [1, 2, 3, 4], "trainer_args": {"optim": "sgd"}},
    )  # fmt: skip
    name = "model.layers.0.mlp.up_proj.weight"
    norms = run.metrics.query("tensor == @name").set_index("step")["value"]
    for step in (2, 5):
        moved = run.tensor(name, step).double() - run.tensor(name, step - 1).double()
        assert moved.norm().item() / 1e-2 == pytest.approx(norms[step], rel=1e-4)


def test_an_interrupted_run_has_every_row_once(run, wide, corpus, tmp_path):
    def stop(row):
        if row["step"] == 4:
            raise KeyboardInterrupt

    options = {"out": tmp_path / "r", "corpus": corpus, "metrics": METRICS, **SHORT}
    with pytest.raises(KeyboardInterrupt):
        hcviz.train(wide, on_log=stop, **options)
    broken = hcviz.Run(tmp_path / "r")
    assert broken.metrics["step"].max() == 3
    with (broken.path / tables.LIVE).open("a") as file:
        again = {"step": 4, "tensor": "of a step that is done again", "metric": "norm", "value": 1}
        file.write(json.dumps(again) + '\n{"st')
    resumed = hcviz.train(wide, **options)
    assert values(resumed.metrics).equals(values(run.metrics))


def test_any_trainer_takes_the_callback(wide, corpus, tmp_path):
    from transformers import Trainer, TrainingArguments

    from hcviz.training.schedule import BlockOrder

    callback = hcviz.MetricsCallback(["ledger", "norm"], tensors=["down_proj"], steps=2)
    data = BlockOrder(corpus.train, count=6, seed=0)
    trainer = Trainer(
        model=hcviz.clone(tiny.model()),
        args=TrainingArguments(
            str(tmp_path), max_steps=3, report_to="none", save_strategy="no", use_cpu=True,
            per_device_train_batch_size=2, disable_tqdm=True, logging_strategy="no",
        ),
        train_dataset=data,
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    frame = tables.read_live(tmp_path)
    assert set(frame["step"]) == {0, 3}
    assert set(frame["metric"]) == {"ledger", "norm"}
    assert callback.overhead > 0
    model = tiny.model()
    plain = hcviz.MetricsCallback(["ledger", "norm"])
    trainer = Trainer(model=model, args=trainer.args, train_dataset=data, callbacks=[plain])
    trainer.train()
    assert set(tables.read_live(tmp_path)["metric"]) == {"norm"}  # no copies, no ledger


def test_trackers_are_given_what_is_measured(wide, corpus, tmp_path, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append({"step": state.global_step, **logs})

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    options = {"out": tmp_path / "r", "corpus": corpus, "metrics": ["ledger", "norm"], **SHORT}
    run = hcviz.train(wide, trainer_args={"report_to": ["tensorboard"]}, **options)
    frame = run.metrics
    last = frame[frame["step"] == run.steps[-1]]
    [row] = [row for row in seen if row["step"] == run.steps[-1] and "ledger/R" in row]
    ledger = last[(last["metric"] == "ledger") & (last["axis"] == "R")]
    assert row["ledger/R"] == pytest.approx(ledger["value"].mean())
    assert row["norm"] == pytest.approx(last[last["metric"] == "norm"]["value"].mean())
    plain = hcviz.train(wide, **(options | {"out": tmp_path / "plain"}))
    apart = ["run", "seconds"]
    assert run.history.drop(columns=apart).equals(plain.history.drop(columns=apart))


def test_what_cannot_be_measured_is_said_before_training(wide, corpus, tmp_path):
    options = {"out": tmp_path / "r", "corpus": corpus, **SHORT}
    with pytest.raises(HcvizError, match=r"twins reads a text .* measure it afterwards"):
        hcviz.train(wide, metrics=["twins"], **options)
    with pytest.raises(HcvizError, match="unknown"):
        hcviz.train(wide, metrics=["ledgers"], **options)
    with pytest.raises(HcvizError, match="No tensor of the model matches"):
        hcviz.train(wide, metrics=["ledger"], metric_tensors="nowhere", **options)


def test_a_model_sharded_over_processes_is_refused(tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model = tiny.model()
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0))  # as another process holds it
    begin = hcviz.MetricsCallback(["norm"]).on_train_begin
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(HcvizError, match=r"lm_head.weight is sharded over processes"):
        begin(args, TrainerState(max_steps=1), TrainerControl(), model=model)


def test_measuring_does_not_change_the_run(run, wide, corpus, tmp_path):
    plain = hcviz.train(wide, out=tmp_path / "r", corpus=corpus, **SHORT)
    assert list(plain.history["loss"]) == list(run.history["loss"])
    assert "metrics" not in json.loads((plain.path / "run.json").read_text())["request"]


def test_a_fractional_factor_is_measured_live_as_later(corpus, tmp_path):
    wide = hcviz.clone(tiny.model(), hidden=1.5, expansion="noisy-symmetric")
    assert wide.config.hcviz["factors"]["ffn"] == "3/2"
    run = hcviz.train(wide, out=tmp_path / "r", corpus=corpus, metrics=["ledger"], **SHORT)
    live = run.metrics
    (run.path / tables.WHOLE).unlink()
    assert len(live)
    pd.testing.assert_frame_equal(values(live), values(hcviz.measure(run, metrics=["ledger"])))


@pytest.mark.parametrize("factors", [{"hidden": 2}, {"hidden": "3/2", "ffn": "5/4"}])
def test_factors_mean_live_what_they_mean_for_a_run_of_others(factors, corpus, tmp_path):
    """A recipe that is lost: both take the factors of the call of clone()."""
    from transformers import Trainer, TrainingArguments

    from hcviz.training.schedule import BlockOrder

    wide = hcviz.clone(tiny.model(), expansion="noisy-symmetric", **factors)
    recipe = wide.config.hcviz["factors"]
    del wide.config.hcviz
    callback = hcviz.MetricsCallback(["ledger"], steps=2, factors=factors)
    args = TrainingArguments(
        str(tmp_path / "r"), max_steps=1, report_to="none", save_strategy="no", use_cpu=True,
        per_device_train_batch_size=2, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    data = BlockOrder(corpus.train, count=2, seed=0)
    wide.save_pretrained(tmp_path / "step_0")
    Trainer(model=wide, args=args, train_dataset=data, callbacks=[callback]).train()
    frames = [
        hcviz.measure(hcviz.Run.of(tmp_path / "step_0", factors=given), metrics=["ledger"])
        for given in (factors, recipe)
    ]
    live = tables.read_live(tmp_path / "r").query("step == 0")
    for frame in frames:
        pd.testing.assert_frame_equal(values(live), values(frame))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"hidden": 5}, r"hidden: 32 in the clone is no whole number times 5.* source"),
        ({"width": 2}, r"there is no width. A model grows in hidden, ffn"),
        ({"hidden": "two"}, "a factor is a number"),
    ],
)
def test_factors_that_do_not_fit_are_refused(wide, factors, message, tmp_path):
    wide.save_pretrained(tmp_path)
    with pytest.raises(HcvizError, match=message):
        _ = hcviz.Run.of(tmp_path, factors=factors).factors

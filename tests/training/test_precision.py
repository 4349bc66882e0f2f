"""What a run computes in: any stored dtype, any that is asked for, float32 weights throughout."""

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import hcviz
from hcviz.errors import HcvizError
from hcviz.training.train import train

SHORT = {"steps": 12, "snapshots": 2, "batch_size": 4, "lr": 1e-2, "device": "cpu"}
STORED = ("float32", "float16", "bfloat16")


def weights(run, step):
    return {name: run.tensor(name, step) for name in run.names(step)}


def heldout(run):
    return run.history.query("split == 'heldout'").loss.to_numpy()


def stored_in(dtype):
    return tiny.model().to(getattr(torch, dtype))


@pytest.mark.parametrize("asked", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("stored", STORED)
def test_every_stored_dtype_trains_in_every_dtype(stored, asked, corpus, tmp_path, capfd):
    options = {**SHORT, "corpus": corpus, "dtype": asked, "label": "arm"}
    run = train(stored_in(stored), out=tmp_path / "r", **options)
    first, last = (weights(run, step) for step in (0, 12))
    assert {weight.dtype for weight in (*first.values(), *last.values())} == {torch.float32}
    begin = {name: weight.float() for name, weight in stored_in(stored).state_dict().items()}
    assert all(torch.equal(weight, begin[name]) for name, weight in first.items())
    assert not any(torch.equal(weight, last[name]) for name, weight in first.items())
    assert heldout(run)[-1] < heldout(run)[0] - 0.2
    assert AutoModelForCausalLM.from_pretrained(run.path / "checkpoint-12").dtype == torch.float32
    said = f"arm: weights stored in {stored} are trained, and saved, in float32\n"
    assert (said in capfd.readouterr().err) == (stored != "float32")
    assert ("cast" in run.info) == (stored != "float32")


@pytest.mark.parametrize("stored", STORED)
def test_float16_is_mixed_on_a_gpu_only(stored, corpus, tmp_path):
    with pytest.raises(HcvizError, match=r"'float16' mixes on a GPU only.*Use bfloat16 or float32"):
        train(stored_in(stored), out=tmp_path / "r", **SHORT, corpus=corpus, dtype="float16")
    assert not (tmp_path / "r").exists()


def test_mixed_precision_is_another_computation_and_no_cast_is_another_run(corpus, tmp_path):
    options = {**SHORT, "corpus": corpus, "progress": False}
    plain = train(tiny.model(), out=tmp_path / "plain", **options)
    mixed = train(tiny.model(), out=tmp_path / "mixed", dtype="bfloat16", **options)
    assert heldout(plain)[-1] != heldout(mixed)[-1]
    assert heldout(plain)[-1] == pytest.approx(heldout(mixed)[-1], abs=0.05)
    rows = []
    train(tiny.model(), out=plain.path, dtype="float32", on_log=rows.append, **options)
    assert rows == [], "float32 is what None is"


def test_bfloat16_needs_no_gpu_and_no_word_about_the_device(corpus, tmp_path):
    options = {**SHORT, "steps": 1, "corpus": corpus, "progress": False, "device": None}
    assert train(tiny.model(), out=tmp_path / "r", dtype="bfloat16", **options).steps == [0, 1]


def test_float64_stays_unless_a_dtype_is_asked_for(corpus, tmp_path):
    options = {**SHORT, "steps": 1, "corpus": corpus, "progress": False}
    double = train(stored_in("float64"), out=tmp_path / "a", **options)
    single = train(stored_in("float64"), out=tmp_path / "b", dtype="float32", **options)
    kinds = [{weight.dtype for weight in weights(run, 1).values()} for run in (double, single)]
    assert kinds == [{torch.float64}, {torch.float32}]


def test_small_steps_of_a_half_precision_source_are_not_lost(corpus, tmp_path):
    options = {**SHORT, "lr": 1e-6, "corpus": corpus, "progress": False}
    run = train(stored_in("bfloat16"), out=tmp_path / "r", **options)
    first, last = (run.tensor("model.layers.0.mlp.up_proj.weight", step) for step in (0, 12))
    assert (first != last).float().mean() > 0.99
    assert (first.bfloat16() != last.bfloat16()).float().mean() < 0.1, "bfloat16 could not say it"


@pytest.mark.parametrize("asked", [None, "bfloat16"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_the_clone_of_a_half_precision_source_is_locked_or_moves(stored, asked, corpus, tmp_path):
    options = {**SHORT, "steps": 4, "lr": 1e-5, "corpus": corpus, "progress": False}
    shares = {}
    for form in ("symmetric", "noisy-symmetric"):
        clone = hcviz.clone(stored_in(stored), hidden=2, expansion=form)
        assert clone.dtype == getattr(torch, stored)
        run = train(clone, out=tmp_path / form, dtype=asked, **options)
        found = hcviz.measure(run, metrics=["ledger"], tensors="proj").set_index(["tensor", "axis"])
        shares[form] = [found[found.step == step].value for step in (0, 4)]
    assert all((share == 0.0).all() for share in shares["symmetric"])
    first, last = shares["noisy-symmetric"]
    assert (first > 0.01).all()
    assert (first != last).all()


def test_weights_that_are_no_numbers_to_train_are_refused(corpus, tmp_path):
    model = tiny.model()
    model.lm_head.weight = torch.nn.Parameter(
        model.lm_head.weight.to(torch.int8), requires_grad=False
    )
    with pytest.raises(HcvizError, match=r"quantized, or no numbers to train \(float32, int8\)"):
        train(model, out=tmp_path / "r", **SHORT, corpus=corpus)


def test_the_launchers_precision_must_be_that_of_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    options = {**SHORT, "steps": 1, "corpus": corpus, "progress": False}
    with pytest.raises(HcvizError, match=r"mixed_precision: bf16, and dtype is None.*decides"):
        train(tiny.model(), out=tmp_path / "r", **options)
    assert train(tiny.model(), out=tmp_path / "r", dtype="bfloat16", **options).steps == [0, 1]

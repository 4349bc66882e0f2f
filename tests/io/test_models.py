"""No weight is made up, whoever reads; names are the model's; kinds that are not read are told."""

import contextlib
import io
import json
import sys
import types

import models
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz import cli
from hcviz.errors import HcvizError
from hcviz.io.checkpoint import Stored
from hcviz.io.models import check_model

PT = {"format": "pt"}
UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"


def save(folder, model=None):
    """Save a model with its tokenizer, as users do."""
    (model or tiny.model()).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def store(folder, change):
    """Change a dictionary of the stored tensors, and store what it returns."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, PT)


def configure(folder, **fields):
    """Change fields of a configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def renamed(folder):
    store(folder, lambda w: {k.replace(UP, "model.layers.1.mlp.up.weight"): w[k] for k in w})


def two_sets(folder):
    alone = load_file(folder / "model.safetensors")
    tiny.model().save_pretrained(folder, max_shard_size="20KB")
    save_file({**alone, NORM: alone[NORM] + 1}, folder / "model.safetensors", PT)


DAMAGES = {
    "missing": (
        lambda folder: store(folder, lambda w: {k: w[k] for k in w if k != NORM}),
        f"{NORM} is not among the stored weights in ",
    ),
    "renamed": (renamed, rf"{UP} is not among the stored.*which hold model.layers.1.mlp.up.weight"),
    "emptied": (
        lambda folder: store(folder, lambda w: {**w, NORM: torch.empty(0)}),
        rf"{NORM} is stored as \(0,\) in .*, and the configuration makes it \(16,\)",
    ),
    "too short": (
        lambda folder: configure(folder, num_hidden_layers=3),
        "model.layers.2.input_layernorm.weight is not among the stored weights",
    ),
    "too deep": (
        lambda folder: configure(folder, num_hidden_layers=1),
        "model.layers.1.input_layernorm.weight is among the weights in .*has no such tensor",
    ),
    "left over": (
        lambda folder: store(folder, lambda w: {**w, "value_head.weight": torch.ones(1, 16)}),
        "value_head.weight is among the weights in .* its LlamaForCausalLM has no such tensor",
    ),
    "stored twice": (
        lambda folder: store(folder, lambda w: {**w, "norm.weight": torch.ones(16)}),
        f"model.norm.weight and norm.weight are both stored, and both are {NORM} of the model",
    ),
    "two sets": (two_sets, f"holds two sets of weights that differ in {NORM}"),
}


def command(*words):
    """Run a command, and raise what it says where it fails."""
    sys.argv, err = ["hcviz", *map(str, words)], io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.main()
    if stop.value.code:
        raise HcvizError(err.getvalue())


def train(model, out):
    return hcviz.train(
        model, out=out, steps=1, context=8, snapshots=2, progress=False, tokenizer=tiny.tokenizer()
    )


VERBS = {
    "load": lambda folder, out: hcviz.load(folder),
    "clone": lambda folder, out: hcviz.clone_checkpoint(folder, out, check="twin", progress=False),
    "Run.model": lambda folder, out: hcviz.Run.of(folder).model(),
    "neurons": lambda folder, out: hcviz.measure(
        hcviz.Run.of(folder, factors={"hidden": 2}),
        metrics=["twins"],
        batch=torch.ones(1, 8).long(),
    ),
    "diff": lambda folder, out: hcviz.diff(folder, tiny.model()),
    "train": lambda folder, out: train(str(folder), out),
    "deepen": lambda folder, out: command("deepen", folder, out, "--layers", 4),
    "verify": lambda folder, out: command("verify", folder, folder),
}


@pytest.fixture
def argv(monkeypatch):
    """What is typed is forgotten afterwards."""
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.mark.usefixtures("argv")
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_verb_takes_a_checkpoint_that_is_not_its_model(damage, tmp_path):
    spoil, message = DAMAGES[damage]
    folder = save(tmp_path / "damaged")
    spoil(folder)
    for verb in VERBS.keys() - {"neurons"}:  # it asks Run.model
        with pytest.raises(HcvizError, match=message):
            VERBS[verb](folder, tmp_path / "out")
        assert not (tmp_path / "out").exists(), verb


def test_two_sets_of_weights_that_agree_are_one(tmp_path):
    folder = save(tmp_path)
    alone = load_file(folder / "model.safetensors")
    tiny.model().save_pretrained(folder, max_shard_size="20KB")
    save_file(alone, folder / "model.safetensors", PT)
    assert torch.equal(hcviz.load(folder)[0].model.norm.weight, alone[NORM])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_a_wrapper_left_before_the_names_is_passed_over_and_said(prefix, tmp_path):
    folder, model = save(tmp_path / "wrapped"), tiny.model()
    store(folder, lambda w: {f"{prefix}{k}": w[k] for k in w})
    with pytest.warns(UserWarning, match=f"wrapper left .'{prefix}'"):
        loaded, _ = hcviz.load(folder)
    found = dict(loaded.named_parameters())
    assert all(torch.equal(found[name], one) for name, one in model.named_parameters())
    with pytest.warns(UserWarning, match="wrapper left"):
        hcviz.clone_checkpoint(folder, tmp_path / "out", check="full", progress=False)
    stored = Stored(folder)
    assert set(stored.names()) == set(found)
    assert torch.equal(stored.tensor(UP), found[UP])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_names_without_the_prefix_of_the_model_are_read_as_they_are_loaded(name, tmp_path):
    model = models.source(name)
    model.save_pretrained(tmp_path)
    before = f"{model.base_model_prefix}."
    table = "h.0.attn.bias" if name == "gpt2" else "layers.0.attention.rotary_emb.inv_freq"
    harmless = {table: torch.ones(1, 1, 8, 8)}
    store(tmp_path, lambda w: {**{k.removeprefix(before): w[k] for k in w}, **harmless})
    own = dict(model.named_parameters())
    run = hcviz.Run.of(tmp_path)
    assert set(run.names()) == set(own)
    assert all(torch.equal(run.tensor(key), own[key]) for key in own)
    assert (hcviz.diff(run, model)["moved"] == 0).all()
    assert len(hcviz.measure(run, metrics=["norm"], cache=False)) > 0
    assert torch.equal(run.model().get_input_embeddings().weight, own[next(iter(own))])


def test_old_names_of_gains_are_read_as_they_are_loaded(tmp_path):
    config = AutoConfig.for_model(
        "roberta", vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, is_decoder=True,
    )  # fmt: skip
    model = models.randomise(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def aged(key):
        return next((key.replace(new, was) for new, was in old.items() if new in key), key)

    store(tmp_path, lambda w: {aged(key): w[key] for key in w})
    stored, own = Stored(tmp_path), dict(model.named_parameters())
    assert set(stored.names()) == set(own)
    assert all(torch.equal(stored.tensor(key), own[key]) for key in own)


def test_a_model_that_has_a_tensor_more_is_not_compared_without_it():
    with pytest.raises(HcvizError, match=r"Only one of the two models has model.layers.2\."):
        hcviz.diff(tiny.model(), tiny.model(num_hidden_layers=3))


CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM

pathlib.Path({mark!r}).touch()


class Own(LlamaConfig):
    model_type = "own-llama"


class OwnLM(LlamaForCausalLM):
    config_class = Own
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A checkpoint with code of its own, which leaves a mark where it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder, mark = save(tmp_path / "own"), tmp_path / "ran"
    kinds = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}
    configure(folder, model_type="own-llama", auto_map=kinds, architectures=["OwnLM"])
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    return folder, mark


@pytest.mark.usefixtures("argv")
@pytest.mark.parametrize("answer", ["", "y\n" * 9])
def test_code_of_a_checkpoint_is_not_run_and_nobody_is_asked(
    answer, planted, tmp_path, monkeypatch
):
    folder, mark = planted
    verbs = {
        **VERBS,
        "of": lambda folder, out: hcviz.Run.of(folder).config,
        "source": lambda folder, out: hcviz.Run.of(save(out / "s"), source=folder).factors,
        "target": lambda folder, out: hcviz.clone(tiny.model(), to_config=str(folder)),
        "measure": lambda folder, out: hcviz.measure(hcviz.Run.of(folder), metrics=["norm"]),
        "names": lambda folder, out: hcviz.Run.of(folder).names(),
    }
    for verb, call in verbs.items():
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(HcvizError, match=r"code of its own.*--trust-remote-code"):
            call(folder, tmp_path / verb)
        assert not mark.exists(), verb
        assert sys.stdin.tell() == 0, f"{verb} asked"


def test_code_of_a_checkpoint_is_run_where_it_is_asked_for(planted, tmp_path):
    folder, mark = planted
    model, _ = hcviz.load(folder, trust_remote_code=True)
    assert mark.exists()
    assert type(model).__name__ == "OwnLM"
    found = dict(model.named_parameters())
    assert all(torch.equal(found[name], one) for name, one in tiny.model().named_parameters())
    assert (hcviz.diff(model, model)["moved"] == 0).all()
    store(folder, lambda w: {k: w[k] for k in w if k != NORM})
    with pytest.raises(HcvizError, match=f"{NORM} is not among the stored weights"):
        hcviz.load(folder, trust_remote_code=True)


def adapted(model):
    model._hf_peft_config_loaded = True
    return model


def wrapped_by_peft(model):
    outer = torch.nn.Module()
    outer.base_model, outer.peft_config = model, {"default": "LoRA"}
    return outer


def quantized(model):
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    return model


KINDS = {
    "adapter": (adapted, r"LlamaForCausalLM carries an adapter.*merge_and_unload"),
    "peft": (wrapped_by_peft, r"carries an adapter.*merge_and_unload"),
    "quantized": (quantized, r"quantized.*bfloat16"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_an_adapter_or_quantized_weights_is_told(kind, tmp_path):
    make, message = KINDS[kind]
    for call in (
        lambda model: hcviz.clone(model, hidden=2),
        lambda model: hcviz.deepen(model, layers=4),
        hcviz.declone,
        lambda model: hcviz.verify(tiny.model(), model),
        lambda model: hcviz.diff(tiny.model(), model),
        lambda model: train(model, tmp_path / "out"),
    ):
        with pytest.raises(HcvizError, match=message):
            call(make(tiny.model()))
    assert not (tmp_path / "out").exists()


def test_modules_that_are_quantized_on_the_fly_are_told():
    kind = type("Linear", (torch.nn.Module,), {})
    kind.__module__ = "torch.ao.nn.quantized.dynamic.modules.linear"
    model = tiny.model()
    model.lm_head = kind()
    with pytest.raises(HcvizError, match=r"weights of lm_head .* quantized"):
        check_model(model)
    check_model(tiny.model())
    check_model(types.SimpleNamespace(config=None))


@pytest.mark.usefixtures("argv")
@pytest.mark.parametrize("alone", [False, True])
def test_a_folder_with_an_adapter_is_told(alone, tmp_path):
    folder = save(tmp_path / "adapted")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors", PT)
    if alone:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    for verb, call in VERBS.items():
        with pytest.raises(HcvizError, match=r"holds an adapter.*merge_and_unload"):
            call(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists(), verb


def test_quantized_weights_are_told_by_who_reads_them(tmp_path):
    folder = save(tmp_path)
    configure(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    for call in (hcviz.load, lambda f: hcviz.Run.of(f).names(), lambda f: hcviz.Run.of(f).model()):
        with pytest.raises(HcvizError, match=r"quantized.*bfloat16"):
            call(folder)

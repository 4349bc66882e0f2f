"""hcviz.io.sources and the shipped models."""

import dataclasses
import json

import models
import pytest
import scripts
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hcviz import Run, clone, recorded
from hcviz.errors import HcvizError
from hcviz.io.files import data_folder
from hcviz.io.sources import VOCABULARY, load, source_names, source_path, tokenizer_for
from hcviz.text.corpus import load_corpus

NAMES = source_names()
KEPT = [name for name in NAMES if "@" in name]
ONE_MILLION = ["gpt-neox", "opt", "olmo", "llama"]


def facts(name):
    return json.loads((source_path(name) / "source.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def asv():
    return load_corpus("asv", tokenizer=tiny.tokenizer(), context=256)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_is_a_stock_folder_with_its_story(name):
    folder = source_path(name)
    found = {path.name for path in folder.iterdir()}
    wanted = {"README.md", "config.json", "model.safetensors", "source.json", "tokenizer.json"}
    assert wanted <= found
    assert not [file for file in found if file.endswith((".bin", ".pt", ".py"))]
    story = facts(name)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for said in (
        f"python data/sources/make.py {name.partition('@')[0]}",
        f"{story['tokens']:,} ({story['epochs']} epochs)",
        f"{story['heldout_asv_nats_per_token']} nats/token",
        f"{story['heldout_asv_bits_per_byte']} bits/byte",
        story["corpus"]["fingerprint"],
        f"| seed | {story['seed']} |",
        "> And it came to pass",
    ):
        assert said in readme
    assert "/work" not in readme + json.dumps(story)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_has_the_loss_it_claims(name, asv):
    model, _ = load(f"nano:{name}")
    part = dataclasses.replace(asv, heldout=asv.heldout[::10])
    bits = asv.bits_per_byte(part.heldout_loss(model))
    assert bits == pytest.approx(facts(name)["heldout_asv_bits_per_byte"], rel=0.04)
    assert model.dtype == torch.float32
    assert model.num_parameters() == facts(name)["parameters"]
    assert not model.training


@pytest.mark.parametrize("name", NAMES)
def test_a_source_is_stored_as_its_readme_says(name):
    path = source_path(name)
    dtypes = {str(value.dtype) for value in load_file(path / "model.safetensors").values()}
    stored = "float16" if name in (*KEPT, "gpt-neox-double") else "float32"
    assert dtypes == {f"torch.{stored}"}
    assert f"stored as {stored}, loaded as float32" in (path / "README.md").read_text()


def test_the_sources_are_trained_well():
    bits = {name: facts(name)["heldout_asv_bits_per_byte"] for name in NAMES}
    assert all(bits[name] <= 1.45 for name in ONE_MILLION)
    widths = [bits[f"gpt-neox{end}"] for end in ("-double", "", "-half", "-quarter")]
    assert widths == sorted(widths)
    for base in ("gpt-neox", "gpt-neox-half"):
        earlier = [bits[name] for name in KEPT if name.startswith(f"{base}@")]
        assert len(earlier) == 3
        assert [*earlier, bits[base]] == sorted([*earlier, bits[base]], reverse=True)


@pytest.mark.parametrize("name", ["gpt-neox", "opt", "olmo"])
def test_a_half_is_short_of_width_and_doubles_to_the_whole(name):
    """Twice the width is worth more than 0.07 bits a byte, as the recorded trainings tell."""
    gain = (
        facts(f"{name}-half")["heldout_asv_bits_per_byte"]
        - facts(name)["heldout_asv_bits_per_byte"]
    )
    assert gain > 0.07
    small, whole = (load(f"nano:{name}{end}")[0] for end in ("-half", ""))
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    assert {k: v.shape for k, v in clone(small).state_dict().items()} == shapes


def test_the_families_are_those_of_the_paper_and_a_tied_llama():
    opt, olmo, llama = (load(f"nano:{name}")[0] for name in ("opt", "olmo", "llama"))
    assert opt.config.word_embed_proj_dim == opt.config.hidden_size
    assert opt.model.decoder.project_in is None
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert llama.config.num_key_value_heads < llama.config.num_attention_heads
    assert olmo.lm_head.weight is not olmo.model.embed_tokens.weight


def test_all_share_one_tokenizer(asv):
    tokenizer = tiny.tokenizer()
    assert len(tokenizer) == VOCABULARY
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = "In the beginning “God”\n created naïve 天.  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    shared = (data_folder() / "sources" / "tokenizer" / "tokenizer.json").read_bytes()
    assert all((source_path(name) / "tokenizer.json").read_bytes() == shared for name in NAMES)


def test_the_text_is_the_one_they_were_trained_on(asv):
    both = load_corpus("asv+kjv", tokenizer=tiny.tokenizer(), context=256)
    assert {facts(name)["corpus"]["fingerprint"] for name in NAMES} == {both.fingerprint}
    assert set(both.heldout_groups) == set(asv.heldout_groups)


def test_data_stays_small():
    size = sum(path.stat().st_size for path in data_folder().rglob("*") if path.is_file())
    assert size < 60e6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nano:bert", "Unknown source 'nano:bert'. The shipped ones are gpt-neox,"),
        ("nano:gpt-neox@7", "Unknown source 'nano:gpt-neox@7'.*gpt-neox@300"),
        ("./nowhere", "There is no folder './nowhere'"),
        ("someone/model", r"The model 'someone/model' cannot be downloaded: .*nano:gpt-neox"),
    ],
)
def test_a_source_that_is_not_there_is_named(spec, message):
    with pytest.raises(HcvizError, match=message):
        load(spec)


LONG = "a" * 300
"""A name that is longer than systems let one be: asking for it is an error of its own."""


@pytest.mark.parametrize("name", [LONG, f"./{LONG}", f"x/{LONG}", f"{LONG}/x", f"~{LONG}/x"])
@pytest.mark.parametrize("verb", [load, Run, Run.of, recorded])
def test_a_name_that_no_system_knows_is_told(name, verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HcvizError, match=LONG):
        verb(name)


def test_names_are_read_off_the_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HCVIZ_DATA", str(tmp_path))
    with pytest.raises(HcvizError, match=r"The shipped ones are gone.*made by: python data/sour"):
        source_path("gpt-neox@300")
    for name in ("mine", "mine-step-10", "mine-step-9", "tokenizer"):
        (tmp_path / "sources" / name).mkdir(parents=True)
    for name in ("mine", "mine-step-10", "mine-step-9"):
        tiny.model().save_pretrained(tmp_path / "sources" / name)
    assert source_names() == ["mine", "mine@9", "mine@10"]
    assert source_path("mine@10") == tmp_path / "sources" / "mine-step-10"
    for name in ("tokenizer", "mine-step-9"):
        with pytest.raises(HcvizError, match="Unknown source"):
            source_path(name)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(HcvizError, match="cannot be loaded"):
        load(tmp_path)
    tiny.model().save_pretrained(tmp_path / "cut")
    tiny.tokenizer().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(HcvizError, match="whole safetensors"):
        load(tmp_path / "cut")


def test_pickled_weights_are_refused(tmp_path):
    model = tiny.model()
    model.config.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(HcvizError, match="safetensors"):
        load(tmp_path)


def test_the_tokenizer_of_a_model_is_found(tmp_path):
    model = tiny.model()
    assert len(tokenizer_for(model)) == 2048  # the shipped one: the vocabulary fits
    model.config.hcviz = {"source": "nano:opt"}
    assert len(tokenizer_for(model)) == 2048
    make = scripts.load("data/sources/make.py")
    small = make.train_tokenizer(tiny.write_text(tmp_path), vocabulary=300)
    other = tiny.model(vocab_size=300)
    other.save_pretrained(tmp_path / "m")
    small.save_pretrained(tmp_path / "m")
    assert len(tokenizer_for(type(other).from_pretrained(tmp_path / "m"))) == 300


def test_a_configuration_whose_model_cannot_compute_is_refused_at_once(tmp_path):
    config = models.config("phi3", sliding_window=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    told["rope_parameters"] |= {"partial_rotary_factor": 3}
    (tmp_path / "config.json").write_text(json.dumps(told), encoding="utf-8")
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(HcvizError, match=r"cannot be loaded: .*size of tensor"):
        load(tmp_path)

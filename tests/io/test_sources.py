"""hcviz.io.sources, hcviz.pretraining and the shipped data."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from hcviz import clone, pretraining
from hcviz.errors import HcvizError
from hcviz.io import sources
from hcviz.io.files import data_folder
from hcviz.io.sources import SOURCES, load, source_path, tokenizer_for
from hcviz.text.corpus import load_corpus
from hcviz.text.documents import read_documents

KEPT = [f"{name}@{step}" for name, recipe in SOURCES.items() for step in recipe.keep]
NAMES = [*SOURCES, *KEPT]
ONE_MILLION = ["gpt-neox", "opt", "olmo", "llama"]


def facts(name):
    return json.loads((source_path(name) / "source.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def asv():
    return load_corpus("asv", tokenizer=tiny.tokenizer(), context=sources.CONTEXT)


@pytest.mark.parametrize("name", ["gpt-neox", "gpt-neox-half"])
def test_three_checkpoints_come_before_the_end(name):
    recipe = SOURCES[name]
    assert [round(recipe.steps / step) for step in recipe.keep] == [8, 4, 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_source_is_a_stock_folder_with_its_story(name):
    folder = source_path(name)
    found = {path.name for path in folder.iterdir()}
    wanted = {"README.md", "config.json", "model.safetensors", "source.json", "tokenizer.json"}
    assert wanted <= found
    assert not [file for file in found if file.endswith((".bin", ".pt", ".py"))]
    story = facts(name)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    base = name.partition("@")[0]
    for said in (
        f"hcviz pretrain {base}",
        f"{story['tokens']:,} ({story['epochs']} epochs)",
        f"{story['heldout_asv_nats_per_token']} nats/token",
        f"{story['heldout_asv_bits_per_byte']} bits/byte",
        story["corpus"]["fingerprint"],
        f"| seed | {SOURCES[base].seed} |",
        "> And it came to pass",
    ):
        assert said in readme
    assert "/work" not in readme + json.dumps(story)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_was_made_by_its_recipe(name):
    base, _, step = name.partition("@")
    story, recipe = facts(name), SOURCES[base]
    assert story["steps"] == int(step or recipe.steps)
    asked = story["request"]
    for field in ("steps", "batch_size", "lr", "warmup", "weight_decay", "seed"):
        assert asked[field] == getattr(recipe, field)
    config = json.loads((source_path(name) / "config.json").read_text())
    wanted = recipe.model_config().to_dict()
    for key in (
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "model_type",
    ):
        assert config[key] == wanted[key]


@pytest.mark.parametrize("name", NAMES)
def test_a_source_has_the_loss_it_claims(name, asv):
    model, _ = load(f"nano:{name}")
    part = dataclasses.replace(asv, heldout=asv.heldout[::10])
    bits = asv.bits_per_byte(pretraining.heldout_loss(model, part))
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
        earlier = [bits[f"{base}@{step}"] for step in SOURCES[base].keep]
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


def test_the_sources_are_of_the_size_they_should_be():
    for name in ONE_MILLION:
        assert 0.9e6 < facts(name)["parameters"] < 1.4e6
    widths = [
        SOURCES[f"gpt-neox{end}"].model_config().hidden_size
        for end in ("-quarter", "-half", "", "-double")
    ]
    assert widths == [32, 64, 128, 256]


def test_the_families_are_those_of_the_paper_and_a_tied_llama():
    opt, olmo, llama = (load(f"nano:{name}")[0] for name in ("opt", "olmo", "llama"))
    assert opt.config.word_embed_proj_dim == opt.config.hidden_size
    assert opt.model.decoder.project_in is None
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert llama.config.num_key_value_heads < llama.config.num_attention_heads
    assert olmo.lm_head.weight is not olmo.model.embed_tokens.weight


@pytest.mark.parametrize("name", ONE_MILLION)
def test_a_sampled_continuation_reads_like_english(name):
    known = set(
        re.findall(r"[a-z]+", " ".join(d.text for d in read_documents("asv+kjv")[0]).lower())
    )
    model, tokenizer = load(f"nano:{name}")
    text = pretraining.sample(model, tokenizer, tokens=40, seed=1)
    words = re.findall(r"[a-z]+", text.lower())
    assert len(words) > 20
    assert sum(word in known for word in words) > 0.85 * len(words)
    assert len(set(words)) > 0.4 * len(words)
    assert text == pretraining.sample(model, tokenizer, tokens=40, seed=1)


def test_all_share_one_tokenizer(asv):
    tokenizer = tiny.tokenizer()
    assert len(tokenizer) == sources.VOCABULARY
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = "In the beginning “God”\n created naïve 天.  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    shared = (data_folder() / "sources" / "tokenizer" / "tokenizer.json").read_bytes()
    assert all((source_path(name) / "tokenizer.json").read_bytes() == shared for name in NAMES)


def test_the_tokenizer_is_trained_again_the_same(tmp_path):
    pretraining.train_tokenizer().save_pretrained(tmp_path)
    shared = data_folder() / "sources" / "tokenizer" / "tokenizer.json"
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads(shared.read_text())


def test_the_text_is_the_one_they_were_trained_on(asv):
    both = load_corpus("asv+kjv", tokenizer=tiny.tokenizer(), context=sources.CONTEXT)
    assert {facts(name)["corpus"]["fingerprint"] for name in NAMES} == {both.fingerprint}
    assert set(both.heldout_groups) == set(asv.heldout_groups)


def test_the_overview_is_that_of_the_folders():
    folder = data_folder() / "sources"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == pretraining.overview(folder)
    assert all(f"`nano:{name}`" in text for name in NAMES)


def test_data_stays_small():
    size = sum(path.stat().st_size for path in data_folder().rglob("*") if path.is_file())
    assert size < 60e6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nano:bert", "Unknown source 'nano:bert'. The shipped ones are gpt-neox,"),
        ("nano:gpt-neox@7", "Unknown source 'nano:gpt-neox@7'.*gpt-neox@300"),
        ("./nowhere", "There is no folder './nowhere'"),
        ("someone/model", r"The model 'someone/model' cannot be loaded: .*nano:gpt-neox"),
    ],
)
def test_a_source_that_is_not_there_is_named(spec, message):
    with pytest.raises(HcvizError, match=message):
        load(spec)


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


def test_a_missing_source_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HCVIZ_DATA", str(tmp_path))
    with pytest.raises(HcvizError, match=r"Make it: hcviz pretrain gpt-neox$"):
        source_path("gpt-neox@300")


def test_the_tokenizer_of_a_model_is_found(tmp_path):
    model = tiny.model()
    assert len(tokenizer_for(model)) == 2048  # the shipped one: the vocabulary fits
    model.config.hcviz = {"source": "nano:opt"}
    assert len(tokenizer_for(model)) == 2048
    small = pretraining.train_tokenizer(tiny.write_text(tmp_path), vocabulary=300)
    other = tiny.model(vocab_size=300)
    other.save_pretrained(tmp_path / "m")
    small.save_pretrained(tmp_path / "m")
    assert len(tokenizer_for(type(other).from_pretrained(tmp_path / "m"))) == 300


@pytest.fixture
def nano(monkeypatch, tmp_path):
    """A recipe that trains in a second, on a short text."""
    text = tiny.write_text(tmp_path)
    load = pretraining.load_corpus
    monkeypatch.setattr(pretraining, "load_corpus", lambda name, **rest: load(text, **rest))
    recipe = dataclasses.replace(
        SOURCES["llama"],
        config={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16},
        steps=40,
        batch_size=1,
        keep=(20,),
    )
    monkeypatch.setitem(SOURCES, "nano", recipe)
    return tmp_path


def test_pretrain_makes_folders_that_load(nano):
    made = pretraining.pretrain("nano", out=nano / "made", progress=False)
    assert made == nano / "made"
    losses = []
    for folder in (made, nano / "made-step-20"):
        model, _ = load(folder)
        assert model.config.hidden_size == 16
        story = json.loads((folder / "source.json").read_text())
        assert (
            f"**{story['heldout_asv_bits_per_byte']} bits/byte**"
            in (folder / "README.md").read_text()
        )
        losses.append(story["heldout_asv_nats_per_token"])
        kinds = {value.dtype for value in load_file(folder / "model.safetensors").values()}
        assert kinds == {torch.float32 if folder == made else torch.float16}
        assert model.dtype == torch.float32
    assert losses[0] < losses[1]
    again = pretraining.pretrain("nano", out=nano / "again", progress=False)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (made, again)]
    assert weights[0] == weights[1]


def test_pretrain_loses_nothing(nano, monkeypatch):
    taken = nano / "made"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    with pytest.raises(HcvizError, match="already exists"):
        pretraining.pretrain("nano", out=taken, progress=False)

    def broken(*args, **options):
        raise RuntimeError("stop")

    monkeypatch.setattr(pretraining, "sample", broken)
    with pytest.raises(RuntimeError, match="stop"):
        pretraining.pretrain("nano", out=taken, steps=2, overwrite=True, progress=False)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    assert not [path for path in Path(nano).iterdir() if path.name.startswith(".tmp")]


def test_an_unknown_recipe_is_named():
    with pytest.raises(HcvizError, match=r"Unknown source 'bert'. The recipes are gpt-neox"):
        pretraining.pretrain("bert")

"""data/sources/make.py: its recipes made the shipped sources, and making one loses nothing."""

import dataclasses
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
import tiny
import torch
from safetensors.torch import load_file

from hcviz.errors import HcvizError
from hcviz.io.files import data_folder
from hcviz.io.sources import load, source_names, source_path
from hcviz.text.documents import read_documents

make = scripts.load("data/sources/make.py")
RECIPES = make.RECIPES


def facts(name):
    return json.loads((source_path(name) / "source.json").read_text(encoding="utf-8"))


def test_every_shipped_source_has_its_recipe():
    kept = [f"{name}@{step}" for name, recipe in RECIPES.items() for step in recipe.keep]
    assert {*RECIPES, *kept} == set(source_names())


@pytest.mark.parametrize("name", ["gpt-neox", "gpt-neox-half"])
def test_three_checkpoints_come_before_the_end(name):
    recipe = RECIPES[name]
    assert [round(recipe.steps / step) for step in recipe.keep] == [8, 4, 2]


@pytest.mark.parametrize("name", source_names())
def test_a_source_was_made_by_its_recipe(name):
    base, _, step = name.partition("@")
    story, recipe = facts(name), RECIPES[base]
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


def test_the_papers_of_the_sources_are_those_of_their_facts():
    folder = data_folder() / "sources"
    assert (folder / "README.md").read_text(encoding="utf-8") == make.overview(folder)
    for name in source_names():
        paper = (source_path(name) / "README.md").read_text(encoding="utf-8")
        assert paper == "\n".join(make.readme(facts(name)))
        assert f"`nano:{name}`" in make.overview(folder)


def test_the_sources_are_of_the_size_they_should_be():
    for name in ("gpt-neox", "opt", "olmo", "llama"):
        assert 0.9e6 < facts(name)["parameters"] < 1.4e6
    widths = [
        RECIPES[f"gpt-neox{end}"].model_config().hidden_size
        for end in ("-quarter", "-half", "", "-double")
    ]
    assert widths == [32, 64, 128, 256]


@pytest.mark.parametrize("name", ["gpt-neox", "opt", "olmo", "llama"])
def test_a_sampled_continuation_reads_like_english(name):
    known = set(
        re.findall(r"[a-z]+", " ".join(d.text for d in read_documents("asv+kjv")[0]).lower())
    )
    model, tokenizer = load(f"nano:{name}")
    text = make.sample(model, tokenizer, tokens=40, seed=1)
    words = re.findall(r"[a-z]+", text.lower())
    assert len(words) > 20
    assert sum(word in known for word in words) > 0.85 * len(words)
    assert len(set(words)) > 0.4 * len(words)
    assert text == make.sample(model, tokenizer, tokens=40, seed=1)


def test_the_tokenizer_is_trained_again_the_same(tmp_path):
    make.train_tokenizer().save_pretrained(tmp_path)
    shared = data_folder() / "sources" / "tokenizer" / "tokenizer.json"
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads(shared.read_text())


@pytest.fixture
def nano(monkeypatch, tmp_path):
    """A recipe that trains in a second, on a short text."""
    text = tiny.write_text(tmp_path)
    load = make.load_corpus
    monkeypatch.setattr(make, "load_corpus", lambda name, **rest: load(text, **rest))
    recipe = dataclasses.replace(
        RECIPES["llama"],
        config={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16},
        steps=40,
        batch_size=1,
        keep=(20,),
    )
    monkeypatch.setitem(RECIPES, "nano", recipe)
    return tmp_path


def test_pretrain_makes_folders_that_load(nano):
    made = make.pretrain("nano", out=nano / "made", progress=False)
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
    again = make.pretrain("nano", out=nano / "again", progress=False)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (made, again)]
    assert weights[0] == weights[1]


def test_pretrain_loses_nothing(nano, monkeypatch):
    taken = nano / "made"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    with pytest.raises(HcvizError, match="already exists"):
        make.pretrain("nano", out=taken, progress=False)

    def broken(*args, **options):
        raise RuntimeError("stop")

    monkeypatch.setattr(make, "sample", broken)
    with pytest.raises(RuntimeError, match="stop"):
        make.pretrain("nano", out=taken, steps=2, overwrite=True, progress=False)
    assert [path.name for path in taken.iterdir()] == ["mine"]
    assert not [path for path in Path(nano).iterdir() if path.name.startswith(".tmp")]


def test_an_unknown_recipe_is_named():
    with pytest.raises(HcvizError, match=r"Unknown source 'bert'. The recipes are gpt-neox"):
        make.pretrain("bert")
    script = Path(scripts.ROOT, "data/sources/make.py")
    done = subprocess.run([sys.executable, script, "bert"], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"make.py: Unknown source 'bert'\. .*\n", done.stderr)


def test_its_examples_run():
    found = doctest.testmod(make)
    assert found.attempted > 0
    assert found.failed == 0

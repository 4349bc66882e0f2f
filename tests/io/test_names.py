"""The one rule of names: what is a shipped source, a folder, or the id of a model of the hub.

`place_of` of `sources`, and every verb and command that takes a name.
"""

from pathlib import Path

import pytest
import tiny
from huggingface_hub import ModelCard

import hcviz
from hcviz import cli
from hcviz.errors import HcvizError
from hcviz.io.sources import load, place_of, source_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with runs/demo, a file in it, a folder of one word, and a home."""
    for name in ("runs/demo", "mine", "home/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs" / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


PLACES = [
    ("nano:llama", source_path("llama")),
    ("nano:llama ", "Unknown source"),
    ("runs/demo", Path("runs/demo")),
    ("runs/demo/", Path("runs/demo")),
    ("mine", Path("mine")),
    (Path("mine"), Path("mine")),
    ("~/deep", "home/deep"),
    ("gpt2", "gpt2"),
    ("owner/name", "owner/name"),
    ("owner/name.v-1_b", "owner/name.v-1_b"),
    ("hf:owner/name", "owner/name"),
    ("hf:runs/demo", "runs/demo"),
    ("hf:mine", "mine"),
    ("runs/dmo", r"no folder 'runs/dmo' \(folders in .*runs: demo\)"),
    ("runs/file", "'runs/file' is a file, not a folder. Give its folder, runs"),
    ("./gpt2", r"no folder './gpt2' \(folders in .*: home, mine, runs\)"),
    (".gpt2", "no folder '.gpt2'"),
    ("../nowhere/x", "no folder '../nowhere/x'"),
    ("~/dep", "no folder '~/dep' .*: deep"),
    ("gpt2/", "no folder 'gpt2/'"),
    ("owner/name/", "no folder 'owner/name/'"),
    ("owner/name/more", "no folder 'owner/name/more'"),
    ("rnus/demo/x", r"no folder 'rnus/demo/x' \(.*: runs"),
    ("/nowhere", "no folder '/nowhere'"),
    (Path("gpt2"), "no folder 'gpt2'"),
    (Path("owner/name"), "no folder 'owner/name'"),
    ("", "'' is no folder here, and no id of a model of the hub"),
    ("gpt2@main", "'gpt2@main' is no folder here, and no id of a model of the hub"),
    ("two words", "'two words' is no folder here"),
    ("hf:a/b/c", "'hf:a/b/c' is no folder here"),
]


@pytest.mark.parametrize(("spec", "found"), PLACES, ids=lambda one: repr(str(one))[1:-1])
def test_a_name_is_a_source_a_folder_or_an_id_of_the_hub(spec, found, here):
    if spec == "~/deep":
        found = here / found
    if isinstance(found, Path) or found == str(spec).removeprefix("hf:"):
        assert place_of(spec) == found
        assert isinstance(place_of(spec), type(found))
    else:
        with pytest.raises(HcvizError, match=found):
            place_of(spec)


VERBS = {
    "load": load,
    "clone_checkpoint": lambda name: hcviz.clone_checkpoint(name, "out"),
    "to_config": lambda name: hcviz.clone(tiny.model(), to_config=name),
    "train": lambda name: hcviz.train(name, out="out"),
    "run_arms": lambda name: hcviz.run_arms(name, out="out"),
    "measure": hcviz.measure,
    "measure source": lambda name: hcviz.measure(
        hcviz.Run.of("nano:gpt-neox", factors={"hidden": 2}), metrics=["cka"], source=name
    ),
    "diff": lambda name: hcviz.diff("nano:llama", name),
    "Run": hcviz.Run,
    "Run.of": hcviz.Run.of,
    "Run.of list": lambda name: hcviz.Run.of([name]),
    "Run.of steps": lambda name: hcviz.Run.of({7: name}),
    "Run.of source": lambda name: hcviz.Run.of("nano:llama", source=name).factors,
    "Run.of revisions": lambda name: hcviz.Run.of(name, revisions=["main"]),
    "explore": hcviz.explore,
}
COMMANDS = {"clone": ["out"], "declone": ["out"], "deepen": ["out", "--layers", "8"]}
COMMANDS |= {"verify": ["nano:llama"], "diff": ["nano:llama"], "train": ["--out", "out"]}
COMMANDS |= {"measure": [], "plot": [], "figures": []}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [str, Path])
def test_every_verb_tells_a_slip_in_a_path(verb, kind, here):
    with pytest.raises(HcvizError, match=r"There is no folder 'runs/dmo' .*runs: demo"):
        VERBS[verb](kind("runs/dmo"))
    assert not (here / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_a_slip_in_a_path(command, here, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hcviz", command, "runs/dmo", *COMMANDS[command]])
    with pytest.raises(SystemExit):
        cli.main()
    assert "There is no folder 'runs/dmo'" in capsys.readouterr().err


def test_an_id_of_one_word_is_asked_of_the_hub(here, monkeypatch):
    asked = []

    def fetch(repo, **_):
        asked.append(repo)
        return str(source_path("llama"))

    config = str(source_path("llama") / "config.json")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: config)
    assert (hcviz.diff("nano:llama", "gpt2")["moved"] == 0).all()
    assert (hcviz.diff("hf:runs/demo", "nano:llama")["moved"] == 0).all()
    assert asked == ["gpt2", "runs/demo"]
    hcviz.clone_checkpoint("hf:mine", "out", check="twin", progress=False)
    assert ModelCard.load(here / "out" / "README.md").data.base_model == "mine"
    assert hcviz.Run.of("hf:runs/demo", revisions=["main"]).name == "demo"
    for name in ("gpt2", "hf:mine"):
        with pytest.raises(HcvizError, match=f"The model '{name}' cannot be loaded"):
            load(name)
    with pytest.raises(HcvizError, match=r"is a folder here.* hf:runs/demo"):
        hcviz.Run.of("runs/demo", revisions=["main"])
    with pytest.raises(HcvizError, match=r"'gpt2' is not a folder here.*hcviz train wrote"):
        hcviz.Run("gpt2")

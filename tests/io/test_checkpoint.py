"""hcviz.io.checkpoint, places: checkpoints that any program wrote, read tensor by tensor."""

import json
import shutil

import httpx
import pytest
import tiny
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.errors import HcvizError
from hcviz.io.checkpoint import KEPT, Stored
from hcviz.runs.places import Revision, find_places
from hcviz.runs.recorded import record
from hcviz.runs.rows import WHOLE, table
from hcviz.views.figures import figure

NAME = "model.layers.0.mlp.up_proj.weight"

EXPERTS = {
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {
        "num_experts": 11,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "phimoe": {"num_local_experts": 3},
}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_that_are_stored_one_by_one_are_read_as_the_model_stacks_them(family, tmp_path):
    config = AutoConfig.for_model(
        family, vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=16, **EXPERTS[family],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert len([key for key in file.keys() if ".experts.2." in key]) >= 3
    stored = Stored(tmp_path)
    parameters = dict(model.named_parameters())
    assert set(stored.names()) == set(parameters)
    assert all(torch.equal(stored.tensor(name), weight) for name, weight in parameters.items())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three checkpoints of somebody else's clone: no run.json, no recipe in the configuration."""
    root = tmp_path_factory.mktemp("theirs")
    wide = hcviz.clone(tiny.model(), hidden=2)
    del wide.config.hcviz
    for step in (0, 5, 40):
        wide.save_pretrained(root / f"step_{step}")
        wide.model.layers[0].mlp.up_proj.weight.data[0] += 0.1
    return root


def test_a_folder_of_checkpoints_is_a_run(folders):
    run = hcviz.Run.of(folders, factors={"hidden": 2}, label="theirs")
    assert (run.steps, run.name, run.is_clone) == ([0, 5, 40], "theirs", True)
    frame = hcviz.measure(run, metrics=["ledger"], tensors="up_proj", cache=False)
    moved = frame[frame["value"] > 0]
    assert set(moved["step"]) == {5, 40}
    assert set(moved["tensor"]) == {"model.layers.0.mlp.up_proj.weight"}


def test_without_factors_there_is_no_ledger_and_everything_else(folders):
    run = hcviz.Run.of(folders)
    assert not run.is_clone
    frame = hcviz.measure(run, metrics=["ledger", "spectrum"], tensors="up_proj", cache=False)
    assert set(frame["metric"]) == {"spectrum"}


def test_the_factors_are_told_by_the_source(folders, tmp_path):
    small = tiny.model()
    assert hcviz.Run.of(folders, source=small).factors["hidden"] == 2
    small.save_pretrained(tmp_path)
    run = hcviz.Run.of(folders, source=tmp_path)
    assert run.factors == hcviz.clone(small).config.hcviz["factors"]
    with pytest.raises(HcvizError, match="keeps family and depth"):
        _ = hcviz.Run.of(folders, source="nano:gpt-neox").factors


def test_the_recipe_of_a_clone_is_in_its_configuration(tmp_path):
    hcviz.clone(tiny.model(), hidden=3).save_pretrained(tmp_path / "checkpoint-7")
    run = hcviz.Run.of(tmp_path / "checkpoint-7")
    assert (run.steps, run.factors["hidden"]) == ([7], 3)


def test_a_model_whose_architecture_is_not_understood_is_measured(tmp_path):
    config = AutoConfig.for_model(
        "mamba", vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    frame = hcviz.measure(hcviz.Run.of(tmp_path), metrics=["spectrum"], tensors="in_proj")
    assert len(frame) == 16


def test_places_are_numbered_by_their_names(folders, tmp_path):
    assert list(find_places(folders)) == [0, 5, 40]
    assert list(find_places([folders / "step_40", folders / "step_5"])) == [5, 40]
    assert list(find_places({9: folders / "step_5", 2: folders / "step_0"})) == [2, 9]
    for name in ("before", "after"):
        shutil.copytree(folders / "step_0", tmp_path / name)
    assert list(find_places([tmp_path / "before", tmp_path / "after"])) == [0, 1]
    names = ["step1000-tokens4B", "step2000-tokens8B"]
    assert list(find_places("org/model", names)) == [1000, 2000]


def test_nothing_found_is_said(folders, tmp_path):
    with pytest.raises(HcvizError, match="holds no checkpoint"):
        find_places(tmp_path)
    with pytest.raises(HcvizError, match="is no checkpoint"):
        find_places([tmp_path])
    with pytest.raises(HcvizError, match=r"is not a folder.*revisions="):
        find_places("org/model")
    with pytest.raises(HcvizError, match="No checkpoint was given"):
        find_places([])


def test_revisions_of_the_hub_are_fetched_once_and_when_read(folders, monkeypatch):
    asked = []

    def fetch(repo, *, revision, allow_patterns):
        asked.append((repo, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folders / revision)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    run = hcviz.Run.of("org/model", revisions=["step_0", "step_40"], factors={"hidden": 2})
    assert run.steps == [0, 40]
    assert asked == []
    assert run.name == "model"
    name = run.names(40)[0]
    assert run.tensor(name, 40) is not None
    assert asked == [("org/model", "step_40")]


@pytest.fixture
def hub(folders, monkeypatch, tmp_path):
    """A repository of three revisions, of which the last has a log; what is fetched is noted."""
    there = shutil.copytree(folders, tmp_path / "hub")
    row = {"step": 40, "loss": 2.5, "learning_rate": 1e-3}
    (there / "step_40" / "trainer_state.json").write_text(json.dumps({"log_history": [row]}))
    asked = []

    def fetch(repo, *, revision, allow_patterns):
        asked.append(f"{revision}/*")
        return str(there / revision)

    def fetch_one(repo, name, *, revision):
        asked.append(f"{revision}/{name}")
        if not (there / revision / name).is_file():
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RemoteEntryNotFoundError("404", response=response)
        return str(there / revision / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch_one)
    names = [f"step_{step}" for step in (0, 5, 40)]
    run = hcviz.Run.of("org/model", revisions=names, factors={"hidden": 2})
    return run, asked


UP = "model.layers.0.mlp.up_proj.weight"
ONLY = {
    "history": (lambda run: run.history, ["step_40/trainer_state.json"]),
    "config": (lambda run: run.config, ["step_0/config.json"]),
    "names": (lambda run: run.names(5), ["step_5/*"]),
    "blocks": (lambda run: run.blocks(UP, 5), ["step_5/*"]),
    "model": (lambda run: run.model(5), ["step_5/*"]),
    "last": (lambda run: (run.tensor(UP), run.layout), ["step_40/*"]),
    "ledger": (
        lambda run: hcviz.measure(run, metrics=["ledger"], tensors="up_proj", steps=[5]),
        ["step_5/*"],
    ),
    "twins": (
        lambda run: hcviz.measure(run, metrics=["twins"], steps=[5], batch=torch.ones(1, 8).long()),
        ["step_5/*"],
    ),
    "update": (
        lambda run: hcviz.measure(run, metrics=["update.ledger"], tensors="up_proj", steps=[40]),
        ["step_40/*", "step_5/*"],
    ),
    "figure": (lambda run: figure([run], "blocks", steps=[5]), ["step_5/*"]),
}


@pytest.mark.parametrize("what", ONLY)
def test_of_a_run_on_the_hub_only_what_is_asked_for_is_fetched(what, hub):
    run, asked = hub
    ask, fetched = ONLY[what]
    ask(run)
    kinds = [one for one in asked if one != "step_0/config.json" or what == "config"]
    assert kinds == fetched


def test_a_step_on_the_hub_that_is_not_whole_names_the_whole_ones_without_fetching(hub):
    run, asked = hub
    folder = run.stored(5).folder
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", KEPT: "up_proj"})
    with pytest.raises(HcvizError, match=r"keeps .* tensors only"):
        run.model(5)
    assert asked == ["step_5/*"]


def test_the_history_of_a_run_on_the_hub_is_that_of_its_newest_revision(hub):
    run, asked = hub
    assert run.names(0)
    assert run.names(40)
    asked.clear()
    assert list(run.history["loss"]) == [2.5]
    assert asked == ["step_40/trainer_state.json"]
    (run.stored(40).folder / "trainer_state.json").unlink()
    assert run.history.empty


def test_a_file_that_cannot_be_fetched_is_not_taken_for_one_that_is_not_there(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(HcvizError, match="cannot be fetched: no network"):
        _ = hcviz.Run.of("org/model", revisions=["step9"]).history


def test_a_revision_without_safetensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(HcvizError, match="holds no safetensors"):
        Revision("org/model", "main").fetch()


def test_a_revision_that_cannot_be_fetched_is_named(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(HcvizError, match=r"'step9' of org/model cannot be fetched: no network"):
        Revision("org/model", "step9").fetch()


@pytest.fixture
def named_alike(tmp_path, monkeypatch):
    """A working folder with a run of one's own under every name that a run of others may bear."""
    for name in ("demo", "checkpoints", "org/model"):
        (tmp_path / name).mkdir(parents=True)
        row = {"step": 5, "tensor": NAME, "metric": "norm", "value": -1.0}
        table([row]).to_parquet(tmp_path / name / WHOLE)
        log = [{"step": 5, "loss": -1.0}]
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        (tmp_path / name / "run.json").write_text('{"seed": -1}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("label", ["demo", None])
@pytest.mark.parametrize("kind", ["list", "by step", "revisions"])
def test_a_folder_that_bears_the_name_of_a_run_of_others_is_not_its_own(
    kind, label, folders, named_alike, monkeypatch
):
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda repo, revision, **_: str(folders / revision)
    )
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda repo, name, revision, **_: str(folders / revision / name),
    )
    places = [folders / "step_0", folders / "step_5"]
    where, more = {
        "list": (places, {}),
        "by step": ({0: places[0], 5: places[1]}, {}),
        "revisions": ("hf:org/model", {"revisions": ["step_0", "step_5"]}),
    }[kind]
    before = sorted(named_alike.rglob("*"))
    run = hcviz.Run.of(where, label=label, factors={"hidden": 2}, **more)
    assert run.name == (label or ("model" if more else "checkpoints"))
    assert run.name in repr(run)
    assert (run.path, run.cache_folder) == (None, None)
    assert run.metrics.empty
    assert run.history.empty
    frame = hcviz.measure(run, metrics=["norm"], tensors=NAME)
    assert frame["value"].gt(0).all()
    assert set(frame["run"]) == {run.name}
    assert sorted(named_alike.rglob("*")) == before
    with pytest.raises(HcvizError, match="has no folder of its own"):
        record([run], "kept", tensors=[NAME], frame=frame, command="")
    assert sorted(named_alike.rglob("*")) == before


def test_places_and_layers_are_ordered_as_numbers(folders, tmp_path):
    there = folders / "step_0"
    assert list(find_places({"1000": there, "200": there, 30: there})) == [30, 200, 1000]
    names = [f"run{seed}-step9" for seed in (10, 9, 100)]  # all have the same step, so they count
    for name in names:
        (tmp_path / name).symlink_to(there)
    assert [place.name for place in find_places(tmp_path).values()] == [
        "run9-step9", "run10-step9", "run100-step9",
    ]  # fmt: skip
    with pytest.raises(HcvizError, match=r"'last' is no step"):
        find_places({"last": there})


def test_tensors_come_in_the_order_of_their_layers(tmp_path):
    tiny.model(num_hidden_layers=11).save_pretrained(tmp_path)
    run = hcviz.Run.of(tmp_path)
    wanted = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(11)]
    assert [name for name in run.names() if "up_proj" in name] == wanted
    frame = hcviz.measure(run, metrics=["norm"], tensors="up_proj")
    assert list(frame["tensor"]) == wanted
    _, drawn = figure([run], "rank")
    assert list(drawn["tensor"].unique()) == ["model.layers.5.mlp.up_proj.weight"]


@pytest.mark.parametrize("outside", ["../other/model.safetensors", "/other/model.safetensors"])
def test_an_index_that_leaves_its_folder_is_refused(outside, tmp_path):
    tiny.model().save_pretrained(tmp_path / "other")
    (tmp_path / "m").mkdir()
    shutil.copy(tmp_path / "other" / "config.json", tmp_path / "m")
    index = {"weight_map": {NAME: outside}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    for read in (hcviz.load, hcviz.Run.of, lambda place: hcviz.diff(place, place)):
        with pytest.raises(HcvizError, match="lies outside its folder"):
            read(tmp_path / "m")

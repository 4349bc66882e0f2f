"""Pairs at the paper's scale on paper, held against real tiny models, a real AdamW, a real run."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import scripts
import tiny
import torch

import hcviz
from hcviz.claims.budget import (
    Assumptions,
    Launch,
    Pair,
    assumed,
    differences,
    estimate,
    pair_names,
    planned,
    read_pair,
    shapes,
    table_2,
)
from hcviz.claims.claim import find_claim
from hcviz.claims.quantities import QUANTITIES
from hcviz.claims.reproduce import verdict_of
from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.text.corpus import load_corpus

ROOT = Path(__file__).parents[2]
TOML = """name = "tiny"
hub = "tiny"
[source]
model_type = "llama"
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 32
vocab_size = 2048
max_position_embeddings = 64
[clone]
hidden = 2
[launch]
context = 16
gpus = 2
accumulation = 2
iterations = 200
warmup_iterations = 20
dtype = "float32"
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "tiny.toml").write_text(TOML, encoding="utf-8")
    return tmp_path / "tiny.toml"


@pytest.fixture(scope="module")
def pythia():
    pair = read_pair("pythia-410m")
    return pair, planned(pair)


def test_the_pairs_of_the_paper_are_there():
    names = ["olmo-1b", "opt-1.3b", "opt-350m", "opt-350m-x4", "pythia-410m"]
    assert pair_names() == names
    for name in names:
        pair = read_pair(name)
        assert "/" in pair.hub
        assert bool(pair.table1) == bool(pair.table2) == ("5.3B" not in pair.name)


def test_both_tables_are_as_the_paper_has_them():
    for name in ("table-1", "table-2"):
        assert str(verdict_of(find_claim(name))).startswith("reproduced: 0"), name
    found = QUANTITIES["table_2_differences"](None, ["olmo-1b", "opt-350m"], 2)
    assert found.to_list() == [1, 1]  # full blocks hold more tokens than the paper's average


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        (1, {"clone": {"hidden": 2, "ffn": 1}}),
        (1, {"table1": {"heads": [16, 16]}}),
        (2, {"launch": Launch(lr=1.6e-4)}),
        (2, {"launch": Launch(schedule="constant")}),
        (2, {"launch": Launch(betas=(0.9, 0.95))}),
        (2, {"launch": Launch(warmup_iterations=2_500)}),
    ],
)
def test_a_pair_that_is_not_as_in_the_tables_is_told(table, changes):
    changed = dataclasses.replace(read_pair("pythia-410m"), **changes)
    assert differences(changed, table, apart=["tokens_per_iteration"]) == 1


def test_a_table_without_a_row_counts_no_differences():
    with pytest.raises(HcvizError, match=r"table 2 has no row for OPT-1\.3B -> OPT-5"):
        differences(read_pair("opt-1.3b"), 2)


def test_shapes_are_those_of_the_clone(pythia):
    found = {name: (count, *sizes) for name, count, *sizes in shapes(pythia[1])}
    up = found["gpt_neox.layers.*.mlp.dense_h_to_4h.weight"]
    assert up == (24, (4096, 1024), (8192, 2048))
    assert found["lm_head.weight"] == (1, (50304, 1024), (50304, 2048))


def test_what_is_counted_is_what_a_real_model_and_its_adamw_hold(path):
    pair = read_pair(path)
    small, models = tiny.model("llama"), planned(pair)
    wide = hcviz.clone(small, hidden=2)
    assert models.source.num_parameters() == small.num_parameters()
    assert models.wide.num_parameters() == wide.num_parameters()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    blocks = torch.randint(0, 2048, (2, 16))
    own = {p.data_ptr() for p in wide.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        wide.train().base_model(input_ids=blocks)
    activations = sum(size for place, size in kept.items() if place not in own)
    wide(input_ids=blocks, labels=blocks).loss.backward()
    optimizer = torch.optim.AdamW(wide.parameters())
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    costs = estimate(pair, models, Assumptions(gpus=1, compute_bytes=4))
    assert costs["weights"] == sum(p.nbytes for p in wide.parameters())
    assert costs["gradients"] == sum(p.grad.nbytes for p in wide.parameters())
    assert costs["moments"] == sum(t.nbytes for t in moments)
    assert costs["activations"] == pytest.approx(activations, rel=0.3)


def test_the_launch_trains_as_the_file_says(path, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    wide = hcviz.clone(tiny.model("llama"), hidden=2)
    wide.save_pretrained(tmp_path / "wide")
    tiny.tokenizer().save_pretrained(tmp_path / "wide")
    text = str(tiny.write_text(tmp_path))
    out = tmp_path / "run"
    scripts.load("configs/launch.py").launch(
        str(path), str(tmp_path / "wide"), out, corpus=text, steps=2, device="cpu"
    )
    run, pair = Run(out), read_pair(path)
    asked = run.info["request"]
    assert asked["batch_size"] == 8  # 2 a GPU, 2 GPUs, 2 of them in a step
    assert asked["trainer_args"] == {"gradient_accumulation_steps": "4"}
    assert (asked["warmup"], asked["lr"], asked["betas"]) == (0.1, 1.5e-4, [0.9, 0.999])
    costs = estimate(pair, planned(pair), Assumptions(tokens=2 * 8 * 16))
    last = run.history.query("split == 'train'").iloc[-1]
    assert last["tokens"] == costs["tokens"]
    assert last["flops"] == costs["flops_inner"] * costs["tokens"]


def test_as_much_is_written_of_every_shard_of_dolma(tmp_path, capsys):
    for name in ("a", "b"):
        with gzip.open(tmp_path / f"{name}.json.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"id": n, "text": name * 10}) + "\n" for n in range(9))
    urls = [(tmp_path / f"{name}.json.gz").as_uri() for name in ("a", "b")]
    texts = scripts.load("configs/dolma.py").texts
    assert list(texts(urls, 50)) == 3 * ["a" * 10] + 3 * ["b" * 10]  # 25 bytes each, whole ones
    (tmp_path / "a.json.gz").write_bytes((tmp_path / "a.json.gz").read_bytes()[:-12])
    assert set(texts([*urls, "file:///gone"], 1e9)) == {"a" * 10, "b" * 10}
    said = capsys.readouterr().err
    assert f"{urls[0]} broke off" in said
    assert "file:///gone broke off" in said


def test_a_list_of_shards_becomes_a_corpus(tmp_path):
    with gzip.open(tmp_path / "a.json.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": f"It rained on day {n}."}) + "\n" for n in range(900))
    (tmp_path / "list.txt").write_text((tmp_path / "a.json.gz").as_uri() + "\n")
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    scripts.load("configs/dolma.py").main(
        tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"), version=str(tmp_path / "list.txt")
    )
    corpus = load_corpus(tmp_path / "out", tokenizer=tiny.tokenizer(), context=16)
    assert corpus.documents == 900
    assert corpus.origin == {"shards": "list.txt", "read": "1"}


def test_fewer_gpus_gather_more_batches_and_take_as_long(pythia):
    many, few = (estimate(*pythia, Assumptions(gpus=n)) for n in (64, 8))
    assert few["tokens_per_step"] == many["tokens_per_step"] == 64 * 2 * 16 * 1024
    assert few["hours"] == many["hours"]
    assert few["days"] == 8 * many["days"]
    assert few["moments"] == 8 * many["moments"] == pythia[1].wide.num_parameters()
    with pytest.raises(HcvizError, match=r"2048 blocks.*to 48 GPUs\. Take a divisor of 1024"):
        estimate(*pythia, Assumptions(gpus=48))


def test_hours_cost_and_energy_follow_what_is_assumed(pythia):
    asked = {"teraflops": 500, "utilisation": 0.5, "dollars": 3, "watts": 400, "pue": 1.5}
    costs = estimate(*pythia, assumed(asked | {"tokens": 1e9}))
    token = sum(costs[f"flops_{part}"] for part in ("inner", "head", "attention"))
    assert costs["flops"] == pytest.approx(1e9 * token)
    assert costs["hours"] == pytest.approx(1e9 * token / 250e12 / 3600)
    assert costs["cost"] == pytest.approx(3 * costs["hours"])
    assert costs["energy"] == pytest.approx(0.6 * costs["hours"])
    assert costs["flops_attention"] == 12 * 24 * 1024 * 2048
    assert costs["flops_head"] == 6 * 50304 * 2048


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"speed": 2}, "no assumption 'speed'; there are gpus, tokens"),
        ({"pue": 0}, "pue=0 must be positive"),
        ({"gpus": -1}, "gpus=-1 must be positive"),
    ],
)
def test_an_assumption_that_is_none_is_refused(given, said):
    with pytest.raises(HcvizError, match=said):
        assumed(given)


def test_any_model_is_doubled_and_has_no_row():
    pair = read_pair("nano:llama")
    assert (pair.clone, pair.launch.context, table_2(pair)) == ({"hidden": 2}, 256, [])
    assert planned(pair).wide.config.hidden_size == 256


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[clone]", "[clone", r"cannot be read: .*There are olmo-1b"),
        ('hub = "tiny"', "", "hub: Field required"),
        ("gpus = 2", "cards = 2", r"launch\.cards: Unexpected keyword argument"),
    ],
)
def test_a_damaged_pair_is_refused_with_file_and_field(path, old, new, said):
    path.write_text(TOML.replace(old, new), encoding="utf-8")
    with pytest.raises(HcvizError, match=said) as error:
        read_pair(path)
    assert "tiny.toml" in str(error.value)


def test_a_pair_has_only_what_the_paper_says_by_default():
    assert Pair("a", "b").launch == read_pair("opt-350m").launch

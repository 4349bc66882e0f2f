"""Metrics: by hand on 4x4, against independent formulas on random input, and over runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import tiny
import torch
import transformers

import hcviz
from hcviz.architecture.axes import Dim, Segment
from hcviz.errors import HcvizError
from hcviz.metrics import COLUMNS, METRICS

NR = (Dim("write", (Segment((("ffn", 2),)),)), Dim("read", (Segment((("hidden", 2),)),)))
TWO = {"hidden": 2, "ffn": 2}


def values(name, weight, axes=NR, factors=TWO):
    """Return axis or (row, col) or '' -> value."""
    rows = METRICS[name].function(torch.as_tensor(weight), axes, factors)
    return {r.get("axis") or ((r["row"], r["col"]) if "col" in r else ""): r["value"] for r in rows}


def test_cosine_by_hand():
    # rows: equal halves (1), opposite (-1), orthogonal (0), 45 degrees
    weight = [[1.0, 2, 1, 2], [1, 0, -1, 0], [1, 0, 0, 3], [1, 0, 2, 2]]
    assert values("cosine", weight)[""] == pytest.approx((1 - 1 + 0 + 0.5**0.5) / 4, abs=1e-12)


def test_cosine_of_three_copies_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 6))
    a, b, c = weight[:, :2], weight[:, 2:4], weight[:, 4:]

    def cos(x, y):
        return np.mean((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))

    expected = (cos(a, b) + cos(a, c) + cos(b, c)) / 3
    found = values("cosine", weight, factors={"hidden": 3, "ffn": 2})[""]
    assert found == pytest.approx(expected, abs=1e-12)


def test_cosine_of_an_embedding_compares_the_halves_of_each_token():
    table = (Dim("read", (Segment(((None, 3),)),)), Dim("write", (Segment((("hidden", 2),)),)))
    weight = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, -1]])
    assert values("cosine", weight, table)[""] == pytest.approx(0.0, abs=1e-12)


def test_pairs_by_hand():
    weight = torch.zeros(4, 4)
    weight[:2, :2] = weight[2:, 2:] = torch.eye(2)
    weight[:2, 2:] = torch.tensor([[0.0, 1], [-1, 0]])
    weight[2:, :2] = -torch.eye(2)
    found = values("pairs", weight)
    assert found[0, 0] == found[0, 3] == pytest.approx(1)
    assert found[0, 1] == pytest.approx(0)
    assert found[0, 2] == found[2, 3] == pytest.approx(-1)
    assert len(found) == 16


def test_ledger_by_hand():
    # along N the rows of blocks are (1, 1) and (3, 1) times one matrix: mean (2, 1)
    block = torch.ones(2, 2)
    weight = torch.cat([torch.cat([block, block], 1), torch.cat([3 * block, block], 1)], 0)
    found = values("ledger", weight)
    assert found["N"] == pytest.approx((1 + 1) / (1 + 1 + 9 + 1))
    assert found["R"] == pytest.approx((1 + 1) / (1 + 1 + 9 + 1))


def test_ledger_against_a_projector_on_random_input():
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(6, 4))
    factors = {"hidden": 2, "ffn": 3}
    mean_n = np.kron(np.full((3, 3), 1 / 3), np.eye(2))
    mean_r = np.kron(np.full((2, 2), 1 / 2), np.eye(2))
    total = np.square(weight).sum()
    found = values("ledger", weight, factors=factors)
    assert found["N"] == pytest.approx(np.square(weight - mean_n @ weight).sum() / total, abs=1e-12)
    assert found["R"] == pytest.approx(np.square(weight - weight @ mean_r).sum() / total, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ledger_is_exactly_zero_for_equal_copies_and_positive_for_one_bit(n, dtype):
    block = torch.randn(2, 2).to(dtype)
    weight = block.repeat(n, n)
    factors = {"hidden": n, "ffn": n}
    assert values("ledger", weight, factors=factors) == {"N": 0.0, "R": 0.0}
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(100.0, dtype=dtype))
    assert min(values("ledger", weight, factors=factors).values()) > 0


def test_ledger_of_two_levels_of_heads_compares_every_copy_with_every_other():
    queries = (Dim("write", (Segment((("kv_heads", 1), ("group", 1), (None, 1))),)),)
    factors = {"kv_heads": 2, "group": 2}
    apart = torch.tensor([1.0, 2.0, 1.0, 2.0])  # differs along the group only
    assert values("ledger", apart, queries, factors)["H"] == pytest.approx(4 * 0.25 / 10)


def test_spectrum_against_scipy():
    weight = torch.randn(5, 3)
    rows = list(METRICS["spectrum"].function(weight, NR, {}))
    assert [r["row"] for r in rows] == [0, 1, 2]
    expected = scipy.linalg.svdvals(weight.double().numpy())
    assert [r["value"] for r in rows] == pytest.approx(expected, rel=1e-10)


def test_fused_parts_are_measured_apart():
    fused = (Dim("write", (Segment(((None, 2), ("ffn", 1)), "gate/up"),)), NR[1])
    weight = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2], [5, 5, 5, 5]])
    found = list(METRICS["ledger"].function(weight, fused, TWO))
    assert {r["part"] for r in found} == {"gate/up"}
    assert next(r["value"] for r in found if r["axis"] == "N") > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    wide = hcviz.clone(tiny.model("gpt_neox"))
    return hcviz.train(
        wide, out=folder / "wide", corpus=tiny.write_text(folder), tokenizer=tiny.tokenizer(),
        steps=3, snapshots=3, batch_size=2, context=16, eval_blocks=2, progress=False,
    )  # fmt: skip


def test_measure_gives_the_tidy_frame(run):
    frame = hcviz.measure(run, metrics=["cosine", "ledger"], tensors=["mlp.*weight", "lm_head"])
    assert list(frame.columns) == COLUMNS
    assert set(frame["step"]) == set(run.steps)
    assert set(frame.loc[frame["tensor"] == "lm_head.weight", "layer"].isna()) == {True}
    up = frame[frame["tensor"] == "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    assert set(up["layer"]) == {1}
    assert set(up["axis"].dropna()) == {"N", "R"}


def test_a_trained_symmetric_clone_is_locked_bit_by_bit(run):
    ledger = hcviz.measure(run, metrics=["ledger"])
    moved = run.tensor("lm_head.weight", 3) - run.tensor("lm_head.weight", 0)
    assert moved.abs().max() > 0
    assert (ledger["value"] == 0).all()


def test_measure_reads_several_runs_and_skips_copies_where_there_are_none(run, tmp_path):
    source = hcviz.train(
        tiny.model("gpt_neox"), out=tmp_path / "small", corpus=tiny.write_text(tmp_path),
        tokenizer=tiny.tokenizer(), steps=1, snapshots=2, batch_size=2, context=16, eval_blocks=2,
        progress=False,
    )  # fmt: skip
    frame = hcviz.measure(
        [run, str(source.path)], metrics=["ledger", "spectrum"], tensors="lm_head", steps=[0]
    )
    assert set(frame.loc[frame["metric"] == "ledger", "run"]) == {"wide"}
    assert set(frame.loc[frame["metric"] == "spectrum", "run"]) == {"wide", "small"}


def test_update_is_the_difference_to_the_snapshot_before(run):
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    frame = hcviz.measure(run, metrics=["update.spectrum", "ledger"], tensors=f"^{name}$")
    assert set(frame["metric"]) == {"update.spectrum", "ledger"}
    rows = frame[frame["metric"] == "update.spectrum"]
    assert set(rows["step"]) == set(run.steps[1:])
    before, last = run.steps[-2:]
    moved = run.tensor(name, last).double() - run.tensor(name, before).double()
    found = rows.loc[rows["step"] == last, "value"].to_numpy()
    assert found == pytest.approx(scipy.linalg.svdvals(moved.numpy()), abs=1e-12)
    assert found[0] > 0


def test_moments_are_read_from_the_checkpoint_that_keeps_them(run):
    """A fresh model fed the same optimizer.pt by torch itself names every moment."""
    last = run.steps[-1]
    frame = hcviz.measure(run, metrics=["exp_avg.spectrum", "exp_avg_sq.ledger"])
    assert set(frame["step"]) == {last}
    assert (frame.loc[frame["metric"] == "exp_avg_sq.ledger", "value"] == 0).all()
    model = run.model(last)
    trainer = transformers.Trainer(model, transformers.TrainingArguments(use_cpu=True))
    optimizer = trainer.create_optimizer()
    path = run.path / f"checkpoint-{last}" / "optimizer.pt"
    optimizer.load_state_dict(torch.load(path, weights_only=True))
    rows = frame[(frame["metric"] == "exp_avg.spectrum") & (frame["row"] == 0)]
    assert len(rows) == sum(p.dim() == 2 for p in model.parameters())
    for tensor, value in zip(rows["tensor"], rows["value"], strict=True):
        moment = optimizer.state[model.get_parameter(tensor)]["exp_avg"]
        assert value == pytest.approx(scipy.linalg.svdvals(moment.double().numpy())[0], rel=1e-9)


def test_moments_of_another_optimizer_are_refused(run, tmp_path):
    folder = tmp_path / "run" / "checkpoint-0"
    shutil.copytree(run.path / f"checkpoint-{run.steps[0]}", folder)
    shutil.copy(run.path / "run.json", tmp_path / "run")
    state = {"state": {}, "param_groups": [{"params": [0, 1, 2]}]}
    torch.save(state, folder / "optimizer.pt")
    with pytest.raises(HcvizError, match=r"groups of \[3\] parameters"):
        hcviz.measure(tmp_path / "run", metrics=["exp_avg.ledger"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["cosin"]}, "cosin.*unknown.*cosine"),
        ({"metrics": ["update.cosin"]}, "update.cosin.*unknown.*update"),
        ({"metrics": ["grad.ledger"]}, "Gradients are not kept"),
        ({"tensors": "nowhere"}, "No tensor.*nowhere"),
        ({"steps": [77]}, "77"),
    ],
)
def test_clear_errors(run, arguments, message):
    with pytest.raises(HcvizError, match=message):
        hcviz.measure(run, **arguments)


def test_every_metric_says_what_it_is():
    assert all(entry.help.endswith(".") or ";" in entry.help for entry in METRICS.values())


def test_a_moment_is_not_compared_with_a_weight():
    with pytest.raises(HcvizError, match=r"exp_avg.distance.*Leave the prefix out"):
        hcviz.measure("nowhere", metrics=["exp_avg.distance"])


MEASURE = """
import sys
sys.path.insert(0, sys.argv[2])
import hcviz
from tables import peak
from hcviz.runs.run import Run
metrics = ["ledger", "cosine", "pairs", "norm"]
run = Run.of(sys.argv[1])
hcviz.measure(run, metrics=metrics, tensors="layers.0", cache=False)  # what is loaded once
before = peak()
frame = hcviz.measure(run, metrics=metrics, cache=False)
print(peak() - before, frame["tensor"].nunique())
"""


def test_memory_is_that_of_a_tensor_whatever_the_model(tmp_path):
    """A model of a billion parameters is measured as this one is: one tensor after the other."""
    small = tiny.model("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=24)
    hcviz.clone(small, expansion="noisy-symmetric", check=False).save_pretrained(tmp_path)
    whole = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURE,
            str(tmp_path),
            str(Path(__file__).parents[2] / "benchmarks"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, tensors = map(int, done.stdout.split())
    assert tensors > 24 * 9
    largest = 2048 * 512 * 8  # in float64, in which pairs are taken
    assert grown < 4 * largest < whole / 5

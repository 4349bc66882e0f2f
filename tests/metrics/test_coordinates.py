"""The coordinate check: by hand, against plain hooks, and on clones whose answer is known."""

import copy
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import models
import pytest
import tiny
import torch
from safetensors.torch import save_file

import hcviz
from hcviz.cloning.lockstep import lockstep_groups
from hcviz.metrics import METRICS
from hcviz.runs.run import Run
from hcviz.widening.twin import TrueFloat64

LR, EPS = 1e-3, 1e-12


def rows(model, start, batch=None):
    batch, layout = models.ids() if batch is None else batch, hcviz.layout(start)
    return list(METRICS["coordinates"].function(model, batch, layout, {}, start=start))


def changes(model, start):
    """Return the change by tensor, of a float64 model truly computed in it."""
    with TrueFloat64():
        return {
            row["tensor"]: row["value"] for row in rows(model, start) if row["part"] == "change"
        }


class Linear(torch.nn.Module):
    """Two units, looked up and multiplied by a weight."""

    def __init__(self, weight):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=2)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)])
        self.layers[0].weight.data = torch.tensor(weight)

    def forward(self, input_ids, use_cache):
        found = self.layers[0](torch.tensor([[1.0, 0.0], [0.0, 1.0]])[input_ids])
        return SimpleNamespace(logits=2 * found)


def test_by_hand():
    """The two tokens' outputs are the columns: they move by (3, 0) and (4, 0)."""
    start, later = Linear([[1.0, 1.0], [2.0, 2.0]]), Linear([[4.0, 5.0], [2.0, 2.0]])
    run = METRICS["coordinates"].function
    found = run(later, torch.tensor([[0, 1]]), {"layers.0.weight": ()}, {}, start=start)
    values = {(row["tensor"], row["axis"], row["part"]): row["value"] for row in found}
    assert values == {
        ("layers.0", "R", "change"): 2.5,  # sqrt((9 + 16 + 0 + 0) / 4)
        ("layers.0", "R", "size"): 3.5,  # sqrt((16 + 25 + 4 + 4) / 4)
        ("logits", None, "change"): 5.0,
        ("logits", None, "size"): 7.0,
    }


WHERE = {
    "gpt_neox": ("gpt_neox.layers.{}", "attention.dense", "mlp.dense_4h_to_h"),
    "opt-350m": ("model.decoder.layers.{}", "self_attn.out_proj", "fc2"),
    "llama": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("transformer.h.{}", "attn.c_proj", "mlp.c_proj"),
}


@pytest.mark.parametrize("family", WHERE)
def test_against_plain_hooks(family):
    start = models.source(family)
    model = models.randomise(copy.deepcopy(start), seed=1)
    layer, attention, mlp = WHERE[family]
    wanted = {"logits": ""}
    for number in range(start.config.num_hidden_layers):
        path = layer.format(number)
        wanted |= {path: "R", f"{path}.{attention}": "H", f"{path}.{mlp}": "N"}
    seen = {path: [] for path in wanted}

    def keep(path, out):
        seen[path].append(out[0] if isinstance(out, tuple) else out)

    for one in (model, start):
        handles = [
            one.get_submodule(path).register_forward_hook(lambda *a, path=path: keep(path, a[2]))
            for path in wanted
            if path != "logits"
        ]
        with torch.no_grad():
            seen["logits"].append(one(models.ids()).logits)
        for handle in handles:
            handle.remove()
    found = rows(model, start)
    assert {row["tensor"]: row["axis"] or "" for row in found} == wanted
    assert {row["row"] for row in found} == {start.config.hidden_size}
    for row in found:
        now, before = (one.double().numpy() for one in seen[row["tensor"]])
        apart = now - before if row["part"] == "change" else now
        assert row["value"] == pytest.approx(((apart**2).sum() / apart.size) ** 0.5)


def trained(model, groups, steps):
    """Take steps of Adam on the same text, and return what was trained."""
    model = copy.deepcopy(model)
    named = dict(model.named_parameters())
    groups = [{**group, "params": [named[name] for name in group["params"]]} for group in groups]
    optimizer = torch.optim.AdamW(groups, lr=LR, eps=EPS, weight_decay=0.0)
    with TrueFloat64():
        for _ in range(steps):
            model(input_ids=models.ids(4), labels=models.ids(4)).loss.backward()
            optimizer.step()
            model.zero_grad()
    return model


@pytest.mark.parametrize(("family", "hidden"), [("gpt_neox", 2), ("llama", 3)])
def test_in_lockstep_a_clone_moves_as_far_as_its_source_and_at_the_same_rate_farther(
    family, hidden
):
    small = models.fresh(family, torch.float64)
    wide = hcviz.clone(small, hidden=hidden)
    names = {id(parameter): name for name, parameter in wide.named_parameters()}
    locked = [
        {**group, "params": [names[id(one)] for one in group["params"]]}
        for group in lockstep_groups(wide, lr=LR, eps=EPS)
    ]
    same = [{"params": list(names.values())}]
    source = changes(trained(small, same, 3), small)
    assert changes(trained(wide, locked, 3), wide) == pytest.approx(source, rel=1e-8)
    farther = changes(trained(wide, same, 3), wide)
    assert all(farther[path] > 1.1 * source[path] for path in source)


@pytest.mark.parametrize("hidden", [2, 3])
def test_what_reads_n_copies_moves_n_times_as_far_in_a_step_of_adam(hidden):
    """A down-projection trained alone: each of the n times as many weights moves by the rate."""
    small = models.fresh("gpt_neox", torch.float64)
    wide = hcviz.clone(small, hidden=hidden)
    groups = [{"params": ["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"]}]
    source, clone = (changes(trained(one, groups, 1), one) for one in (small, wide))
    for path in ("gpt_neox.layers.1.mlp.dense_4h_to_h", "gpt_neox.layers.1"):
        assert clone[path] == pytest.approx(hidden * source[path], rel=1e-6)
    assert clone["gpt_neox.layers.0"] == source["gpt_neox.layers.0"] == 0


def test_the_page_says_of_its_slopes_what_they_are():
    page = (Path(__file__).parents[2] / "docs" / "metrics" / "coordinates.md").read_text("utf-8")
    _, table, _ = page.split("<!-- measured -->\n")
    lines = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()]
    found = {
        name: [[*map(float, cell.split(" to "))] for cell in cells] for name, *cells in lines[2:]
    }
    locked = found.pop("clones, lockstep")
    assert locked == [[0.0]] * 4  # it does to rounding
    for low, high in found.pop("clones, rate / factor"):  # nearly, and slower
        assert -0.2 < low <= high < 0
    assert set(found) == {"clones, same rate", "random init, same rate"}
    assert all(low > 0.4 for cells in found.values() for low, _ in cells)  # farther the wider


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coordinates")
    for step in (0, 1, 2):
        tiny.model("gpt_neox", seed=step).save_pretrained(folder / f"step_{step}")
    return Run.of(folder)


def test_measure_compares_with_the_first_snapshot_that_is_whole(run, tmp_path):
    batch = torch.arange(2, 10).view(1, 8)
    asked = {"metrics": ["coordinates"], "batch": batch}
    frame = hcviz.measure(run, steps=[0, 2], **asked)
    for step in (0, 2):
        found = frame[frame["step"] == step]["value"].tolist()
        assert found == [row["value"] for row in rows(run.model(step), run.model(0), batch)]
    zero = frame[(frame["step"] == 0) & (frame["part"] == "change")]["value"]
    assert len(zero) == 7
    assert not zero.any()
    later = Run.of(shutil.copytree(run.path, tmp_path / "run"))
    assert hcviz.measure(later, steps=[2], **asked)["value"].tolist() == found
    shutil.copytree(run.path / "step_1", later.path / "step_0", dirs_exist_ok=True)
    wanted = [row["value"] for row in rows(run.model(2), run.model(1), batch)]
    assert hcviz.measure(later, steps=[2], **asked)["value"].tolist() == wanted
    cut = Run.of(shutil.copytree(run.path, tmp_path / "cut"))
    part = {"gpt_neox.embed_in.weight": run.tensor("gpt_neox.embed_in.weight", 0)}
    save_file(part, cut.path / "step_0" / "model.safetensors", {"format": "pt"})
    assert hcviz.measure(cut, steps=[2], **asked)["value"].tolist() == wanted

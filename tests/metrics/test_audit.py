"""hcviz.audit: checkpoints written here, with each fault once and with none."""

import math
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import hcviz
from hcviz import cli
from hcviz.errors import HcvizError

STEPS = [0, 1, 2, 4, 8, 16, 32]


def walk(seed: int = 0) -> dict[int, dict[str, torch.Tensor]]:
    """Weights of no known family that walk at random; a table, a counter and nothing do not."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.zeros(24, 16) for name in ("part.a", "part.b")}
    made = {}
    for step in range(max(STEPS) + 1):
        for name in weights:
            weights[name] = weights[name] + torch.randn(24, 16, generator=generator)
        if step in STEPS:
            made[step] = {
                **weights,
                "inv_freq": torch.ones(4),
                "count": torch.tensor(3),
                "none": torch.ones(0, 2),
            }
    return made


@pytest.fixture
def write(tmp_path):
    """Write snapshots as folders that hold nothing but weights."""

    def folder(made):
        for step, tensors in made.items():
            (tmp_path / "all" / f"step{step}").mkdir(parents=True)
            save_file(tensors, tmp_path / "all" / f"step{step}" / "model.safetensors")
        return tmp_path / "all"

    return folder


def rows(found) -> list[tuple]:
    """The findings as (step, other, tensor, what)."""
    return [tuple(row) for row in found.findings.drop(columns="value").to_numpy()]


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_has_no_fault_and_its_way_is_told(write, seed):
    made = walk(seed)
    found = hcviz.audit(write(made))
    assert rows(found) == []
    assert str(found) == "nothing odd was found"
    assert list(found.steps["step"]) == STEPS
    flat = {step: torch.cat([made[step][n].flatten() for n in ("part.a", "part.b")]).double()
            for step in STEPS}  # fmt: skip
    table = found.steps.set_index("step")
    assert table.loc[8, "norm"] == pytest.approx((flat[8].norm() ** 2 + 4).sqrt().item())
    for before, column in ((0, "from_first"), (4, "from_previous")):
        base = math.hypot(flat[before].norm(), 2)
        away = (flat[8] - flat[before]).norm().item()
        assert table.loc[8, column] == pytest.approx(away / base)
    assert table.loc[0, ["from_first", "from_previous"]].isna().all()


def put(step, name, value):
    def change(made):
        made[step][name] = value(made[step][name])

    return change


def with_nan(tensor):
    tensor = tensor.clone()
    tensor[0, :2] = torch.tensor([math.nan, -math.inf])
    return tensor


def repeat(made):
    made[8] = dict(made[1])


def exchange(made):
    made[4], made[8] = made[8], made[4]


def far_away(made):
    made[2], made[32] = made[32], made[2]


def lose(made):
    del made[16]["part.a"]


def turn(made):
    made[2]["part.a"] = made[2]["part.a"].T.contiguous()


def hold_where_repeated(made):
    """A tensor of two snapshots alone, which are one: it had no time to move."""
    made[2]["late"] = torch.ones(3)
    made[4] = dict(made[2])


def hold(made):
    for step in STEPS:
        made[step]["part.a"] = made[0]["part.a"]


def halve_all(made):
    made[32] = {k: v.half() if v.dtype.is_floating_point else v.byte() for k, v in made[32].items()}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (repeat, [(8, 1, "all", "repeated")]),
        (put(16, "part.a", with_nan), [(16, None, "part.a", "not finite")]),
        (put(32, "part.b", torch.Tensor.half), [(32, 16, "part.b", "dtype")]),
        (halve_all, [(32, 16, "all", "dtype")]),
        (put(0, "part.a", lambda t: t[:5].clone()), [(1, 0, "part.a", "shape")]),
        (lose, [(16, 8, "part.a", "gone"), (32, 16, "part.a", "new")]),
        (turn, [(2, 1, "part.a", "shape"), (4, 2, "part.a", "shape")]),
        (
            hold_where_repeated,
            [(2, 1, "late", "new"), (4, 2, "all", "repeated"), (8, 4, "late", "gone")],
        ),
        (hold, [(32, 0, "part.a", "still")]),
    ],
)
def test_each_fault_is_found_alone(write, fault, expected):
    made = walk()
    fault(made)
    assert [
        tuple(None if x is pd.NA else x for x in r) for r in rows(hcviz.audit(write(made)))
    ] == (expected)


@pytest.mark.parametrize(("fault", "wrong"), [(exchange, [{4}, {8}]), (far_away, [{2, 32}])])
def test_snapshots_out_of_order_are_found(write, fault, wrong):
    made = walk()
    fault(made)
    found = rows(hcviz.audit(write(made)))
    assert {what for *_, what in found} == {"order"}
    assert {step for step, *_ in found} in wrong


def test_one_checkpoint_and_the_same_one_twice(write):
    made = walk()
    folder = write({3: made[0], 5: made[0]})
    assert rows(hcviz.audit(folder / "step3")) == []
    assert rows(hcviz.audit([folder / "step3", folder / "step5"])) == [(5, 3, "all", "repeated")]


def test_a_thinned_snapshot_lacks_nothing(write, tmp_path):
    made = walk()
    folder = write(made)
    kept = {"part.a": made[4]["part.a"]}
    save_file(kept, folder / "step4" / "model.safetensors", {"hcviz_keep": "part.a"})
    assert rows(hcviz.audit(folder)) == []


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(HcvizError, match="no checkpoint"):
        hcviz.audit(tmp_path)


def test_the_command_says_it_in_words_and_by_its_code(write, tmp_path, monkeypatch, capsys):
    made = walk()
    folder, out = write(made), tmp_path / "steps.csv"

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["hcviz", "audit", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out + said.err

    code, said = run(folder, "--out", out)
    assert (code, "nothing odd was found" in said) == (0, True)
    assert list(pd.read_csv(out)["step"]) == STEPS
    save_file(made[1], folder / "step8" / "model.safetensors")
    code, said = run(folder)
    assert (code, "step 8 repeats step 1, bit for bit (5 tensors)" in said) == (1, True)
    assert run(tmp_path / "none")[0] == run(folder, "--out", "x.txt")[0] == 2
    code, said = run(folder, "--revisions", "step0")
    assert (code, "is a folder here" in said) == (2, True)

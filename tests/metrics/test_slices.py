"""The loss slice: its corners are the two states, its directions add up to the way between."""

import pytest
import tiny
import torch

import hcviz
from hcviz.errors import HcvizError


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    how = {
        "corpus": tiny.write_text(folder), "tokenizer": tiny.tokenizer(), "steps": 4, "lr": 1e-2,
        "snapshots": 2, "batch_size": 2, "context": 16, "eval_blocks": 2, "progress": False,
    }  # fmt: skip
    small = tiny.model()
    return {
        name: hcviz.train(hcviz.clone(small, expansion=name), out=folder / name, **how)
        for name in ("symmetric", "noisy-symmetric")
    }


@pytest.mark.parametrize("name", ["symmetric", "noisy-symmetric"])
def test_the_corners_are_the_two_states_and_a_locked_arm_has_no_antisymmetric_way(arms, name):
    run, ids = arms[name], torch.arange(3, 27).view(2, 12)
    table = hcviz.loss_slice(run, shares=(0.0, 1.0), batch=ids).set_index(
        ["symmetric", "antisymmetric"]
    )["loss"]
    for share, step in ((0.0, 0), (1.0, run.steps[-1])):
        with torch.no_grad():
            expected = run.model(step)(ids, labels=ids).loss.item()
        assert table[share, share] == pytest.approx(expected, rel=1e-6)
    apart = abs(table[1.0, 1.0] - table[1.0, 0.0])
    assert apart < 1e-6 if name == "symmetric" else apart > 1e-5


def test_the_symmetric_way_is_the_mean_over_the_copies(arms):
    run, ids = arms["noisy-symmetric"], torch.arange(3, 27).view(2, 12)
    table = hcviz.loss_slice(run, shares=(0.0, 1.0), batch=ids)
    found = table[(table["symmetric"] == 1) & (table["antisymmetric"] == 0)]["loss"].item()
    model, end = run.model(0), dict(run.model().named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            away = end[name] - weight
            halves = [d for d, n in enumerate(weight.shape) if n != 2048]  # all but the vocabulary
            split = [size for n in weight.shape for size in ((2, n // 2) if n != 2048 else (n,))]
            at, copies = 0, []
            for d in range(weight.dim()):
                copies += [at] if d in halves else []
                at += 2 if d in halves else 1
            mean = away.view(split).mean(copies, keepdim=True).expand(split)
            weight += mean.reshape(weight.shape)
        assert found == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


def test_what_has_no_way_is_refused(arms):
    with pytest.raises(HcvizError, match="a later one, here 3"):
        hcviz.loss_slice(arms["symmetric"], step=3)

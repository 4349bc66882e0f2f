"""Stacked experts: each is measured as its own matrix would be, and routers by what they choose."""

import math

import models
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.architecture.axes import Dim, Segment
from hcviz.metrics import METRICS
from hcviz.metrics._experts import routers

FIELDS = {
    **models._GROUPED, "num_hidden_layers": 2, "num_local_experts": 4, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 24,
}  # fmt: skip
UP, DOWN = (f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj"))


def clone(kind, **options):
    config = AutoConfig.for_model(kind, **FIELDS)
    source = models.randomise(AutoModelForCausalLM.from_config(config)).eval()
    wide = hcviz.clone(source, **options)
    factors = wide.config.hcviz["factors"]
    return source, wide, hcviz.layout(wide, factors=factors), factors


def values(metric, weight, axes, factors):
    return [row["value"] for row in METRICS[metric].function(weight, axes, factors)]


@pytest.fixture(scope="module")
def noisy():
    return clone("mixtral", expansion="noisy-symmetric")


def test_the_cosine_of_a_stack_is_the_mean_over_its_experts(noisy):
    _, wide, axes, factors = noisy
    weight = dict(wide.named_parameters())[DOWN].detach()
    alone = [values("cosine", one, axes[DOWN][1:], factors)[0] for one in weight]
    assert values("cosine", weight, axes[DOWN], factors) == [pytest.approx(np.mean(alone))]
    halves = weight.double().numpy().reshape(4, 64, 2, 40)
    a, b = halves[:, :, 0], halves[:, :, 1]
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert np.mean(alone) == pytest.approx(cosines.mean())
    assert 0.7 < cosines.mean() < 0.9


def test_blocks_of_a_stack_are_compared_too(noisy):
    _, wide, axes, factors = noisy
    weight = dict(wide.named_parameters())[DOWN].detach()
    table = np.array(values("pairs", weight, axes[DOWN], factors)).reshape(4, 4)
    first = weight.double()[:, :32, :40].flatten(), weight.double()[:, 32:, :40].flatten()
    assert table[0, 2] == pytest.approx(torch.cosine_similarity(*first, dim=0).item())


def test_an_exact_clone_of_experts_is_locked_and_alike():
    _, wide, axes, factors = clone("qwen3_moe")
    for name in (UP, DOWN):
        weight = dict(wide.named_parameters())[name].detach()
        assert set(values("cosine", weight, axes[name], factors)) == {1.0}
        assert set(values("ledger", weight, axes[name], factors)) == {0.0}


@pytest.mark.parametrize("metric", ["effective_rank", "rank", "power_law", "marchenko_pastur"])
def test_every_expert_of_a_stack_has_numbers_of_its_own(noisy, metric):
    _, wide, axes, factors = noisy
    weight = dict(wide.named_parameters())[UP].detach()
    found = list(METRICS[metric].function(weight, axes[UP], factors))
    assert {row["row"] for row in found} == {0, 1, 2, 3}
    alone = [v for one in weight for v in values(metric, one, axes[UP][1:], factors)]
    assert [row["value"] for row in found] == pytest.approx(alone, nan_ok=True)


def test_a_convolution_is_no_stack():
    grows = Dim("write", (Segment((("hidden", 8),)),))
    kernel = (grows, *(Dim("keep", (Segment(((None, n),)),)) for n in (1, 4)))
    assert values("effective_rank", torch.randn(8, 1, 4), kernel, {}) == []


@pytest.mark.parametrize("kind", ["mixtral", "olmoe", "qwen3_moe"])
def test_loads_and_entropy_are_those_of_the_router_s_logits(kind):
    source, wide, axes, factors = clone(kind)
    ids = models.ids()
    found = {}
    for row in METRICS["experts"].function(wide, ids, axes, factors):
        found.setdefault((row["tensor"], row["axis"]), []).append(row["value"])
    with torch.no_grad():
        told = wide(ids, output_router_logits=True).router_logits
    for path, logits in zip(routers(axes).values(), told, strict=True):
        chances = logits.double().softmax(-1).numpy()
        chosen = np.argsort(-chances, axis=1)[:, :2]
        loads = np.bincount(chosen.ravel(), minlength=4) / chosen.size
        assert found[path, "load"] == pytest.approx(loads)
        parts = loads[loads > 0]
        assert found[path, "balance"] == [
            pytest.approx(-(parts * np.log(parts)).sum() / math.log(4))
        ]
        entropy = -(chances * np.log(chances)).sum(1).mean() / math.log(4)
        assert found[path, "entropy"] == [pytest.approx(entropy)]
    small = METRICS["experts"].function(source, ids, hcviz.layout(source), {})
    ours = [value for values in found.values() for value in values]
    assert ours == pytest.approx([row["value"] for row in small], abs=1e-5)  # as its source chooses


def test_the_cosine_of_two_experts_by_hand():
    axes = tuple(Dim("write", (Segment(((None, n),)),)) for n in (3, 1, 2))
    weight = torch.tensor([[[1.0, 0]], [[0.0, 2]], [[3.0, 3]]])
    found = list(METRICS["experts.cosine"].function(weight, axes, {}))
    assert [(row["row"], row["col"]) for row in found] == [(0, 1), (0, 2), (1, 2)]
    assert [row["value"] for row in found] == pytest.approx([0, 0.5**0.5, 0.5**0.5])


def test_a_model_without_experts_has_no_rows():
    model = models.source("llama")
    assert not [*METRICS["experts"].function(model, models.ids(), hcviz.layout(model), {})]

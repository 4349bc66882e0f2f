"""The guard: whatever is wrong with a layout, no clone leaves the function."""

import dataclasses
import itertools
import re
import types

import models
import pytest
import torch

import hcviz
from hcviz.architecture import families
from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.infer import infer
from hcviz.architecture.segments import Fusing
from hcviz.architecture.tiny import shrunk
from hcviz.widening import expansion, twin
from hcviz.widening import plan as growing
from hcviz.widening.request import Growth

SIZES = itertools.count(models.VOCAB + 1)


def unseen(name):
    """Build a model of a configuration that no test had before, so that its twin is tried."""
    return models.fresh(name, vocab_size=next(SIZES))


def refused(source, message="relative logit error", **call):
    before = models.state(source)
    with pytest.raises(hcviz.CloneError, match=message) as caught:
        hcviz.clone(source, **call)
    after = models.state(source)
    assert all(torch.equal(before[name], after[name]) for name in before)
    return str(caught.value)


def test_intact_layout_passes_once_and_is_remembered(monkeypatch):
    source, calls = unseen("llama"), []
    forward = type(source).forward
    monkeypatch.setattr(
        type(source), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    for _ in range(2):
        hcviz.clone(source)
    assert len(calls) == 2  # the twin and its clone
    hcviz.clone(source, hidden=3)
    assert len(calls) == 4


@pytest.mark.parametrize("field", ["embed_power", "norm_offset"])
def test_forgotten_exception_of_a_family_is_caught(field, monkeypatch):
    broken = dataclasses.replace(families.FAMILIES["gemma"], **{field: 0.0})
    monkeypatch.setitem(families.FAMILIES, "gemma", broken)
    source = unseen("gemma")
    for _ in range(2):  # a refusal is not remembered as a pass
        assert "gemma configuration (hidden_size 32, 4 heads)" in refused(source)
    wrong = hcviz.clone(source, check=False)  # only the guard stands before this
    assert models.error(models.logits(source), models.logits(wrong)) > 1e-3


def test_missing_division_of_the_head_is_caught_although_argmax_agrees(monkeypatch):
    def undivided(name, *rest):
        wide = expansion.widen(name, *rest)
        return wide * 2 if name == "lm_head.weight" else wide

    monkeypatch.setattr(growing, "widen", undivided)
    source = unseen("olmo2")
    refused(source)
    wrong = hcviz.clone(source, check=False)
    a, b = models.logits(source), models.logits(wrong)
    assert torch.equal(a.argmax(-1), b.argmax(-1))
    assert models.scale(a, b) == pytest.approx(2, rel=1e-4)


def test_shares_that_do_not_add_up_are_caught(monkeypatch):
    broken = types.SimpleNamespace(prod=lambda copies: max(len(tuple(copies)), 1))
    monkeypatch.setattr(expansion, "math", broken)
    refused(unseen("llama"), hidden=3)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gpt_neox", Fusing()),
        ("gpt2", Fusing(attention="interleaved")),
        ("phi3", Fusing(ffn="interleaved")),
    ],
)
def test_wrong_order_of_a_fused_matrix_is_far_from_what_is_allowed(name, wrong):
    source = models.source(name)
    factors = resolve_factors(source.config, hidden=2)
    growth = Growth(source.config, type(source), factors, expansion.Expansion())
    right = twin.resolve_fusing(growth)
    assert right != wrong
    assert twin.twin_error(growth, right) <= twin.TOLERANCE
    assert twin.twin_error(growth, wrong) > 0.01


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "phi3", "llama"])
def test_right_order_is_found_also_without_the_guard(name):
    source = unseen(name)
    wide = hcviz.clone(source, check=False)
    assert models.error(models.logits(source), models.logits(wide)) < 2e-5


def test_written_and_read_dimensions_swapped_are_caught(monkeypatch):
    other = {"write": "read", "read": "write"}

    def swapped(*given):
        axes = infer(*given)
        turn = lambda dim: dataclasses.replace(dim, role=other.get(dim.role, dim.role))  # noqa: E731
        return {name: tuple(map(turn, dims)) for name, dims in axes.items()}

    monkeypatch.setattr(twin, "infer", swapped)
    refused(unseen("llama"))  # every shape still fits


def test_message_gives_the_least_error_of_all_hypotheses(monkeypatch):
    monkeypatch.setattr(twin, "TOLERANCE", -1.0)
    monkeypatch.setattr(twin, "ROTARY_TOLERANCE", -1.0)
    text = refused(unseen("phi3"))
    assert re.search(r"error \d\.\de-1\d in the best of 4 ways, allowed", text)
    assert text.endswith("no clone was made. Nothing else grows either.")


def test_twin_keeps_flags_and_kinds_of_layers_and_is_tiny():
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = models.config(
        "gemma3", hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=16384, vocab_size=256000, num_hidden_layers=12, layer_types=kinds * 2,
    )  # fmt: skip
    tiny = shrunk(config)
    assert tiny.layer_types == kinds
    assert tiny.num_hidden_layers == 6
    assert (tiny.num_attention_heads, tiny.num_key_value_heads, tiny.head_dim) == (6, 2, 128)
    assert tiny.hidden_size <= 768
    assert tiny.intermediate_size < 100
    assert tiny.vocab_size < 100
    assert config.hidden_size == 4096


def test_twin_is_random_everywhere_and_leaves_the_random_state():
    config, model_class = models.config("phi"), type(models.source("phi"))
    before = torch.random.get_rng_state()
    one = twin.random_twin(config, model_class)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.dtype for p in one.parameters()} == {torch.float64}
    for name, parameter in one.named_parameters():
        assert parameter.unique().numel() == parameter.numel(), name
    other = twin.random_twin(config, model_class, seed=1)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_a_twin_whose_clone_is_too_large_is_refused_before_any_is_built(monkeypatch):
    config, model_class = models.config("llama", head_dim=160_000), type(models.source("llama"))
    monkeypatch.setattr(twin, "random_twin", None)
    growth = Growth(config, model_class, resolve_factors(config), expansion.Expansion())
    with pytest.raises(hcviz.CloneError, match=r"4\.9e\+08 parameters, too many to try") as caught:
        twin.resolve_fusing(growth)
    assert str(caught.value).endswith("or correct the configuration.")


def test_short_positions_are_enough_for_the_twin():
    hcviz.clone(models.fresh("gpt2", n_positions=5))


def test_not_a_number_is_an_infinite_error():
    a = torch.ones(3)
    assert twin.relative_error(a, a * torch.nan) == float("inf")
    assert twin.relative_error(a, a * 1.5) == 0.5

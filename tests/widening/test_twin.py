"""The guard: whatever is wrong with a layout, no clone leaves the function."""

import dataclasses
import re
import types

import models
import pytest
import torch

import hcviz
from hcviz.architecture import families, infer
from hcviz.architecture.infer import Fusing
from hcviz.architecture.tiny import shrunk
from hcviz.widening import expansion, twin
from hcviz.widening import plan as growth


@pytest.fixture(autouse=True)
def passed(monkeypatch):
    """Forget which twins passed, so that a broken layout is really tried."""
    memory = {}
    monkeypatch.setattr(twin, "_PASSED", memory)
    return memory


def refused(source, message="relative logit error", **call):
    before = models.state(source)
    with pytest.raises(hcviz.CloneError, match=message) as caught:
        hcviz.clone(source, **call)
    after = models.state(source)
    assert all(torch.equal(before[name], after[name]) for name in before)
    return str(caught.value)


def test_intact_layout_passes_once_and_is_remembered(passed, monkeypatch):
    calls = []
    original = twin.twin_error
    monkeypatch.setattr(twin, "twin_error", lambda *a: calls.append(a) or original(*a))
    for _ in range(2):
        hcviz.clone(models.source("llama"))
    assert len(calls) == len(passed) == 1
    hcviz.clone(models.source("llama"), hidden=3)
    assert len(calls) == len(passed) == 2


@pytest.mark.parametrize("field", ["embed_power", "norm_offset"])
def test_forgotten_exception_of_a_family_is_caught(field, passed, monkeypatch):
    broken = dataclasses.replace(families.FAMILIES["gemma"], **{field: 0.0})
    monkeypatch.setitem(families.FAMILIES, "gemma", broken)
    text = refused(models.source("gemma"))
    assert "gemma configuration (hidden_size 32, 4 heads)" in text
    assert passed == {}
    wrong = hcviz.clone(models.source("gemma"), check=False)  # only the guard stands before this
    assert models.error(models.logits(models.source("gemma")), models.logits(wrong)) > 1e-3


def test_missing_division_of_the_head_is_caught_although_argmax_agrees(monkeypatch):
    def undivided(name, *rest):
        wide = expansion.widen(name, *rest)
        return wide * 2 if name == "lm_head.weight" else wide

    monkeypatch.setattr(growth, "widen", undivided)
    source = models.source("olmo2")
    refused(source)
    wrong = hcviz.clone(source, check=False)
    a, b = models.logits(source), models.logits(wrong)
    assert torch.equal(a.argmax(-1), b.argmax(-1))
    assert models.scale(a, b) == pytest.approx(2, rel=1e-4)


def test_shares_that_do_not_add_up_are_caught(monkeypatch):
    broken = types.SimpleNamespace(prod=lambda copies: max(len(tuple(copies)), 1))
    monkeypatch.setattr(expansion, "math", broken)
    refused(models.source("llama"), hidden=3)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gpt_neox", Fusing()),
        ("gpt2", Fusing(attention="interleaved")),
        ("phi3", Fusing(ffn="interleaved")),
    ],
)
def test_wrong_order_of_a_fused_matrix_is_caught(name, wrong, monkeypatch):
    monkeypatch.setattr(twin, "_hypotheses", lambda *_: [wrong])
    refused(models.source(name))


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("gpt_neox", Fusing(attention="interleaved")),
        ("gpt2", Fusing()),
        ("phi3", Fusing()),
        ("llama", Fusing()),
    ],
)
def test_right_order_is_found_also_without_the_guard(name, right, monkeypatch):
    found = []
    original = twin.resolve_fusing
    spy = lambda *a, **k: found.append(original(*a, **k)) or found[-1]  # noqa: E731
    monkeypatch.setattr("hcviz.cloning.clone.resolve_fusing", spy)
    hcviz.clone(models.source(name), check=False)
    assert found == [right]


def test_written_and_read_dimensions_swapped_are_caught(monkeypatch):
    roles = infer._roles
    monkeypatch.setattr(infer, "_roles", lambda *given: roles(*given)[::-1])
    refused(models.source("llama"))  # every shape still fits


def test_message_gives_the_error_of_every_hypothesis(monkeypatch):
    monkeypatch.setattr(twin, "TOLERANCE", -1.0)
    monkeypatch.setattr(twin, "ROTARY_TOLERANCE", -1.0)
    text = refused(models.source("phi3"))
    assert re.search(r"error \d\.\de-1\d(, \d\.\de[+-]0\d){3}, allowed", text)
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


def test_short_positions_are_enough_for_the_twin():
    hcviz.clone(models.fresh("gpt2", n_positions=5))


def test_not_a_number_is_an_infinite_error():
    a = torch.ones(3)
    assert twin.relative_error(a, a * torch.nan) == float("inf")
    assert twin.relative_error(a, a * 1.5) == 0.5

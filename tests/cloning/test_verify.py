"""The report card: true clones pass, and what text and argmax would hide fails."""

import models
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

import hcviz
from hcviz.cloning.verify import Check, kl, scale_ratio, top1
from hcviz.widening.twin import relative_error

CACHE, PADDING = "greedy generation with KV cache", "with left padding"


def pair(name="llama", dtype=torch.float32, **call):
    source = models.fresh(name, dtype)
    return source, hcviz.clone(source, check=False, **call)


def failed(report):
    frame = report.to_frame()
    return set(frame.check[~frame.passed])


def quick(source, clone, **options):
    return hcviz.verify(source, clone, float64=False, reload=False, **options)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt_neox", torch.float32),
        ("opt-350m", torch.float32),
        ("gemma2", torch.bfloat16),
        ("mistral", torch.float16),
        ("llama", torch.float64),
    ],
)
def test_true_clone_passes_every_line(name, dtype):
    report = hcviz.verify(*pair(name, dtype, expansion="noisy-symmetric"))
    assert report.passed, str(report)
    assert len(report.checks) == 8
    assert report.scale_ratio == pytest.approx(1, abs=8 * torch.finfo(dtype).eps)
    assert report.max_relative_error == report.checks[0].value


def test_experts_are_compared_in_float64_one_by_one():
    fields = {**models._GROUPED, "num_local_experts": 3}
    source = models.randomise(AutoModelForCausalLM.from_config(MixtralConfig(**fields))).eval()
    clone = hcviz.clone(source, check=False)
    before = clone.config._experts_implementation
    report = hcviz.verify(source, clone, reload=False)
    assert report.passed, str(report)
    assert report.to_frame().set_index("check").value["relative logit error, true float64"] < 1e-12
    assert clone.config._experts_implementation == before


def test_halved_logits_fail_although_argmax_agrees():
    source, clone = pair("olmo2")
    with torch.no_grad():
        clone.lm_head.weight /= 2
    a, b = models.logits(source), models.logits(clone)
    assert torch.equal(a.argmax(-1), b.argmax(-1))
    report = quick(source, clone)
    assert not report.passed
    assert report.scale_ratio == pytest.approx(0.5, rel=1e-4)
    assert {"logit scale off by", CACHE, PADDING} <= failed(report)
    assert "top-1 agreement where decided" not in failed(report)


def test_swapped_heads_fail():
    source, clone = pair("olmo2")
    weight = clone.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[:16] = weight[:16].roll(8, 0)
    assert not quick(source, clone).passed


def test_one_weight_off_by_a_thousandth_fails():
    source, clone = pair()
    with torch.no_grad():
        clone.model.layers[0].mlp.down_proj.weight[3, 5] += 1e-3
    assert "relative logit error, float32" in failed(quick(source, clone))


def test_not_a_number_fails():
    source, clone = pair()
    with torch.no_grad():
        clone.model.norm.weight[0] = torch.nan
    report = quick(source, clone)
    assert not report.passed
    assert report.max_relative_error == float("inf")


def spoil(clone, when):
    """Shift the logits of the calls that ``when`` picks by their keyword arguments."""
    forward = clone.forward

    def wrong(*args, **kwargs):
        out = forward(*args, **kwargs)
        if when(kwargs):
            out.logits = out.logits + 0.1 * out.logits.roll(1, -1)
        return out

    clone.forward = wrong


def test_wrong_cache_alone_is_seen():
    source, clone = pair()
    spoil(clone, lambda given: given.get("past_key_values") is not None)
    assert failed(quick(source, clone)) == {CACHE}


def test_wrong_padding_alone_is_seen():
    source, clone = pair()
    spoil(clone, lambda given: given.get("attention_mask") is not None)
    assert failed(quick(source, clone)) == {PADDING}


def test_clone_that_a_reload_changes_is_seen(monkeypatch):
    source, clone = pair("olmo2")
    save = clone.save_pretrained

    def lossy(folder):
        clone.config.rms_norm_eps = 0.1  # a setting that the file gets wrong
        save(folder)

    monkeypatch.setattr(clone, "save_pretrained", lossy)
    assert failed(hcviz.verify(source, clone, float64=False)) == {"after save and reload"}


def test_models_come_back_as_they_were():
    source, clone = pair("gemma2", torch.bfloat16)
    source.train(), clone.train()
    clone.model.layers[0].eval()  # modes differ from module to module
    models_ = (source, clone)
    modes = [[module.training for module in m.modules()] for m in models_]
    before = [models.state(m) for m in models_]
    hcviz.verify(source, clone)
    assert [[module.training for module in m.modules()] for m in models_] == modes
    for model, old in zip(models_, before, strict=True):
        new = models.state(model)
        assert all(new[name].dtype == old[name].dtype for name in old)
        assert all(torch.equal(new[name], old[name]) for name in old)


def test_modes_and_dtypes_come_back_after_an_error():
    source, clone = pair()
    source.train()
    spoil(clone, lambda given: given.get("past_key_values") is not None and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hcviz.verify(source, clone)
    assert source.training
    assert not clone.training
    assert {p.dtype for m in (source, clone) for p in m.parameters()} == {torch.float32}


def test_report_prints_and_gives_a_frame():
    source, clone = pair()
    report = quick(source, clone)
    frame = report.to_frame()
    assert list(frame.columns) == ["check", "value", "tolerance", "passed"]
    assert len(frame) == len(report.checks) == 6
    text = str(report)
    assert text.splitlines()[-1] == "The clone computes what its source does."
    assert text.count("pass") == 6
    assert all(check.name in text for check in report.checks)
    with torch.no_grad():
        clone.model.norm.weight *= 2
    assert "FAIL" in str(quick(source, clone))
    assert str(quick(source, clone)).endswith("NOT a faithful clone.")


def test_other_vocabulary_is_named():
    with pytest.raises(hcviz.HcvizError, match=r"61 tokens and the clone's 67.*Pass the source"):
        hcviz.verify(models.source("llama"), models.fresh("llama", vocab_size=67))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(5, dtype=torch.long), r"shape \(5,\)"),
        (torch.zeros(1, 3, dtype=torch.long), r"shape \(1, 3\).*length >= 4"),
        (torch.full((1, 6), 61), "from 61 to 61; give whole numbers from 0 to 60"),
        (torch.full((1, 6), -1), "from -1 to -1"),
        (torch.rand(1, 6), "whole numbers"),
    ],
)
def test_wrong_ids_are_named(ids, message):
    source = models.source("llama")
    with pytest.raises(hcviz.HcvizError, match=message):
        hcviz.verify(source, source, input_ids=ids)


def test_own_ids_and_short_positions():
    source, clone = pair()
    assert quick(source, clone, input_ids=models.ids(3, 6)).passed
    short = models.fresh("gpt2", n_positions=9)
    assert quick(short, hcviz.clone(short, check=False)).passed


def test_numbers_by_hand():
    a = torch.tensor([[1.0, -1.0, 3.0]], dtype=torch.float64)
    assert relative_error(a, a * 0.5) == 0.5
    assert scale_ratio(a, a * 0.5 + 7) == pytest.approx(0.5)  # a shift of all logits is no scale
    assert kl(a, a + 2) == pytest.approx(0, abs=1e-12)
    assert kl(a, a.flip(-1)) > 0
    assert top1(a, a * 0.5, 1e-6) == 1.0
    assert top1(a, a.roll(1, -1), 1e-6) == 0.0
    assert top1(torch.ones(1, 3), a, 1e-6) == 1.0  # nothing decided, nothing tested


def test_lines_compare_with_their_tolerance():
    assert Check("error", 1.0, 1.0).passed
    assert not Check("error", 1.1, 1.0).passed
    assert Check("agreement", 1.0, 1.0, at_least=True).passed
    assert not Check("agreement", 0.9, 1.0, at_least=True).passed
    assert not Check("error", float("nan"), 1.0).passed

"""State-space mixers: their inner width stays while the residual stream around them grows.

Across rooms: layouts, clones, reports, de-clones and metrics of these families.
"""

import models
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.cloning.declone import declone
from hcviz.metrics import METRICS

STATES = "greedy generation with cached states"
SMALL = {"vocab_size": models.VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
FAMILIES = {
    "mamba": {**SMALL, "state_size": 4},
    "mamba2": {
        **{**SMALL, "expand": 4, "num_heads": 4, "head_dim": 32, "n_groups": 2},
        **{"state_size": 8, "chunk_size": 8},
    },
    "bamba": {
        **{**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40},
        **{"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8},
        "attn_layer_indices": [1],
    },
}


def source(name):
    config = AutoConfig.for_model(name, **FAMILIES[name])
    return models.randomise(AutoModelForCausalLM.from_config(config)).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_clone_passes_its_report_with_the_states_it_keeps(name):
    model = source(name)
    report = hcviz.verify(model, hcviz.clone(model))
    assert report.passed, str(report)
    lines = set(report.to_frame().check)
    assert (STATES in lines) == (name != "bamba")
    assert any("generation" in line for line in lines)


def test_states_that_are_kept_wrongly_are_seen(monkeypatch):
    model = source("mamba")
    clone = hcviz.clone(model)
    forward = type(clone).forward

    def forgetful(self, *args, cache_params=None, **kwargs):
        kept = None if self is clone else cache_params
        return forward(self, *args, cache_params=kept, **kwargs)

    monkeypatch.setattr(type(clone), "forward", forgetful)
    report = hcviz.verify(model, clone, float64=False, reload=False)
    assert [check.name for check in report.checks if not check.passed] == [STATES]


def test_the_inner_width_stays_and_the_stream_grows():
    model = source("mamba2")
    clone = hcviz.clone(model, hidden=4)
    assert (clone.config.hidden_size, clone.config.expand, clone.config.num_heads) == (128, 1, 4)
    mixers = (m.backbone.layers[0].mixer for m in (model, clone))
    assert [tuple(mixer.in_proj.weight.shape) for mixer in mixers] == [(292, 32), (292, 128)]


@pytest.mark.parametrize("factor", [3, 8])
def test_factors_that_leave_no_whole_multiple_are_refused(factor):
    with pytest.raises(hcviz.CloneError, match=r"expand=4 times hidden_size=.*divides 4"):
        hcviz.clone(source("mamba2"), hidden=factor)


@pytest.mark.parametrize("name", ["mamba2", "bamba"])
def test_a_clone_is_measured_in_the_units_of_its_source(name):
    model = source(name)
    clone = hcviz.clone(model)
    factors = clone.config.hcviz["factors"]
    axes = hcviz.layout(clone, factors=factors)
    assert axes == hcviz.layout(model)
    ledger = METRICS["ledger"].function
    rows = [
        row for n, p in clone.named_parameters() for row in ledger(p.detach(), axes[n], factors)
    ]
    assert {row["value"] for row in rows} == {0.0}
    assert "R" in {row["axis"] for row in rows}


@pytest.mark.parametrize("name", ["mamba2", "bamba"])
def test_a_clone_shrinks_back_to_its_source(name):
    model = source(name)
    small, _ = declone(hcviz.clone(model))
    assert small.config.hidden_size == model.config.hidden_size
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(small.state_dict()[key], tensor)


def test_neurons_grow_beside_a_mixer_that_does_not():
    model = source("bamba")
    clone = hcviz.clone(model, hidden=1, heads=1, ffn=3)
    assert (clone.config.hidden_size, clone.config.intermediate_size) == (32, 120)
    assert hcviz.verify(model, clone).passed

"""More layers: identities keep the logits, stacking says that it does not."""

import models
import pytest
import torch
from transformers import AutoModelForCausalLM

import hcviz

POST_NORM = {"opt-350m"}  # a norm after the sum


@pytest.mark.parametrize("name", sorted(models.FAMILIES.keys() - POST_NORM))
def test_identity_layers_keep_the_logits_and_reload(name, tmp_path):
    source = models.source(name, torch.float64)
    depth = source.config.num_hidden_layers
    deep = hcviz.deepen(source, layers=2 * depth + 1, check=name == "llama")
    assert models.error(models.logits(source), models.logits(deep)) < 1e-12
    deep.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(source)
    # a reload in float64 makes rotary tables and sqrt(hidden) in float64, the source has float32
    assert models.error(models.logits(source), models.logits(again)) < 1e-6


def test_identity_layers_can_learn():
    source = models.fresh("llama")
    deep = hcviz.deepen(source, layers=4)
    assert deep.config.hcviz_depth == {
        "method": "identity", "sources": [0, 0, 1, 1], "identity": [1, 3]
    }  # fmt: skip
    deep(input_ids=models.ids(), labels=models.ids()).loss.backward()
    new = deep.model.layers[1]
    assert new.mlp.down_proj.weight.abs().max() == 0
    assert new.mlp.down_proj.weight.grad.abs().max() > 0
    assert new.mlp.up_proj.weight.data_ptr() != deep.model.layers[0].mlp.up_proj.weight.data_ptr()


def test_kinds_of_layers_follow_their_source():
    deep = hcviz.deepen(models.source("gemma2"), layers=4)
    assert deep.config.layer_types == ["sliding_attention"] * 2 + ["full_attention"] * 2


def test_stacking_repeats_the_stack_and_changes_the_logits():
    source = models.source("llama")
    deep = hcviz.deepen(source, layers=4, method="stack")
    assert deep.config.hcviz_depth["sources"] == [0, 1, 0, 1]
    for number, layer in enumerate(deep.model.layers):
        wanted = source.model.layers[number % 2].mlp.up_proj.weight
        assert torch.equal(layer.mlp.up_proj.weight, wanted)
    assert models.error(models.logits(source), models.logits(deep)) > 0.01


def test_width_and_depth_together():
    source = models.source("llama", torch.float64)
    both = hcviz.deepen(hcviz.clone(source), layers=3)
    assert both.config.hidden_size == 64
    assert models.error(models.logits(source), models.logits(both)) < 1e-12
    assert "wide" not in both.config.hcviz_depth


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("llama", {"layers": 2}, "layers=2 must be a whole number above the 2 layers"),
        ("llama", {"layers": 4, "method": "grow"}, "method='grow' is unknown.*identity, stack"),
        ("opt-350m", {"layers": 4}, "no identities .*a norm after the sum"),
    ],
)
def test_what_cannot_be_deepened_says_why(name, call, message):
    with pytest.raises(hcviz.CloneError, match=message):
        hcviz.deepen(models.source(name), **call)

"""Growing a whole model: which norm takes a tied head's share, and what stays tied."""

import models
import pytest
import torch
from transformers import AutoModelForCausalLM, XLMRobertaConfig

import hcviz
from hcviz.widening.folding import final_norm, ties
from hcviz.widening.layout import layout


@pytest.fixture
def headed():
    """A model whose tied head has a layer and a norm of its own, registered before the body."""
    config = XLMRobertaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=48, is_decoder=True,
    )  # fmt: skip
    return models.randomise(AutoModelForCausalLM.from_config(config)).eval()


def test_a_head_with_a_norm_of_its_own_takes_the_share(headed):
    assert final_norm(headed, layout(headed)) == [
        "lm_head.layer_norm.weight",
        "lm_head.layer_norm.bias",
    ]


def test_it_stays_tied_and_computes_the_same(headed):
    wide = hcviz.clone(headed)
    assert ties(headed)
    assert ties(wide)
    assert wide.lm_head.decoder.bias is wide.lm_head.bias
    ids = torch.randint(2, 61, (2, 10))
    with torch.no_grad():
        assert models.error(headed(ids).logits, wide(ids).logits) < 2e-5


@pytest.mark.parametrize(("name", "norm"), [("llama", "model.norm"), ("gpt2", "transformer.ln_f")])
def test_elsewhere_it_is_the_last_norm_outside_the_layers(name, norm):
    source = models.source(name)
    assert final_norm(source, layout(source))[0] == f"{norm}.weight"

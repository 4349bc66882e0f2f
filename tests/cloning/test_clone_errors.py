"""Bad input of clone(): an error that names the thing and the remedy, before anything is made.

Across the files that look at a part of the call: `clone`, `factors`, `widths`, `verify`.
"""

import models
import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    LlamaModel,
    T5Config,
    xLSTMConfig,
)
from transformers import T5ForConditionalGeneration as T5

import hcviz
from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.widths import widths
from hcviz.errors import CloneError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"hidden": 0}, "hidden=0: a factor is a number of at least 1"),
        ({"hidden": -2}, "hidden=-2: a factor is"),
        ({"hidden": 0.5}, r"hidden=0.5: a factor is .*hcviz.declone goes back"),
        ({"hidden": True}, "hidden=True: a factor is"),
        ({"hidden": None}, "hidden=None: a factor is"),
        ({"hidden": float("nan")}, "hidden=nan: a factor is"),
        ({"ffn": float("inf")}, "ffn=inf: a factor is"),
        ({"ffn": [2]}, r"ffn=\[2\]: a factor is"),
        ({"kv_heads": 0}, "kv_heads=0: a factor is"),
        ({"hidden": 1.01}, r"hidden: 32 units times 101/100 is 32.32.* nearest is 33, .* 33/32"),
        ({"ffn": "4/3"}, r"intermediate_size: 40 units times 4/3 .* nearest is 53"),
        ({"hidden": 1.25}, r"kv_heads: 2 units times 5/4 is 2.5.*heads=1 leaves the heads"),
        ({"heads": 2, "kv_heads": 4}, "heads=2 and kv_heads=4 make 8 query heads for 8 key/value"),
        ({"hidden": 1}, "Every factor is 1.* Give hidden, ffn, heads or head_dim above 1"),
        ({"hidden": 1, "ffn": 1, "heads": 1}, "Every factor is 1"),
        ({"head_dim": 1.5}, r"head_dim=3/2: heads grow by whole numbers"),
        ({"to_config": {"hidden_size": 64}, "ffn": 3}, r"to_config and \{'ffn': 3\} both say"),
        ({"to_config": {"hidden_size": 2**62}}, "to_config: LlamaForCausalLM cannot be built"),
        ({"expansion": "cyclic"}, "expansion='cyclic' is unknown"),
        ({"snr_db": 10}, "snr_db=10 goes with a noisy form"),
        ({"seed": "a"}, "seed='a' is not a whole number"),
        ({"tie": "yes"}, "tie='yes' is unknown. Choose 'keep' or 'untie'"),
    ],
)
def test_wrong_argument_is_named_with_a_remedy(call, message):
    with pytest.raises(hcviz.CloneError, match=message):
        hcviz.clone(models.source("llama"), **call)


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="snr"):
        hcviz.clone(models.source("llama"), snr=10)


@pytest.mark.parametrize("name", sorted(models.COUPLED))
@pytest.mark.parametrize("call", [{"heads": 4}, {"hidden": 1, "heads": 2}, {"kv_heads": 1}])
def test_families_with_coupled_heads_say_so(name, call):
    with pytest.raises(hcviz.CloneError, match=r"hidden_size / heads.*heads=\d"):
        hcviz.clone(models.source(name), **call)


@pytest.mark.parametrize("wrong", ["llama", None, torch.nn.Linear(2, 2), models.config("llama")])
def test_what_is_no_model_is_named(wrong):
    with pytest.raises(TypeError, match=rf"got {type(wrong).__name__}.*AutoModelForCausalLM"):
        hcviz.clone(wrong)


def test_models_without_a_language_head_are_refused():
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
    t5 = T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=9)
    for model in (
        LlamaModel(models.config("llama")),
        BertForMaskedLM(BertConfig(**small, num_hidden_layers=1)),
        T5(t5),
    ):
        with pytest.raises(hcviz.CloneError, match=f"{type(model).__name__} is none"):
            hcviz.clone(model)
    with pytest.raises(hcviz.CloneError, match=r"T5Config.*encoder-decoder"):
        widths(t5)


def test_head_that_disagrees_with_its_configuration_is_named():
    untied = models.fresh("llama")
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    with pytest.raises(hcviz.CloneError, match=r"lm_head.weight.*tie_word_embeddings=False"):
        hcviz.clone(untied)
    untied.config.tie_word_embeddings = False
    hcviz.clone(untied)
    tied = models.fresh("olmo2")
    tied.lm_head.weight = tied.model.embed_tokens.weight
    with pytest.raises(hcviz.CloneError, match=r"lm_head.weight.*tie_word_embeddings=True"):
        hcviz.clone(tied)


def test_configuration_without_widths_is_named():
    config = xLSTMConfig(hidden_size=8)
    with pytest.raises(hcviz.CloneError, match=r"xLSTMConfig.*num_attention_heads=None"):
        widths(config)


def test_whole_numbers_of_other_types_are_factors():
    factors = resolve_factors(models.config("llama"), hidden=2.0, ffn=np.int64(3))
    assert factors["hidden"] == 2
    assert factors["ffn"] == factors["expert_ffn"] == 3
    assert {type(factor) for factor in factors.values()} == {int}


@pytest.mark.parametrize("form", ["noisy-symmetric", "noisy-diagonal"])
def test_noise_wants_something_that_is_read_twice(form):
    """A padded residual stream has no copies: a noisy form would be a plain one, unnoticed."""
    alone = {"hidden": 1.5, "ffn": 1, "heads": 1}
    with pytest.raises(CloneError, match=f"expansion='{form}'.* no weight reads a copied unit"):
        hcviz.clone(models.source("llama"), **alone, expansion=form)
    hcviz.clone(models.source("llama"), **{**alone, "ffn": 2}, expansion=form)


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        empty = LlamaForCausalLM(models.config("llama"))
    with pytest.raises(CloneError, match="meta device"):
        hcviz.clone(empty)


def test_verify_refuses_what_is_no_model():
    with pytest.raises(TypeError, match="tuple"):
        hcviz.verify(models.fresh("llama"), (1, 2))


def test_frozen_parameters_stay_frozen():
    small = models.fresh("llama")
    small.model.embed_tokens.weight.requires_grad_(False)
    wide = hcviz.clone(small)
    frozen = [name for name, p in wide.named_parameters() if not p.requires_grad]
    assert frozen == ["model.embed_tokens.weight"]

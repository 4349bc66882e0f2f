"""The twin is its source in all but size, and whatever is lost on the way is found."""

import models
import pytest
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaForCausalLM,
    OPTForCausalLM,
)

import hcviz
from hcviz.architecture import tiny
from hcviz.architecture.tiny import faithful, shrunk


def losing(monkeypatch, **fields):
    """Let the shrinking forget fields of a configuration."""

    def forgetful(config, layers=2):
        small = shrunk(config, layers)
        for name, value in fields.items():
            setattr(small, name, value)
        return small

    monkeypatch.setattr(tiny, "shrunk", forgetful)


@pytest.mark.parametrize(
    ("name", "lost", "found"),
    [
        (
            "llama-one-kv",
            {"attention_bias": False},
            r"self_attn\.k_proj is .*'bias': 1.* in the so",
        ),
        ("llama-head-size", {"mlp_bias": False}, r"mlp\.down_proj is .*'bias': 1.* in the source"),
        ("gpt_neox-serial", {"use_parallel_residual": True}, "use_parallel_residual': False"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "sliding_attention.* in the source"),
        # a flag that is None, and else a module
        (
            "opt-350m",
            {"word_embed_proj_dim": 16},
            r"decoder is ((?!project_in).)* in the source and .*'project_in': None",
        ),
        ("opt-350m", {"do_layer_norm_before": True}, "final_layer_norm': None.* in the source"),
        ("mistral", {"hidden_act": "relu"}, r"act_fn is \['SiLU.* in the twin"),
    ],
)
def test_a_flag_that_the_twin_loses_is_found(name, lost, found, monkeypatch):
    losing(monkeypatch, **lost)
    source = models.fresh(name, vocab_size=models.VOCAB - 1)  # no other test tries this twin
    with pytest.raises(hcviz.CloneError, match=f"tiny twin of this .*{found}"):
        hcviz.clone(source)


def test_layers_are_added_until_every_kind_is_there():
    config = DeepseekV3Config(num_hidden_layers=9, first_k_dense_replace=3)
    assert shrunk(config).num_hidden_layers == 2  # all of them dense
    assert faithful(config, DeepseekV3ForCausalLM).num_hidden_layers == 4


def test_size_alone_makes_no_difference():
    config = models.config("llama", hidden_size=4096, num_hidden_layers=32, vocab_size=128000)
    assert faithful(config, LlamaForCausalLM).num_hidden_layers == 2
    config = models.config("opt-350m", hidden_size=1024, word_embed_proj_dim=512)
    assert faithful(config, OPTForCausalLM).word_embed_proj_dim < 1024

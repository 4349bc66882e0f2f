"""Flags that people's models set: public models that have some, and a sample of the census."""

import re
from pathlib import Path

import models
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.cloning.verify import tolerance_of
from hcviz.widening.census import census, flag_census, flags_of, to_markdown, usual_config
from hcviz.widening.twin import TrueFloat64

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
SHAPE = {"vocab_size": models.VOCAB, "hidden_size": 32, "num_attention_heads": 4}
CASES = {
    "stanford-crfm's GPT-2": (
        "gpt2",
        {"n_layer": 2, "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
        {"hidden": 2},
        "",
    ),
    "Doge 120M MoE": (
        "doge",
        {
            "num_hidden_layers": 2,
            "intermediate_size": 40,
            "is_moe": True,
            "num_experts": 16,
            "num_experts_per_tok": 3,
        },
        {"hidden": 2},
        "",
    ),
    "Qwen3.5 0.8B": (
        "qwen3_5_text",
        {
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 40,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "tie_word_embeddings": True,
        },
        {"hidden": 2},
        "",
    ),
    "StableLM 2 12B": (
        "stablelm",
        {"num_hidden_layers": 2, "num_key_value_heads": 2, "qk_layernorm": True},
        {"hidden": 2},
        "",
    ),
    "Falcon-RW 1B": (
        "falcon",
        {"num_hidden_layers": 2, "alibi": True, "multi_query": False, "bias": True},
        {"hidden": 1, "ffn": 2, "heads": 1},
        "ALiBi slopes depend on the number of heads, and are divided by the root of their size",
    ),
}
"""Model: its type, its flags, what grows exactly, and why by two it does not if it does not."""


@pytest.mark.parametrize("name", CASES)
def test_a_public_model_grows_as_far_as_it_can(name, tmp_path):
    kind, flags, call, why = CASES[name]
    config = AutoConfig.for_model(kind, **SHAPE, **flags)
    config._attn_implementation = "eager"  # the only one that obeys reorder_and_upcast_attn
    source = models.randomise(AutoModelForCausalLM.from_config(config)).eval()
    wide = hcviz.clone(source, **call)
    assert wide.num_parameters() > source.num_parameters()
    wide.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    expected, got = models.logits(source), models.logits(again)
    assert models.error(expected, got) <= tolerance_of(source)
    assert hcviz.verify(source, wide, reload=False).passed
    if why:
        with pytest.raises(hcviz.CloneError, match=why) as caught:
            hcviz.clone(source)
        assert "The layout is not known" not in str(caught.value)
        assert str(caught.value).endswith("What does grow: hidden=1, ffn=2, heads=1.")


def stablelm(kv_heads):
    flags = {"num_hidden_layers": 1, "intermediate_size": 48, "qk_layernorm": True}
    config = AutoConfig.for_model("stablelm", **SHAPE, **flags, num_key_value_heads=kv_heads)
    return models.randomise(AutoModelForCausalLM.from_config(config)).eval()


def norms(model):
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if "layernorm.norms" in name}


@pytest.mark.parametrize(
    ("kv_heads", "call", "copies"),
    [
        (2, {"hidden": 2}, [0, 1, 2, 3] * 2),
        (2, {"hidden": 3, "heads": 3, "kv_heads": 1}, [0, 1] * 3 + [2, 3] * 3),
        (4, {"hidden": 1.5}, [0, 1, 2, 3, 0, 1]),
    ],
)
def test_copies_of_a_head_take_the_norm_that_its_source_has_by_itself(kv_heads, call, copies):
    source = stablelm(kv_heads)
    wide = hcviz.clone(source, **call)
    assert models.error(models.logits(source), models.logits(wide)) <= tolerance_of(source)
    one, several = norms(source), norms(wide)
    name = "model.layers.0.self_attn.q_layernorm.norms.{}.weight"
    assert [name.format(head) in several for head in range(len(copies) + 1)][-2:] == [True, False]
    for head, from_head in enumerate(copies):
        assert torch.equal(several[name.format(head)], one[name.format(from_head)])


def test_norms_of_single_heads_are_streamed_and_averaged_and_refused_in_lockstep(tmp_path):
    source = stablelm(2)
    source.save_pretrained(tmp_path / "source")
    place = {"progress": False, "check": "full"}
    done = hcviz.clone_checkpoint(tmp_path / "source", tmp_path / "wide", **place)
    assert done.report.passed
    wide = hcviz.clone(source)
    streamed = AutoModelForCausalLM.from_pretrained(tmp_path / "wide").state_dict()
    assert streamed.keys() == wide.state_dict().keys()
    assert all(torch.equal(streamed[name], tensor) for name, tensor in wide.state_dict().items())
    name = "model.layers.0.self_attn.q_layernorm.norms.{}.weight"
    wide.get_parameter(name.format(5)).data += 1  # a copy of head 1
    small, lost = hcviz.declone(wide)
    lost = lost.set_index("tensor")["lost"]
    assert list(lost[lost > 1e-12].index) == [name.format(1)]
    for key, tensor in norms(source).items():
        moved = 0.5 if key == name.format(1) else 0
        torch.testing.assert_close(small.get_parameter(key).data, tensor.data + moved)
    with pytest.raises(hcviz.HcvizError, match="a norm for each head by itself"):
        hcviz.lockstep_groups(wide, lr=1e-3)


def test_flags_that_only_ask_for_float32_are_off_in_true_float64_and_return():
    model = models.fresh("gpt2", reorder_and_upcast_attn=True)
    attention = model.transformer.h[0].attn
    with TrueFloat64(model):
        assert attention.reorder_and_upcast_attn is False
    assert attention.reorder_and_upcast_attn is True


def test_booleans_are_turned_over_and_words_are_those_of_the_code():
    found = flags_of(*usual_config("deepseek_v2"))
    assert ("attention_bias", True) in found
    assert ("tie_word_embeddings", True) in found
    assert ("topk_method", "group_limited_greedy") in found
    assert not {"use_cache", "return_dict", "hidden_act"} & {name for name, _ in found}
    assert ("attn_config.alibi", False) in flags_of(*usual_config("mpt"))
    assert ("parallel_attn", True) in flags_of(*usual_config("falcon", {"parallel_attn": False}))
    assert usual_config("mpt", {"attn_config.alibi": False})[0].attn_config.alibi is False


@pytest.fixture(scope="module")
def sample():
    table = census(["gpt2", "falcon", "stablelm", "arcee", "bart"])
    return table, flag_census(table)


def test_only_flags_that_change_something_are_counted(sample):
    flags = sample[1].set_index(["type", "flag"])
    assert list(flags.loc["arcee"].index) == [
        "tie_word_embeddings=True", "attention_bias=True", "mlp_bias=True",
    ]  # fmt: skip
    assert "bart" not in flags.index.get_level_values("type")
    assert set(flags.loc["gpt2", "verdict"]) == {"exact"}
    assert {"reorder_and_upcast_attn=True", "scale_attn_weights=False"} <= set(
        flags.loc["gpt2"].index
    )
    odd = flags[flags["differs"]]
    assert list(odd.index) == [("falcon", "alibi=True")]
    assert set(odd["grows"]) == {"hidden=1, ffn=2, heads=1"}


def test_the_page_lists_what_the_sample_finds(sample):
    row = re.compile(r"^\| \S+ \| \S+=\S+ \| (?:exact|partly|refused) \| [^|]*\|", re.MULTILINE)
    found = row.findall(to_markdown(*sample))
    assert len(found) == 1
    assert set(found) <= set(row.findall(PAGE.read_text("utf-8")))


def test_the_page_counts_its_flags():
    text = PAGE.read_text("utf-8")
    said = re.search(r"Of (\d+) such pairs (\d+) grow", text)
    assert int(said[2]) == len(re.findall(r"^\| \S+ \| \S+=\S+ \|", text, re.MULTILINE))
    assert int(said[1]) > 300

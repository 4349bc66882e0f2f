"""layout(): the axes of a few tensors of every family, as a person reads them off the paper."""

import models
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config

import hcviz
from hcviz.architecture.axes import SYMMETRY, wide_shape
from hcviz.architecture.blocks import grid

EXPECTED = {
    "gpt_neox": {
        "gpt_neox.embed_in.weight": "keep 61 x write hidden",
        "gpt_neox.layers.0.attention.query_key_value.weight": "write kv_heads(qkv) x read hidden",
        "gpt_neox.layers.0.attention.query_key_value.bias": "write kv_heads(qkv)",
        "gpt_neox.layers.0.attention.dense.weight": "write hidden x read kv_heads",
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": "write ffn x read hidden",
        "gpt_neox.layers.0.mlp.dense_4h_to_h.weight": "write hidden x read ffn",
        "lm_head.weight": "write 61 x read hidden",
    },
    "opt-350m": {
        "model.decoder.embed_tokens.weight": "keep 61 x write 16",
        "model.decoder.project_in.weight": "write hidden x read 16",
        "model.decoder.project_out.weight": "write 16 x read hidden",
        "model.decoder.layers.0.fc1.bias": "write ffn",
    },
    "llama": {
        "model.layers.0.self_attn.q_proj.weight": "write kv_heads+group x read hidden",
        "model.layers.0.self_attn.k_proj.weight": "write kv_heads x read hidden",
        "model.layers.0.self_attn.o_proj.weight": "write hidden x read kv_heads+group",
        "model.layers.0.mlp.down_proj.weight": "write hidden x read ffn",
        "model.norm.weight": "write hidden",
    },
    "gpt2": {
        "transformer.h.0.attn.c_attn.weight": "read hidden x write kv_heads(qkv)",
        "transformer.h.0.attn.c_proj.weight": "read kv_heads x write hidden",
        "transformer.h.0.mlp.c_fc.weight": "read hidden x write ffn",
        "transformer.wpe.weight": "keep 48 x write hidden",
    },
    "phi3": {
        "model.layers.0.self_attn.qkv_proj.weight": (
            "write kv_heads+group(q), kv_heads(k), kv_heads(v) x read hidden"
        ),
        "model.layers.0.mlp.gate_up_proj.weight": "write ffn(gate/up) x read hidden",
    },
    "qwen3": {"model.layers.0.self_attn.q_norm.weight": "write 12"},
    "olmo2": {"model.layers.0.self_attn.q_norm.weight": "write kv_heads+group"},
}


def described(dims):
    """Return one tensor's axes as text; an index that nothing writes or reads counts as kept."""
    return " x ".join(map(str, dims))


@pytest.mark.parametrize("name", EXPECTED)
def test_axes_of_a_family(name):
    found = hcviz.layout(models.config(name))
    for tensor, expected in EXPECTED[name].items():
        text = described(found[tensor])
        for size in ("61", "48"):  # the index of an embedding: its role does not matter
            text, expected = (t.replace(f"read {size}", f"keep {size}") for t in (text, expected))
        assert text == expected, tensor


@pytest.mark.parametrize("name", models.FAMILIES)
def test_every_tensor_has_axes_of_its_shape(name):
    model = models.source(name)
    found = hcviz.layout(model)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.named_parameters()}
    assert {key: wide_shape(dims, {}) for key, dims in found.items()} == shapes
    segments = [s for dims in found.values() for dim in dims for s in dim.segments]
    axes = {axis for segment in segments for axis in segment.axes()}
    assert {SYMMETRY[axis] for axis in axes} == {"R", "H", "N"}


def levels(name, tensor):
    dims = hcviz.layout(models.config(name))[tensor]
    return [segment.levels for dim in dims for segment in dim.segments]


def test_gpt_neox_interleaves_query_key_and_value_head_by_head():
    found = levels("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.bias")
    assert found == [(("kv_heads", 4), (None, 24))]  # 4 heads, each q, k, v of size 8


def test_gpt2_stacks_query_key_and_value():
    found = levels("gpt2", "transformer.h.0.attn.c_attn.bias")
    assert found == [((None, 3), ("kv_heads", 4), (None, 8))]


def test_phi3_stacks_gate_and_up():
    found = levels("phi3", "model.layers.0.mlp.gate_up_proj.weight")
    assert found[0] == ((None, 2), ("ffn", 40))


def test_clone_in_its_source_units_has_its_blocks():
    source = models.source("gpt_neox")
    wide = hcviz.clone(source, hidden=3)
    factors = wide.config.hcviz["factors"]
    axes = hcviz.layout(wide.config, factors=factors)
    assert axes == hcviz.layout(source)
    for name, tensor in source.named_parameters():
        blocks = grid(wide.state_dict()[name], axes[name], factors)
        assert torch.allclose(blocks.sum(1)[0], grid(tensor, axes[name], {})[0, 0]), name


def test_a_clone_without_heads_has_the_layout_of_its_source_and_is_taken_back():
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": models.VOCAB}
    source = AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **shape)).eval()
    wide = hcviz.clone(source)
    factors = wide.config.hcviz["factors"]
    assert hcviz.layout(wide, factors=factors) == hcviz.layout(source)
    small, lost = hcviz.declone(wide)
    assert lost["lost"].max() == 0
    assert models.error(models.logits(source), models.logits(small)) < 1e-6
    with pytest.raises(hcviz.CloneError, match=r"Rwkv.*cannot have grown by .*Pass the factors"):
        hcviz.layout(wide, factors={"hidden": 5})


def test_model_and_configuration_give_the_same_layout_and_no_weight_is_made():
    # 50 GB in float32, if any of it were made
    config = models.config("llama", hidden_size=16384, intermediate_size=65536, vocab_size=256000)
    large = hcviz.layout(config)
    assert wide_shape(large["model.embed_tokens.weight"], {}) == (256000, 16384)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert hcviz.layout(model) == large


def test_layout_prints_as_a_table():
    found = hcviz.layout(models.config("llama"))
    frame = found.to_frame()
    assert list(frame.columns) == ["tensor", "axes"]
    assert len(frame) == len(found)
    assert "write ffn x read hidden" in str(found)


@pytest.mark.parametrize("wrong", [T5Config(), "llama", None])
def test_no_causal_language_model_is_named(wrong):
    with pytest.raises(hcviz.CloneError, match=type(wrong).__name__):
        hcviz.layout(wrong)

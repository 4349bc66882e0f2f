"""Target sizes: what is reached exactly, and every field that is not."""

import models
import pytest

import hcviz
from hcviz.architecture.factors import factors_between, factors_to, resolve_factors
from hcviz.architecture.widths import resized


def test_a_configuration_is_reached(tmp_path):
    source = models.source("llama-head-size")
    target = resized(source.config, hidden=2, ffn=1, kv_heads=2, group=2)
    target.intermediate_size, target.hidden_size = 70, 80
    target.save_pretrained(tmp_path)
    wide = hcviz.clone(source, to_config=tmp_path)
    for field in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        assert getattr(wide.config, field) == getattr(target, field)
    assert models.error(models.logits(source), models.logits(wide)) < 2e-5


def test_named_fields_are_reached_and_the_rest_follows():
    wide = hcviz.clone(models.source("gpt_neox"), to_config={"hidden_size": 48})
    sizes = wide.config.hidden_size, wide.config.num_attention_heads, wide.config.intermediate_size
    assert sizes == (48, 6, 60)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 90}, "vocab_size is 61, target 90"),
        ({"num_hidden_layers": 4}, r"num_hidden_layers is 2, target 4.*hcviz.deepen"),
        ({"hidden_size": 16}, "hidden_size is 32, target 16.*never narrower"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 1e-06, target 0.1"),
        ({"hidden_act": "gelu", "vocab_size": 90}, "hidden_act .* 'gelu'; vocab_size"),
    ],
)
def test_every_field_that_is_missed_is_named(changes, message):
    target = models.config("llama", **{"intermediate_size": 80, **changes})
    with pytest.raises(hcviz.CloneError, match=message):
        factors_to(models.config("llama"), target)


def test_other_families_fields_and_places_are_refused(tmp_path):
    small = models.config("llama")
    with pytest.raises(hcviz.CloneError, match=r"'qwen2' .* 'llama'.*keeps its family"):
        factors_to(small, models.config("qwen2"))
    with pytest.raises(hcviz.CloneError, match=r"'ffn_dim', which is no width .*hidden_size=32"):
        factors_to(small, {"ffn_dim": 80})
    with pytest.raises(hcviz.HcvizError, match=r"no folder .*nothing"):
        hcviz.clone(models.source("llama"), to_config=tmp_path / "nothing")


def test_factors_between_a_source_and_its_clone():
    small = models.config("llama-head-size")
    asked = {"hidden": 1.5, "ffn": 2, "heads": 3, "kv_heads": 1}
    factors = resolve_factors(small, **asked)
    assert factors_between(small, resized(small, **factors)) == factors
    deep = models.config("llama-head-size", num_hidden_layers=5)
    with pytest.raises(hcviz.CloneError, match="keeps family and depth"):
        factors_between(small, deep)


def test_experts_have_an_axis_of_their_own():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, moe_intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0],
    )  # fmt: skip
    source = models.randomise(Qwen3MoeForCausalLM(config)).double().eval()
    source.set_experts_implementation("eager")
    wide = hcviz.clone(source, hidden=1, heads=1, ffn=1, expert_ffn=1.5)
    wide.set_experts_implementation("eager")
    assert (wide.config.intermediate_size, wide.config.moe_intermediate_size) == (48, 36)
    assert models.error(models.logits(source), models.logits(wide)) < 1e-12


@pytest.mark.parametrize("call", [{"hidden": 1.5}, {"hidden": 2, "heads": 1, "head_dim": 2}])
def test_a_clone_reaches_the_configuration_of_another_clone(call):
    """Padding changes eps, wider heads the rotary frequencies; both are the clone's own making."""
    source = models.source("llama-head-size")
    wide = hcviz.clone(source, **call)
    again = hcviz.clone(source, to_config=wide.config)
    assert again.config.hcviz["factors"] == wide.config.hcviz["factors"]
    assert again.config.to_dict() == wide.config.to_dict()

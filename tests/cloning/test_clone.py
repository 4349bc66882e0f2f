"""The clone is the source: every family, factor and form, after a reload as the stock class."""

import copy

import models
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.widening.twin import TrueFloat64

GUARDED = {"hidden": 2}
FORMS = {
    "x2": GUARDED,
    "x3 noisy diagonal": {"hidden": 3, "expansion": "noisy-diagonal", "snr_db": 3, "seed": 5},
    "x2, ffn x3, random": {"hidden": 2, "ffn": 3, "expansion": "random"},
}
COUPLED = {
    "ffn x3 noisy": {"hidden": 1, "ffn": 3, "expansion": "noisy-symmetric"},
    "x3 diagonal, untied": {"hidden": 3, "expansion": "diagonal", "tie": "untie"},
}
APART = {
    "ffn x3, heads x2, noisy": {"hidden": 1, "ffn": 3, "heads": 2, "expansion": "noisy-symmetric"},
    "heads x4 of kv x2, untied": {"heads": 4, "kv_heads": 2, "tie": "untie"},
    "queries x2 diagonal": {"hidden": 1, "heads": 2, "kv_heads": 1, "expansion": "diagonal"},
}
REST = {
    "x3": {"hidden": 3},
    "x2 noisy": {"hidden": 2, "expansion": "noisy-symmetric"},
    "x2 diagonal, ffn x1": {"hidden": 2, "ffn": 1, "expansion": "diagonal"},
    "x3 random": {"hidden": 3, "expansion": "random", "seed": 1},
}
"""Forms change how a tensor is filled and families which axes it has: four of them see all."""

MATRIX = [
    pytest.param(name, call, id=f"{name} {label}")
    for name in models.FAMILIES
    for label, call in {
        **FORMS,
        **(COUPLED if name in models.COUPLED else APART),
        **(REST if name in ("gpt_neox", "llama", "gemma2", "phi3") else {}),
    }.items()
]


def widened(model, call):
    """Clone with the guard in one column only: elsewhere the clone has to be right without it."""
    return hcviz.clone(model, check=call == GUARDED, **call)


def reloaded(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:OlmoForCausalLM has no gain")
@pytest.mark.parametrize(("name", "call"), MATRIX)
def test_clone_is_exact_in_true_float64_and_reloads(name, call, tmp_path):
    source = models.source(name, torch.float64)
    wide = widened(source, call)
    again = reloaded(wide, tmp_path)
    assert models.error(models.logits(source), models.logits(wide)) < 1e-12
    # a reload in float64 makes rotary tables and sqrt(hidden) in float64, the source has float32
    assert models.error(models.logits(source), models.logits(again)) < 1e-6
    assert again.config.hcviz == wide.config.hcviz
    assert sum(p.numel() for p in again.parameters()) > sum(p.numel() for p in source.parameters())


@pytest.mark.filterwarnings("ignore:OlmoForCausalLM has no gain")
@pytest.mark.parametrize("name", models.FAMILIES)
def test_reloaded_clone_computes_what_its_source_does(name, tmp_path):
    source = models.source(name)
    again = reloaded(hcviz.clone(source, hidden=3, expansion="noisy-symmetric"), tmp_path)
    assert type(again) is type(source)
    assert again.dtype == torch.float32
    a, b = models.logits(source), models.logits(again)
    assert models.error(a, b) < 2e-5
    assert models.scale(a, b) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt_neox", "opt-350m", "llama", "gemma2", "phi3"])
def test_half_precision_keeps_its_dtype_and_its_scale(name, dtype, tmp_path):
    source = models.source(name, dtype)
    wide = hcviz.clone(source, expansion="noisy-symmetric")
    assert {p.dtype for p in wide.parameters()} == {dtype}
    again = reloaded(wide, tmp_path)
    assert again.dtype == dtype
    a, b = models.logits(source), models.logits(again)
    # half types round the sums that both models take in another order; a missing 1/n is off by 0.5
    assert models.error(a, b) < 8 * torch.finfo(dtype).eps
    assert models.scale(a, b) == pytest.approx(1, abs=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", sorted(models.TIED))
def test_tied_embeddings_stay_tied(name, tmp_path):
    wide = hcviz.clone(models.source(name), check=False)
    for model in (wide, reloaded(wide, tmp_path)):
        assert model.config.tie_word_embeddings
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_untied_on_request_has_a_head_of_its_own():
    source = models.source("llama")
    wide = hcviz.clone(source, tie="untie")
    embedding, head = wide.get_input_embeddings().weight, wide.get_output_embeddings().weight
    assert not wide.config.tie_word_embeddings
    assert torch.equal(embedding, torch.cat([source.get_input_embeddings().weight] * 2, 1))
    assert torch.equal(head, embedding / 2)


def test_no_gain_for_a_tied_head_unties_with_a_warning():
    with pytest.warns(UserWarning, match=r"no gain .* 1/2.*tie_word_embeddings=False"):
        wide = hcviz.clone(models.source("olmo-tied"))
    assert not wide.config.tie_word_embeddings
    assert wide.get_output_embeddings().weight is not wide.get_input_embeddings().weight


def test_three_cases_of_the_paper_in_a_weight():
    model = models.source("gpt_neox")
    source, wide = model.state_dict(), hcviz.clone(model).state_dict()
    up, bias = (f"gpt_neox.layers.0.mlp.dense_h_to_4h.{part}" for part in ("weight", "bias"))
    embedding, head = "gpt_neox.embed_in.weight", "lm_head.weight"
    assert torch.equal(wide[head], torch.cat([source[head] / 2] * 2, 1))
    assert torch.equal(wide[embedding], torch.cat([source[embedding]] * 2, 1))
    row = torch.cat([source[up] / 2] * 2, 1)
    assert torch.equal(wide[up], torch.cat([row, row]))
    assert torch.equal(wide[bias], torch.cat([source[bias]] * 2))
    qkv = "gpt_neox.layers.1.attention.query_key_value.bias"  # head by head: q, k, v of head 0, ...
    assert torch.equal(wide[qkv], torch.cat([source[qkv]] * 2))


def test_source_is_left_alone_and_shares_nothing():
    source = models.fresh("gemma2").train()
    source.generation_config.temperature = 0.25
    before, settings = models.state(source), copy.deepcopy(source.config.to_dict())
    wide = hcviz.clone(source, expansion="noisy-diagonal")
    assert source.training
    assert not any(module.training for module in wide.modules())
    assert source.config.to_dict() == settings
    assert not hasattr(source.config, "hcviz")
    after = models.state(source)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not storages(source) & storages(wide)
    assert wide.generation_config is not source.generation_config
    assert wide.generation_config.to_dict() == source.generation_config.to_dict()
    assert wide.device == source.device


def storages(model):
    tensors = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "phi3"])
def test_large_factors_are_exact(name, factor):
    source = models.source(name, torch.float64)
    wide = hcviz.clone(source, hidden=factor, expansion="random")
    assert models.error(models.logits(source), models.logits(wide)) < 1e-12
    assert wide.config.hidden_size == factor * source.config.hidden_size


def test_recipe_says_how_the_clone_was_made():
    wide = hcviz.clone(models.source("llama"), hidden=2, ffn=3, expansion="noisy-symmetric", seed=4)
    factors = {"hidden": 2, "ffn": 3, "expert_ffn": 3, "kv_heads": 2, "group": 1, "head_dim": 1}
    recipe = {"factors": factors, "expansion": "noisy-symmetric", "snr_db": 10.0, "seed": 4}
    assert wide.config.hcviz == {**recipe, "source": None, "fusing": {}}
    assert (wide.config.hidden_size, wide.config.intermediate_size) == (64, 120)
    assert (wide.config.num_attention_heads, wide.config.num_key_value_heads) == (8, 4)


def test_single_key_value_head_stays_single_unless_asked():
    source = models.source("llama-one-kv")
    assert hcviz.clone(source).config.num_key_value_heads == 1
    assert hcviz.clone(source, kv_heads=2).config.num_key_value_heads == 2


@pytest.mark.parametrize("call", [{"hidden": 3}, {"hidden": 1.5, "expansion": "random"}])
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts_and_the_choice_among_them_stay(kind, call):
    fields = {**models._GROUPED, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
    fields |= {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 28}
    config = AutoConfig.for_model(kind, **fields)
    source = models.randomise(AutoModelForCausalLM.from_config(config)).double().eval()
    pair = source, hcviz.clone(source, **call)
    outputs = []
    for model in pair:
        model.set_experts_implementation("eager")
        with torch.no_grad(), TrueFloat64():
            outputs.append(model(input_ids=models.ids(), output_router_logits=True))
    (one, other), scores = outputs, [output.router_logits[0] for output in outputs]
    assert models.error(one.logits, other.logits) < 1e-12
    assert models.error(*scores) < 1e-12
    assert torch.equal(*(score.topk(2).indices for score in scores))


def test_clone_of_a_clone_is_exact():
    source = models.source("gemma3", torch.float64)
    wider = hcviz.clone(hcviz.clone(source, hidden=2), hidden=3)
    assert wider.config.hidden_size == 6 * source.config.hidden_size
    assert models.error(models.logits(source), models.logits(wider)) < 1e-12


def test_same_seed_same_clone_other_seed_other_clone():
    source = models.source("qwen2")
    one, same, other = (
        hcviz.clone(source, expansion="noisy-symmetric", seed=seed, check=False).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(one[name], other[name])
    # nothing is read twice in an embedding, a norm or a bias, so that noise stays out of them
    for part in ("embed_tokens.weight", "norm.weight", "layers.0.self_attn.q_proj.bias"):
        name = f"model.{part}"
        assert torch.equal(one[name], other[name])


def test_attention_implementation_is_kept():
    source = models.fresh("llama")
    source.set_attn_implementation("eager")
    assert hcviz.clone(source).config._attn_implementation == "eager"


class Draws(torch.utils._python_dispatch.TorchDispatchMode):
    """Record the size of every random tensor that is really drawn, not on the meta device."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        random = ("normal", "uniform", "rand", "bernoulli", "exponential", "dropout")
        if any(word in func.__name__ for word in random) and isinstance(out, torch.Tensor):
            if not out.is_meta:
                self.sizes.append(out.numel())
        return out


def test_recorder_of_random_draws_sees_an_initialisation():
    with Draws() as draws:
        AutoModelForCausalLM.from_config(models.config("llama"))
    assert max(draws.sizes) >= 40 * 32


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2", "gemma2"])
def test_no_random_initialisation_of_the_wide_model(name):
    # far wider than the twin
    source = models.fresh(name, hidden_size=192, num_attention_heads=24)
    before = torch.random.get_rng_state()
    with Draws() as draws:
        hcviz.clone(source, check=True)
    assert max(draws.sizes, default=0) < 192 * 192
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_drawn_at_all_without_noise_and_guard():
    with Draws() as draws:
        hcviz.clone(models.source("llama"), check=False)
    assert draws.sizes == []

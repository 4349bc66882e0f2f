"""Widths that do not divide and heads that grow in size: the clone is the source all the same.

Across `clone`, `verify` and what the rooms above them make of such factors.
"""

from fractions import Fraction

import models
import pytest
import torch
from transformers import AutoModelForCausalLM

import hcviz
from hcviz.architecture.factors import resolve_factors
from hcviz.widening.twin import twin_factors

HALF = Fraction(3, 2)
APART = {
    "hidden x1.5": {"hidden": HALF, "heads": 1},
    "hidden x2.5, noisy": {"hidden": 2.5, "heads": 2, "expansion": "noisy-symmetric"},
    "ffn x1.25, random": {"hidden": 1, "ffn": 1.25, "expansion": "random"},
}
COUPLED = {
    "all x1.5": {"hidden": HALF},
    "all x1.25, diagonal": {"hidden": 1.25, "expansion": "diagonal"},
    "ffn x1.5": {"hidden": 1, "ffn": HALF},
}
HEADS = {"hidden and heads x1.5, random": {"hidden": HALF, "expansion": "random"}}
NORM_OVER_HEADS = {"olmo2"}
FIXED_EPS = {"opt-350m"}  # its norms, after the sum, have an eps that no configuration sets
MATRIX = [
    pytest.param(name, call, id=f"{name} {label}")
    for name in sorted(models.FAMILIES.keys() - FIXED_EPS)
    for label, call in {
        **(COUPLED if name in models.COUPLED else APART),
        **({} if name in models.COUPLED | NORM_OVER_HEADS else HEADS),
    }.items()
]


@pytest.mark.filterwarnings("ignore:OlmoForCausalLM has no gain")
@pytest.mark.parametrize(("name", "call"), MATRIX)
def test_uneven_clone_is_exact_and_reloads(name, call, tmp_path):
    source = models.source(name, torch.float64)
    wide = hcviz.clone(source, **call)
    wide.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(source)
    assert models.error(models.logits(source), models.logits(wide)) < 1e-12
    # a reload in float64 makes rotary tables and sqrt(hidden) in float64, the source has float32
    assert models.error(models.logits(source), models.logits(again)) < 1e-6
    assert wide.num_parameters() > source.num_parameters()


TURNING = ("llama", "llama-head-size", "olmo2", "gemma2", "gemma3", "qwen3", "mistral", "phi3")


@pytest.mark.parametrize("name", [*TURNING, "gpt2", "opt"])
@pytest.mark.parametrize("n", [2, 3])
def test_heads_grow_in_size(name, n, tmp_path):
    source = models.source(name, torch.float64)
    wide = hcviz.clone(source, hidden=n, head_dim=n, expansion="noisy-symmetric")
    assert wide.config.num_attention_heads == source.config.num_attention_heads
    wide.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    # the frequencies of every rotary model are float32: a few 2^-24 at each of ten positions
    allowed = 1e-12 if name in ("gpt2", "opt") else 2e-6
    assert models.error(models.logits(source), models.logits(wide)) < allowed
    assert models.error(models.logits(source), models.logits(again)) < 2e-6


@pytest.mark.parametrize(
    ("rope", "reason"),
    [
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 24, "rope_theta": 1e4}, None),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}, None),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, None),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "length of the text"),
    ],
)  # fmt: skip
def test_scaled_frequencies_are_kept_or_refused(rope, reason):
    source = models.fresh("llama", rope_parameters=rope)
    if reason:
        with pytest.raises(hcviz.CloneError, match=reason):
            hcviz.clone(source, head_dim=2)
        return
    wide = hcviz.clone(source, head_dim=2)
    assert models.error(models.logits(source), models.logits(wide)) < 2e-5
    with pytest.raises(hcviz.CloneError, match="longrope"):
        hcviz.clone(wide, head_dim=2)


def test_what_cannot_grow_in_size_says_why():
    with pytest.raises(hcviz.CloneError, match=r"only 50% of a head turns.*heads=2"):
        hcviz.clone(models.source("gpt_neox"), head_dim=2)
    with pytest.raises(hcviz.CloneError, match="800,000 units would need a list of as many"):
        hcviz.clone(models.source("llama"), head_dim=10**5)
    with pytest.raises(hcviz.CloneError, match="leave head_dim out"):
        hcviz.clone(models.source("olmo"), head_dim=2)  # it clips queries at a constant


def test_a_norm_over_all_heads_wants_equal_copies():
    with pytest.raises(hcviz.CloneError, match="a norm over them: choose a whole factor"):
        hcviz.clone(models.source("olmo2"), hidden=HALF)


def test_norms_that_do_not_allow_padding_are_refused():
    with pytest.raises(hcviz.CloneError, match=r"norms do not allow a padded.*whole"):
        hcviz.clone(models.source("opt-350m"), hidden=HALF)


def test_a_size_that_the_stock_configuration_refuses_is_said_before_saving():
    with pytest.raises(hcviz.CloneError, match=r"LlamaConfig refuses .*hidden size \(32\).*heads"):
        hcviz.clone(models.source("llama"), hidden=1, heads=HALF)


def test_padding_starts_silent_and_is_free_to_learn():
    source = models.source("llama-head-size")
    wide = hcviz.clone(source, hidden=HALF, heads=1)
    layer = wide.model.layers[0]
    assert wide.model.embed_tokens.weight[:, 32:].abs().max() == 0  # written: nothing
    assert layer.mlp.down_proj.weight[32:].abs().max() == 0
    assert layer.mlp.up_proj.weight[:, 32:].abs().min() > 0  # read: free
    wide(input_ids=models.ids(), labels=models.ids()).loss.backward()
    assert layer.mlp.down_proj.weight.grad[32:].abs().max() > 0


def test_uneven_copies_share_by_how_often_they_are_read():
    wide = hcviz.clone(models.source("llama"), hidden=1, ffn=HALF, heads=1)
    small = models.source("llama").model.layers[0].mlp.down_proj.weight
    down = wide.model.layers[0].mlp.down_proj.weight
    assert torch.equal(down[:, :20], small[:, :20] / 2)  # the first twenty neurons have two copies
    assert torch.equal(down[:, 20:40], small[:, 20:])
    assert torch.equal(down[:, 40:], small[:, :20] / 2)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma2", "olmo"])
@pytest.mark.filterwarnings("ignore:OlmoForCausalLM has no gain")
def test_an_uneven_clone_gives_its_source_back(name):
    source = models.source(name, torch.float64)
    small, lost = hcviz.declone(hcviz.clone(source, hidden=HALF, expansion="random"))
    assert small.config.hidden_size == source.config.hidden_size
    assert models.error(models.logits(source), models.logits(small)) < 1e-12
    assert lost["lost"].max() > 0
    assert hcviz.declone(hcviz.clone(source, hidden=HALF))[1]["lost"].max() < 1e-30


def test_a_clone_with_wider_heads_gives_its_source_back():
    source = models.source("llama", torch.float64)
    small, _ = hcviz.declone(hcviz.clone(source, head_dim=2))
    assert small.config.rope_parameters == source.config.rope_parameters
    assert models.error(models.logits(source), models.logits(small)) < 1e-12


def test_lockstep_refuses_unequal_numbers_of_copies():
    wide = hcviz.clone(models.source("llama"), hidden=1, ffn=HALF, heads=1)
    with pytest.raises(hcviz.HcvizError, match="unequal numbers of copies"):
        hcviz.lockstep_groups(wide, lr=1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "gemma2"])
def test_the_twin_is_uneven_where_the_call_is(name):
    config = models.config(name, hidden_size=4096, num_attention_heads=32)
    factors = resolve_factors(config, hidden="33/32", heads=1, ffn=1.5)
    found = twin_factors(config, factors)
    for axis, factor in factors.items():
        assert (Fraction(found[axis]).denominator == 1) == (Fraction(factor).denominator == 1)

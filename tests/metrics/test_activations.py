"""Metrics of activations: by hand, against independent formulas, on clones and on no clones.

Those of `_activations`, `_explained`, `_heads`, `_context` and `_streams`.
"""

import math

import models
import numpy as np
import pytest
import scipy.spatial.distance
import torch
from torch.nn.functional import cross_entropy

import hcviz
from hcviz.metrics import METRICS
from hcviz.metrics._activations import DEAD, inner_dims, layer_paths, twin_correlation
from hcviz.metrics._context import score
from hcviz.metrics._explained import variances
from hcviz.metrics._heads import agreement, prefix_matching
from hcviz.metrics._streams import layer_logits, linear_cka

FAMILIES = ("gpt_neox", "opt-350m", "llama", "gemma2", "gpt2", "phi3", "llama-one-kv")
ROUNDING = 1e-9
"""Copies see the same float32 numbers in another order of summing: correlations lose 1e-13."""


def clone(name, **options):
    return hcviz.clone(
        models.source(name), kv_heads=1 if name in models.ONE_KV else None, **options
    )


def rows(metric, model, factors=None, **extras):
    factors = model.config.hcviz["factors"] if factors is None else factors
    axes = hcviz.layout(model, factors=factors)
    return list(METRICS[metric].function(model, models.ids(), axes, factors, **extras))


def given_to(model, path):
    """Return the input of a module [T, W], by a hook of this test."""
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda _, x, __: seen.append(x[0]))
    with torch.no_grad():
        model(models.ids())
    handle.remove()
    return seen[0].flatten(0, -2).double().numpy()


def test_correlation_by_hand():
    # over three tokens: equal, opposite, a quarter turn apart, constant
    a = torch.tensor([[1.0, 2, 1, 5], [2, 0, 0, 5], [3, 1, -1, 5]], dtype=torch.float64)
    b = torch.tensor([[2.0, 1, 1, 5], [4, 3, -2, 5], [6, 2, 1, 5]], dtype=torch.float64)
    found = twin_correlation(torch.stack([a, b])).tolist()
    assert found[:3] == pytest.approx([1, -1, 0], abs=1e-12)
    assert math.isnan(found[3])


def test_correlation_of_three_copies_is_the_mean_over_pairs():
    copies = np.random.default_rng(0).normal(size=(3, 20, 4))
    found = twin_correlation(torch.from_numpy(copies)).numpy()
    for unit in range(4):
        table = np.corrcoef(copies[:, :, unit])
        assert found[unit] == pytest.approx((table[0, 1] + table[0, 2] + table[1, 2]) / 3)


def test_copies_that_are_equal_bit_by_bit_correlate_with_exactly_one():
    one = torch.randn(50, 7).double()
    assert twin_correlation(torch.stack([one, one])).tolist() == [1.0] * 7


@pytest.mark.parametrize("name", FAMILIES)
def test_a_clone_without_noise_says_the_same_in_every_copy(name):
    found = rows("twins", clone(name))
    assert {row["axis"] for row in found} == {"R", "H", "N"}
    assert [row["value"] for row in found] == pytest.approx([1.0] * len(found), abs=ROUNDING)


@pytest.mark.parametrize("options", [{"hidden": 3}, {"expansion": "noisy-symmetric"}])
def test_three_copies_and_noise_say_the_same_too(options):
    found = rows("twins", clone("llama", **options))
    assert [row["value"] for row in found] == pytest.approx([1.0] * len(found), abs=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_model_of_the_wide_size_does_not(name):
    wide = clone(name)
    fresh = models.randomise(type(wide)(wide.config).eval(), seed=1)
    found = rows("twins.units", fresh)
    for axis in "RHN":
        values = [row["value"] for row in found if row["axis"] == axis]
        # 20 tokens: each correlation of unrelated units is about N(0, 1/20)
        assert abs(np.nanmean(values)) < 0.3
        assert np.nanmax(values) < 0.99


def test_units_are_measured_against_the_copies_of_the_same_unit():
    wide = clone("llama")
    with torch.no_grad():  # neuron 3's second copy, of 40 in the source, reads something else
        for half in ("up_proj", "gate_proj"):
            wide.model.layers[1].mlp.get_submodule(half).weight[40 + 3].normal_()
    found = [r for r in rows("twins.units", wide) if r["tensor"] == "model.layers.1.mlp.down_proj"]
    apart = [row["row"] for row in found if row["value"] < 1 - ROUNDING]
    assert apart == [3]
    given = given_to(wide, "model.layers.1.mlp.down_proj")
    assert found[3]["value"] == pytest.approx(np.corrcoef(given[:, 3], given[:, 43])[0, 1])


def test_heads_by_hand():
    same = torch.tensor([[[1.0, 0], [0.5, 0.5]]])
    apart = torch.tensor([[[1.0, 0], [1, 0]], [[1.0, 0], [0, 1]]])
    assert agreement(same, same).tolist() == [1.0]
    assert agreement(apart, apart.flip(0)).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_heads_against_scipy():
    p, q = torch.rand(2, 3, 5, 5, dtype=torch.float64).softmax(-1)
    expected = [
        np.mean(
            [
                1 - scipy.spatial.distance.jensenshannon(a, b, base=2) ** 2
                for a, b in zip(x, y, strict=True)
            ]
        )
        for x, y in zip(p[:, 1:].numpy(), q[:, 1:].numpy(), strict=True)
    ]
    assert agreement(p, q).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_copied_heads_look_at_the_same_words_and_others_do_not(name):
    wide = clone(name)
    before = wide.config._attn_implementation
    found = rows("heads", wide)
    copies, others = (
        [row["value"] for row in found if row["part"] == part] for part in ("copies", "others")
    )
    assert copies == pytest.approx([1.0] * len(copies), abs=1e-6)  # patterns are float32
    assert max(others) < 0.999
    assert len(copies) == models.source(name).config.num_attention_heads * len(
        {row["tensor"] for row in found}
    )
    assert wide.config._attn_implementation == before


def test_neurons_by_hand():
    model = models.fresh("opt")  # ReLU
    with torch.no_grad():
        first = model.model.decoder.layers[0].fc1
        first.weight[5] = 0.0
        first.bias[5] = -1.0  # never active
        first.weight[7], first.bias[7] = 2 * first.weight[3], 2 * first.bias[3]
        first.bias[3].fill_(9.0), first.bias[7].fill_(18.0)  # always active, and duplicates
    found = {row["part"]: row["value"] for row in rows("neurons", model, {})}
    given = given_to(model, "model.decoder.layers.0.fc2")
    quiet = np.abs(given).max(0) <= DEAD * np.sqrt(np.square(given).mean())
    assert quiet[5]
    assert found["dead"] == pytest.approx(quiet.mean())
    live = given[:, given.std(0) > 0]
    table = np.corrcoef(live.T) - 2 * np.eye(live.shape[1])
    assert found["duplicate"] == pytest.approx((table > 0.999).any(1).sum() / 40)
    assert found["duplicate"] >= 2 / 40
    spectrum = np.linalg.eigvalsh(np.cov(given.T))
    assert found["distinct"] == pytest.approx(spectrum.sum() ** 2 / np.square(spectrum).sum())


def test_copies_add_duplicates_but_no_distinct_neurons():
    small, wide = models.source("llama"), clone("llama")
    before, after = rows("neurons", small, {}), rows("neurons", wide)
    for a, b in zip(before, after, strict=True):
        if a["part"] == "distinct":
            assert b["value"] == pytest.approx(a["value"], rel=1e-4)  # float32 activations
        if a["part"] == "duplicate":
            assert a["value"] < b["value"] == 1.0


def test_cka_cannot_see_copies_and_does_see_another_model():
    x = torch.randn(30, 5, dtype=torch.float64)
    assert linear_cka(x, torch.cat([x, x], 1)) == pytest.approx(1, abs=1e-12)
    small, wide = models.source("gpt_neox"), clone("gpt_neox")
    same = rows("cka", wide, source=small)
    assert [row["value"] for row in same] == pytest.approx([1, 1], abs=1e-9)
    other = rows("cka", wide, source=models.fresh("gpt_neox", hidden_size=16))
    assert max(row["value"] for row in other) < 0.95
    assert rows("cka", wide, source=None) == []


def test_cka_against_the_formula_of_its_authors():
    a, b = np.random.default_rng(2).normal(size=(2, 12, 4))
    a, b = a - a.mean(0), b[:, :3] - b[:, :3].mean(0)
    top = np.linalg.norm(b.T @ a) ** 2
    expected = top / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert linear_cka(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_lens_is_the_model(name):
    model = models.source(name)
    with torch.no_grad():
        expected = model(models.ids()).logits
    *_, last = layer_logits(model, models.ids())
    torch.testing.assert_close(last, expected, rtol=0, atol=0)
    with torch.no_grad():  # and the model is as it was
        torch.testing.assert_close(model(models.ids()).logits, expected, rtol=0, atol=0)


def test_the_lens_is_the_final_norm_and_the_head():
    model, ids = models.source("gpt_neox"), models.ids()
    first = next(layer_logits(model, ids))
    with torch.no_grad():
        stream = model(ids, output_hidden_states=True).hidden_states[1]
        expected = model.lm_head(model.gpt_neox.final_layer_norm(stream))
    torch.testing.assert_close(first, expected)
    found = {(r["tensor"], r["part"]): r["value"] for r in rows("lens", model, {}, source=None)}
    loss = cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    assert found["gpt_neox.layers.0", "loss"] == pytest.approx(loss)
    assert found["gpt_neox.layers.0", "kl"] > 0 == found["gpt_neox.layers.1", "kl"]


def test_a_clone_and_its_source_look_alike_through_the_lens():
    small, wide = models.source("gemma2"), clone("gemma2")
    found = {(r["tensor"], r["part"]): r["value"] for r in rows("lens", wide, source=small)}
    for layer in layer_paths(hcviz.layout(wide)):
        for part in ("loss", "kl"):
            ours, theirs = found[layer, part], found[layer, f"source {part}"]
            assert ours == pytest.approx(theirs, abs=1e-4)  # float32 logits


def test_the_places_are_read_off_the_layout():
    axes = hcviz.layout(models.source("llama"))
    assert layer_paths(axes) == ["model.layers.0", "model.layers.1"]
    assert [*inner_dims(axes, "H")] == [f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)]
    assert [*inner_dims(axes, "N")] == [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]


def test_variances_by_hand():
    # two tokens, two units with two copies each: at the first token 1, 5 and 3, 5
    copies = torch.tensor([[[1.0, 5], [0, 2]], [[3.0, 5], [4, 2]]], dtype=torch.float64)
    within, total = variances(copies)
    assert within == pytest.approx(2 + 0 + 8 + 0)
    assert total == pytest.approx(2 * (11 / 3 + 8 / 3))  # of 1 5 3 5 and of 0 2 4 2


def test_unrelated_copies_explain_nothing_and_equal_ones_all():
    copies = torch.randn(3, 40, 500, dtype=torch.float64)
    within, total = variances(copies)
    assert 1 - within / total == pytest.approx(0, abs=0.02)
    assert variances(copies[:1].expand(2, -1, -1))[0] == 0


@pytest.mark.parametrize("name", ["opt-350m", "gemma2", "gpt2", "llama-one-kv"])
def test_cloning_r2_of_an_exact_clone_is_one_both_ways(name):
    found = rows("cloning_r2", clone(name))
    assert {(row["part"], row["axis"]) for row in found} == {
        (part, axis) for part in ("forward", "backward") for axis in "RHN"
    }
    assert [row["value"] for row in found] == pytest.approx([1.0] * len(found), abs=ROUNDING)


def test_noise_that_cancels_forwards_shows_backwards():
    found = rows("cloning_r2", clone("llama", expansion="noisy-symmetric"))
    ahead = [row["value"] for row in found if row["part"] == "forward"]
    back = [row["value"] for row in found if row["part"] == "backward" and row["axis"] == "N"]
    assert ahead == pytest.approx([1.0] * len(ahead), abs=1e-6)
    assert max(back) < 0.99


def test_cloning_r2_against_numpy_and_autograd():
    wide = clone("gpt_neox", expansion="noisy-diagonal")
    path, module = "gpt_neox.layers.1.mlp.dense_4h_to_h", []
    wide.get_submodule(path).register_forward_pre_hook(lambda _, x: module.append(x[0]))
    value = wide(models.ids()[:1], labels=models.ids()[:1])
    (gradient,) = torch.autograd.grad(value.loss, module[0])
    factors = wide.config.hcviz["factors"]
    axes = hcviz.layout(wide, factors=factors)
    found = METRICS["cloning_r2"].function(wide, models.ids()[:1], axes, factors)
    found = {row["part"]: row["value"] for row in found if row["tensor"] == path}
    for part, seen in (("forward", module[0].detach()), ("backward", gradient)):
        seen = seen[0].double().numpy()  # [T, W]; copy c of unit i is at 40 c + i
        within = np.var([seen[:, :40], seen[:, 40:]], axis=0, ddof=1).mean()
        assert found[part] == pytest.approx(1 - within / np.var(seen, axis=1, ddof=1).mean())
    assert all(p.grad is None for p in wide.parameters())


def test_a_frozen_model_has_gradients_too():
    wide = clone("llama").requires_grad_(False)
    assert {row["part"] for row in rows("cloning_r2", wide)} == {"forward", "backward"}


def test_prefix_matching_by_hand():
    # of the tokens a b c a b c: the second a, b, c look at the first b, c and at the second a
    pattern = torch.zeros(6, 6)
    pattern[3, 1], pattern[4, 2], pattern[5, 3] = 0.9, 0.6, 0.3
    assert prefix_matching(pattern).item() == pytest.approx(0.6)
    assert prefix_matching(pattern.T).item() == 0


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2", "llama-one-kv"])
def test_induction_is_read_off_the_attention_to_drawn_tokens(name):
    wide = clone(name)
    found = [row for row in rows("induction", wide) if row["part"] == "heads"]
    half = models.LENGTH // 2
    once = torch.randint(models.VOCAB, (2, half), generator=torch.Generator().manual_seed(0))
    wide.set_attn_implementation("eager")
    with torch.no_grad():
        seen = wide(torch.cat([once, once], 1), output_attentions=True).attentions
    expected = torch.stack(seen)[..., range(half, 2 * half), range(1, half + 1)].mean((1, 3))
    values = torch.tensor([row["value"] for row in found]).view(len(seen), -1)
    torch.testing.assert_close(values.sort()[0], expected.sort()[0])
    twins = {}
    for row in found:
        twins.setdefault((row["tensor"], row["row"]), []).append(row["value"])
    assert all(pair == pytest.approx([pair[0]] * 2, abs=1e-6) for pair in twins.values())


def test_induction_needs_no_clone_and_tells_the_level_of_looking_everywhere():
    found = rows("induction", models.source("llama"), {})
    assert {row["col"] for row in found if row["part"] == "heads"} == {0}
    level = np.mean([1 / (t + 1) for t in range(5, 10)])
    uniform = [row["value"] for row in found if row["part"] == "uniform"]
    assert uniform == pytest.approx([level] * 2)


def test_the_loss_by_position_is_the_model_s():
    model, ids = models.source("llama"), models.ids()
    found = rows("in_context", model, {})  # ten tokens are too few to tell late from early
    assert {row["part"] for row in found} == {"loss"}
    assert [row["row"] for row in found] == [*range(1, models.LENGTH)]
    with torch.no_grad():
        sure = model(ids).logits.log_softmax(-1)
    for row in found:
        t = row["row"]
        expected = -(sure[0, t - 1, ids[0, t]] + sure[1, t - 1, ids[1, t]]) / 2
        assert row["value"] == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        assert np.mean([row["value"] for row in found]) == pytest.approx(
            model(ids, labels=ids).loss.item(), rel=1e-5
        )


def test_the_in_context_score_by_hand():
    loss = torch.full((512,), 3.0)
    loss[32:96], loss[448:] = 5.0, 1.0  # about the 50th and the 500th of 512
    assert score(loss) == -4
    loss[:32], loss[96:448] = 9.0, 9.0  # what is read between does not count
    assert score(loss) == -4
    model, ids = models.source("llama"), models.ids(length=33)
    axes = hcviz.layout(model)
    *found, last = METRICS["in_context"].function(model, ids, axes, {})
    values = [row["value"] for row in found]
    assert last["value"] == pytest.approx(np.mean(values[28:]) - np.mean(values[2:6]))

"""Lockstep: with its own parameter groups a noiseless clone is its source, step after step."""

import models
import pytest
import tiny
import torch

import hcviz
from hcviz.cloning.lockstep import Pace, copies, grow_optimizer, lockstep_groups, paces
from hcviz.errors import HcvizError
from hcviz.widening.expansion import Expansion, widen
from hcviz.widening.twin import TrueFloat64

LR, EPS, DECAY = 3e-3, 1e-6, 0.1


def plain(model):
    return [{"params": list(model.parameters()), "eps": EPS, "weight_decay": DECAY}]


def train(model, groups, steps):
    go_on(model, torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95)), steps, seed=3)


def go_on(model, optimizer, steps, *, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, model.config.vocab_size, (2, 8), generator=generator)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def apart(small, wide):
    with torch.no_grad(), TrueFloat64():
        return models.error(models.logits(small), models.logits(wide))


@pytest.mark.parametrize(
    ("name", "hidden", "steps"),
    [("gpt_neox", 2, 100), ("llama", 3, 60), ("opt", 2, 60), ("phi3", 2, 60), ("qwen2", 2, 60)],
)
def test_a_noiseless_clone_follows_its_source(name, hidden, steps):
    small = models.fresh(name).double()
    wide = hcviz.clone(small, hidden=hidden)
    begin = models.logits(small).clone()
    with TrueFloat64():
        train(small, plain(small), steps)
        train(wide, lockstep_groups(wide, lr=LR, eps=EPS, weight_decay=DECAY), steps)
    assert models.error(begin, models.logits(small)) > 0.1, "it must really have moved"
    assert apart(small, wide) < 1e-9


def test_without_its_groups_it_does_not():
    small = models.fresh("gpt_neox").double()
    wide = hcviz.clone(small)
    for model in (small, wide):
        train(model, plain(model), 20)
    assert apart(small, wide) > 1e-3


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "olmo2"])
def test_gradients_are_the_sources_over_the_written_copies(name):
    small = models.fresh(name).double()
    wide = hcviz.clone(small, hidden=2)
    ids = torch.randint(0, small.config.vocab_size, (2, 8))
    with TrueFloat64():
        for model in (small, wide):
            model(input_ids=ids, labels=ids).loss.backward()
    found = copies(wide)
    factors = wide.config.hcviz["factors"]
    axes = hcviz.layout(small)
    for name, parameter in small.named_parameters():
        expected = widen(
            name, parameter.grad / found[name].written, axes[name], factors, Expansion()
        )
        expected = expected * found[name].read if "norm" not in name else expected
        torch.testing.assert_close(wide.get_parameter(name).grad, expected, atol=1e-12, rtol=1e-9)


def test_what_is_no_clone_is_refused():
    with pytest.raises(HcvizError, match="does not say how it was cloned"):
        lockstep_groups(models.fresh("llama"), lr=1e-3)


def test_scaled_embeddings_are_refused():
    with pytest.raises(HcvizError, match="Gemma2ForCausalLM multiplies its embeddings"):
        lockstep_groups(hcviz.clone(models.source("gemma2")), lr=1e-3)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("gpt_neox", torch.optim.AdamW, {"betas": (0.9, 0.95)}),
        ("llama", torch.optim.AdamW, {"amsgrad": True}),
    ],
)
def test_grown_adam_state_goes_on_where_the_source_is(name, kind, options):
    small = models.fresh(name).double()
    first = kind(plain(small), lr=LR, **options)
    with TrueFloat64():
        go_on(small, first, 10, seed=1)
        wide = hcviz.clone(small)
        groups = lockstep_groups(wide, lr=LR, eps=EPS, weight_decay=DECAY)
        second = grow_optimizer(first, small, wide, kind(groups, lr=LR, **options))
        fresh = kind(
            lockstep_groups(afresh := hcviz.clone(small), lr=LR, eps=EPS), lr=LR, **options
        )
        for model, optimizer in ((small, first), (wide, second), (afresh, fresh)):
            go_on(model, optimizer, 20, seed=2)
    assert apart(small, wide) < 1e-9
    assert apart(small, afresh) > 1e-3


def test_grown_momentum_repeats_the_sources():
    small = models.fresh("qwen2").double()
    first = torch.optim.SGD(small.parameters(), lr=1e-2, momentum=0.9)
    go_on(small, first, 3, seed=1)
    wide = hcviz.clone(small)
    grown = torch.optim.SGD(wide.parameters(), lr=1e-2, momentum=0.9)
    grow_optimizer(first, small, wide, grown)
    name = "model.layers.0.mlp.up_proj.weight"
    ours = grown.state[wide.get_parameter(name)]["momentum_buffer"]
    theirs = first.state[small.get_parameter(name)]["momentum_buffer"]
    torch.testing.assert_close(ours, theirs.repeat(2, 2) / 2)


def test_state_that_cannot_grow_is_named():
    small = models.fresh("llama")
    first = torch.optim.Adafactor(small.parameters())
    go_on(small, first, 1, seed=1)
    wide = hcviz.clone(small)
    with pytest.raises(HcvizError, match="Adafactor keeps 'row_var' for"):
        grow_optimizer(first, small, wide, torch.optim.Adafactor(wide.parameters()))


SHORT = {"steps": 12, "snapshots": 2, "batch_size": 2, "context": 16, "eval_blocks": 2}
UNCLIPPED = {"max_grad_norm": 0.0}


@pytest.mark.parametrize("who", ["source", "clone"])
def test_train_takes_the_steps_of_the_other(who, tmp_path):
    """The matched source does what its clone does; the clone, if asked, what its source does."""
    small = tiny.model("gpt_neox", hidden_size=32)
    wide = hcviz.clone(small)
    text, tokenizer = tiny.write_text(tmp_path), tiny.tokenizer()
    model, other = (small, wide) if who == "source" else (wide, small)
    asked = [(other, None), (model, wide), (model, None)]
    there, matched, plain = (
        hcviz.train(
            one, out=tmp_path / f"{i}", corpus=text, tokenizer=tokenizer, lr=3e-3, **SHORT,
            lockstep=lockstep, trainer_args=UNCLIPPED, progress=False,
        ).history.query("split == 'heldout'")["loss"].iloc[-1]
        for i, (one, lockstep) in enumerate(asked)
    )  # fmt: skip
    assert matched == pytest.approx(there, rel=2e-5)  # float32
    assert plain != pytest.approx(there, rel=1e-3)


def test_lockstep_with_another_family_is_refused():
    with pytest.raises(HcvizError, match=r"(?s)GPTNeoX.*Llama.*other parameters"):
        paces(models.fresh("gpt_neox"), hcviz.clone(models.fresh("llama")))


def test_a_source_that_is_a_clone_itself_takes_the_steps_of_its_own_clone():
    middle = hcviz.clone(models.fresh("gpt_neox").double(), expansion="noisy-symmetric")
    wide = hcviz.clone(middle, hidden=3)
    base, found = Pace(LR, EPS, DECAY), paces(middle, wide)
    groups = [
        {"params": [weight], **base.times(found[name])}
        for name, weight in middle.named_parameters()
    ]
    with TrueFloat64():
        train(middle, groups, 20)
        train(wide, plain(wide), 20)
    assert apart(middle, wide) < 1e-9
    assert paces(wide, wide)["lm_head.weight"].lr == pytest.approx(1 / 3)


def test_what_is_neither_the_clone_nor_its_source_is_refused():
    small = models.fresh("gpt_neox")
    middle = hcviz.clone(small)
    wide, once = hcviz.clone(middle), hcviz.clone(small, hidden=4)
    with pytest.raises(HcvizError, match=r"neither the clone nor .* in one step"):
        paces(small, wide)
    with pytest.raises(HcvizError, match=r"has the shapes of the clone and was cloned by .*4.*2"):
        paces(once, wide)
    del once.config.hcviz
    with pytest.raises(HcvizError, match=r"shapes of the clone and does not say"):
        paces(once, wide)
    with pytest.raises(HcvizError, match="neither the clone nor"):
        grow_optimizer(torch.optim.AdamW(small.parameters()), small, wide, None)

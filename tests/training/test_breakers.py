"""Breakers: what each leaves exactly as it was, what it parts, and that a resume repeats it."""

import copy
import functools
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import Trainer, TrainingArguments

import hcviz
from hcviz.architecture.axes import SYMMETRY
from hcviz.architecture.blocks import pieces
from hcviz.architecture.factors import parse_factors
from hcviz.errors import HcvizError
from hcviz.training.breakers import BreakerCallback
from hcviz.training.schedule import BREAKERS, BlockOrder, parse_breakers
from hcviz.training.train import train

IDS = torch.arange(96).reshape(3, 32) * 7 % 2048
SHORT = {"steps": 6, "snapshots": [2, 4], "batch_size": 4, "lr": 1e-2, "progress": False}


@functools.cache
def wide():
    return hcviz.clone(tiny.model(), hidden=2, check=False)


def clone():
    return copy.deepcopy(wide())


class Loop:
    """A model's steps of AdamW one by one, with the calls that a Trainer makes."""

    def __init__(self, breaker, *, steps=8, seed=0, kind=torch.optim.AdamW):
        self.model, self.told = clone().train(), []
        self.optimizer = kind(self.model.parameters(), lr=1e-2)
        self.state = SimpleNamespace(global_step=0, max_steps=steps)
        self.callback = BreakerCallback(breaker, seed=seed) if breaker else None
        self.tell("on_train_begin")

    def tell(self, event):
        given = {"model": self.model, "optimizer": self.optimizer}
        if self.callback:
            getattr(self.callback, event)(SimpleNamespace(), self.state, None, **given)

    def begin(self):
        """Go up to the optimizer's step; return the gradients before and after the breaker."""
        self.optimizer.zero_grad()
        self.model(IDS, labels=IDS).loss.backward()
        before = grads(self.model)
        self.tell("on_pre_optimizer_step")
        return before, grads(self.model)

    def end(self):
        self.optimizer.step()
        self.tell("on_optimizer_step")
        self.state.global_step += 1

    def go(self, count):
        for _ in range(count):
            self.begin()
            self.end()
        return self


def grads(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def grid(model):
    """Yield every piece of the weights: its tensor's name, and the copies in front."""
    factors = parse_factors(model.config.hcviz["factors"])
    axes = hcviz.layout(model, factors=factors)
    for name, tensor in model.named_parameters():
        for blocks in pieces(tensor.detach(), axes[name], factors):
            yield name, blocks


def parted(model):
    """Return along which axes the two copies differ, in any tensor, in any bit."""
    return {
        SYMMETRY[axis]
        for _, blocks in grid(model)
        for d, axis in enumerate(blocks.copy_axes)
        if not torch.equal(blocks.view.select(d, 0), blocks.view.select(d, 1))
    }


def last(blocks, *, but=False):
    """Return the last copy of a piece along all its axes; or the first."""
    return blocks.view[(0 if but else -1,) * len(blocks.copy_axes)]


SETTINGS = {
    "gradient-noise": "at=2",
    "moments-reset": "at=3,steps=2",
    "copy-rate": "factor=3",
    "copy-frozen": "steps=2",
}


@pytest.mark.parametrize("axis", ["R", "H", "N", "RN", "all"])
@pytest.mark.parametrize("name", SETTINGS)
def test_copies_part_along_the_axes_asked_for_and_no_other(name, axis):
    loop = Loop(f"{name}:{SETTINGS[name]},axis={axis}").go(6)
    assert parted(loop.model) == set("RHN" if axis == "all" else axis)


@pytest.mark.parametrize("breaker", [None, "moments-warm:steps=3"])
def test_without_a_breaker_and_while_moments_warm_nothing_parts(breaker):
    assert parted(Loop(breaker).go(6).model) == set()


@pytest.mark.parametrize("name", BREAKERS)
def test_the_function_is_the_same_when_a_breaker_sets_in(name):
    assert set(BREAKERS) == {*SETTINGS, "moments-warm"}
    loop = Loop(f"{name}:at=3,steps=2").go(2)
    assert parted(loop.model) == set()  # nothing acts before its step
    before = loop.model(IDS).logits
    loop.begin()
    assert torch.equal(loop.model(IDS).logits, before)
    loop.end()
    assert torch.equal(loop.model(IDS).logits, before) == (name == "moments-warm")


@pytest.mark.parametrize("axis", ["all", "N"])
def test_noise_is_relative_to_the_gradient_and_fades(axis):
    loop = Loop(f"gradient-noise:scale=0.01,decay=0.5,steps=2,axis={axis}")
    for want in (0.01, 0.005, 0.0):
        before, after = loop.begin()
        loop.end()
        found = {name: (after[name] - g).norm() / g.norm() for name, g in before.items()}
        some = [name for name in found if axis == "all" or "mlp" in name]
        assert max(abs(found[name] - want) for name in some) < 1e-5
        assert all(found[name] == 0 for name in found.keys() - set(some))


def test_noise_follows_from_seed_step_and_place():
    def noise(breaker="gradient-noise:steps=2", **options):
        loop, found = Loop(breaker, **options), []
        for _ in range(2):
            before, after = loop.begin()
            found.append(after["lm_head.weight"] - before["lm_head.weight"])
        loop.state.global_step = 1
        before, after = loop.begin()
        return [*found, after["lm_head.weight"] - before["lm_head.weight"]]

    first, same_step, second = noise()
    assert torch.equal(first, same_step)
    assert not torch.allclose(first, second, rtol=0.5)
    assert torch.equal(noise()[2], second)
    assert not torch.allclose(noise(seed=1)[0], first, rtol=0.5)
    twice = noise(["gradient-noise", "gradient-noise"])[0]
    assert (twice.norm() / first.norm()).item() == pytest.approx(2**0.5, rel=0.05)  # two draws


def test_one_copy_goes_its_own_share_of_the_way_and_the_others_as_before():
    plain, faster = Loop(None).go(1), Loop("copy-rate:factor=3").go(1)
    sides = zip(grid(clone()), grid(plain.model), grid(faster.model), strict=True)
    for (name, start), (_, usual), (_, moved) in sides:
        if start.copy_axes:
            assert torch.equal(last(moved, but=True), last(usual, but=True)), name
            want = last(start) + 3 * (last(usual) - last(start))
            torch.testing.assert_close(last(moved), want)
            assert not torch.equal(last(moved), last(usual))
        else:
            assert torch.equal(moved.view, usual.view), name


def test_a_frozen_copy_stays_bit_by_bit_and_then_moves():
    loop = Loop("copy-frozen:steps=25%").go(2)
    start = {name: blocks for name, blocks in grid(clone()) if blocks.copy_axes}
    for name, blocks in grid(loop.model):
        if name in start:
            assert torch.equal(last(blocks), last(start[name])), name
            assert not torch.equal(last(blocks, but=True), last(start[name], but=True))
    loop.go(1)
    moved = [not torch.equal(last(b), last(start[n])) for n, b in grid(loop.model) if n in start]
    assert all(moved)


def test_moments_of_one_copy_are_reset_and_its_rate_warms_up_again():
    loop = Loop("moments-reset:at=3,steps=4").go(2)
    loop.begin()
    name = "model.layers.0.mlp.up_proj.weight"
    weight = loop.model.get_parameter(name)
    state = loop.optimizer.state[weight]
    for key in ("exp_avg", "exp_avg_sq"):
        moment = state[key].unflatten(1, (2, 16)).unflatten(0, (2, 32))
        assert moment[1, :, 1].count_nonzero() == 0
        assert moment[0].count_nonzero() == moment[0].numel()
        assert moment[1, :, 0].count_nonzero() == 32 * 16
    assert state["step"] == 2
    before = weight.detach().clone()
    loop.optimizer.step()
    full = weight.detach() - before
    loop.tell("on_optimizer_step")
    went = (weight.detach() - before) / full
    assert went[32:, 16:].mean() == pytest.approx(1 / 4, abs=1e-3)
    assert (went[:32] == 1).all()
    loop.state.global_step += 1
    loop.begin()
    assert moment[1, :, 1].count_nonzero() == 32 * 16  # once


def test_moments_warm_up_while_no_weight_moves():
    loop = Loop("moments-warm:steps=2").go(2)
    start = weights(clone())
    assert all(torch.equal(w, start[name]) for name, w in weights(loop.model).items())
    moments = [state["exp_avg"] for state in loop.optimizer.state.values()]
    assert all(moment.count_nonzero() for moment in moments)
    loop.go(1)
    assert not any(torch.equal(w, start[name]) for name, w in weights(loop.model).items())


def test_it_works_in_an_ordinary_trainer(corpus, tmp_path):
    model = clone()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to="none", save_strategy="no",
        per_device_train_batch_size=2, disable_tqdm=True,
    )  # fmt: skip
    breaker = hcviz.BreakerCallback("copy-frozen:steps=100%,axis=N")
    Trainer(
        model, arguments, train_dataset=BlockOrder(corpus.train, count=4), callbacks=[breaker]
    ).train()
    assert parted(model) == {"N"}


@pytest.mark.parametrize(
    "breaker",
    ["gradient-noise:steps=6", ["moments-reset:at=4,steps=3,axis=N", "copy-frozen:at=3,steps=3"]],
    ids=str,
)
def test_a_stop_and_a_resume_give_the_same_bits(corpus, tmp_path, breaker):
    options = {**SHORT, "corpus": corpus, "breaker": breaker}
    straight = train(clone(), out=tmp_path / "straight", **options)

    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(clone(), out=tmp_path / "broken", on_log=stop, **options)
    resumed = train(clone(), out=tmp_path / "broken", **options)
    for name in straight.names(6):
        assert torch.equal(resumed.tensor(name, 6), straight.tensor(name, 6)), name
    assert straight.info["request"]["breaker"][0]["name"] == parse_breakers(breaker)[0].name
    with pytest.raises(HcvizError, match="differs in breaker"):
        train(clone(), out=tmp_path / "broken", **{**options, "breaker": "copy-rate"})


def test_a_measured_gradient_is_the_disturbed_one(corpus, tmp_path):
    options = {**SHORT, "corpus": corpus, "metrics": ["grad.ledger"], "steps": 2, "snapshots": 2}
    frame = train(
        clone(), out=tmp_path / "r", breaker="gradient-noise:at=2,axis=N", **options
    ).metrics
    values = frame[frame["step"] == 2].groupby("axis")["value"].max()
    assert values["N"] > 0
    assert values["R"] == values["H"] == 0


@pytest.mark.parametrize(
    ("breaker", "said"),
    [
        ("nose", r"Unknown breaker 'nose'. Use one of gradient-noise, .*axis=N"),
        ("copy-frozen:factor=2", r"copy-frozen has no setting 'factor'. It has at=1, steps=10%"),
        ("gradient-noise:scale", r"scale is a number of at least 0, not ''"),
        ("gradient-noise:scale=-1", r"scale is a number of at least 0, not '-1'"),
        ("copy-rate:factor=inf", r"factor is a number of at least 0, not 'inf'"),
        ("copy-rate:steps=0", r"steps is a number of steps, such as 100, .* not '0'"),
        ("copy-rate:at=101%", r"at is a number of steps, .* 10%, not '101%'"),
        ("copy-rate:axis=Q", r"axis is R \(hidden\), H \(heads\), N \(ffn\).* not 'Q'"),
        ("copy-rate:at=7", r"sets in at step 7, and the run has 6"),
    ],
)
def test_a_breaker_that_cannot_be_is_refused_before_anything_is_made(
    corpus, tmp_path, breaker, said
):
    with pytest.raises(HcvizError, match=said):
        train(clone(), out=tmp_path / "run", corpus=corpus, breaker=breaker, **SHORT)
    assert not (tmp_path / "run").exists()


def test_models_without_the_copies_are_refused(corpus, tmp_path):
    options = {**SHORT, "corpus": corpus, "out": tmp_path / "run"}
    with pytest.raises(HcvizError, match="does not say how it was cloned"):
        train(tiny.model(), breaker="copy-rate", **options)
    wide = hcviz.clone(tiny.model(), hidden=1, ffn=2, heads=1, check=False)
    with pytest.raises(HcvizError, match=r"no copies along R; those it has are along N"):
        train(wide, breaker="copy-rate:axis=R", **options)
    assert not (tmp_path / "run").exists()


def test_what_is_sharded_is_refused_by_name():
    callback, state = BreakerCallback("copy-rate"), SimpleNamespace(max_steps=4)
    for name in ("fsdp", "deepspeed"):
        with pytest.raises(HcvizError, match=f"cannot act under {name}"):
            callback.on_train_begin(SimpleNamespace(**{name: True}), state, None, model=clone())
    model = clone()
    model.lm_head.weight.full_tensor = None
    with pytest.raises(HcvizError, match=r"lm_head.weight is sharded over processes"):
        callback.learn(model, 4)


def test_an_optimizer_without_moments_is_refused_at_the_reset():
    loop = Loop("moments-reset:at=2", kind=torch.optim.Adagrad)
    with pytest.raises(HcvizError, match=r"the optimizer keeps step, sum for .* Use AdamW"):
        loop.go(2)


def test_factors_may_be_told():
    model = clone()
    del model.config.hcviz
    callback = BreakerCallback("copy-rate", factors={"hidden": 2})
    callback.learn(model, 4)
    with pytest.raises(HcvizError, match="does not say how it was cloned"):
        BreakerCallback("copy-rate").learn(model, 4)

"""Curvature: against the exact Hessian of a tiny model, in float64, projected by permutations."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.architecture.blocks import pieces
from hcviz.metrics import METRICS
from hcviz.metrics._curvature import divisor, ends, hessian_of, projector, trace
from hcviz.statistics.escape import foretold
from hcviz.widening.twin import TrueFloat64

LETTERS = {"R": ("hidden",), "H": ("kv_heads", "group"), "N": ("ffn",)}
IDS = torch.randint(0, 7, (2, 6), generator=torch.Generator().manual_seed(0))


class Exact:
    """A clone x2 of a GPT-NeoX 2 wide, with its whole Hessian and what it is projected by."""

    def __init__(self, expansion):
        config = AutoConfig.for_model(
            "gpt_neox", vocab_size=7, hidden_size=2, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=3, max_position_embeddings=8, rotary_pct=1.0, bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        small = AutoModelForCausalLM.from_config(config).double().eval()
        for parameter in small.parameters():
            parameter.data.normal_(std=0.7)
        self.model = hcviz.clone(small, expansion=expansion, seed=1)
        self.factors = self.model.config.hcviz["factors"]
        self.layout = hcviz.layout(self.model, factors=self.factors)
        self.weights = dict(self.model.named_parameters())
        self.flat = torch.cat([w.detach().flatten() for w in self.weights.values()])
        self.model.set_attn_implementation("eager")
        with TrueFloat64(self.model):
            self.hessian = torch.autograd.functional.hessian(self.loss, self.flat).numpy()

    def loss(self, flat):
        sizes = [w.numel() for w in self.weights.values()]
        parts = zip(self.weights.items(), flat.split(sizes), strict=True)
        logits = functional_call(
            self.model, {n: x.view_as(w) for (n, w), x in parts}, kwargs={"input_ids": IDS}
        ).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())

    def swapped(self, letter):
        """Return which entry of a flat vector takes the place of each when two copies change."""
        found, first = [], 0
        for name, weight in self.weights.items():
            places = torch.arange(first, first + weight.numel()).view_as(weight).clone()
            for old, new in zip(
                pieces(places.clone(), self.layout[name], self.factors),
                pieces(places, self.layout[name], self.factors),
                strict=True,
            ):
                levels = [d for d, a in enumerate(old.copy_axes) if a in LETTERS[letter]]
                new.view.copy_(old.view.flip(levels))
            found.append(places.flatten())
            first += weight.numel()
        return torch.cat(found)

    def projection(self, sector):
        """Return the matrix that projects on a sector: (1 + S) / 2 or (1 - S) / 2, S the swap."""
        one = np.eye(len(self.flat))
        if sector == "symmetric":
            return np.linalg.multi_dot([(one + one[self.swapped(a)]) / 2 for a in LETTERS])
        return (one - one[self.swapped(sector)]) / 2


@pytest.fixture(scope="module", params=["symmetric", "noisy-symmetric"])
def exact(request):
    return Exact(request.param)


def measured(exact, name, **extras):
    """Return what a metric says of the clone, by tensor, sector and part."""
    with TrueFloat64(exact.model):
        rows = METRICS[name].function(exact.model, IDS, exact.layout, exact.factors, **extras)
        return {(row["tensor"], row["axis"], row["part"]): row["value"] for row in rows}


@pytest.mark.parametrize("letter", LETTERS)
def test_swapping_copies_is_a_symmetry_of_the_loss_whatever_the_weights(exact, letter):
    other = torch.randn(exact.flat.shape, generator=torch.Generator().manual_seed(2)).double()
    swap = exact.swapped(letter)
    assert not torch.equal(swap, torch.arange(len(swap)))
    with TrueFloat64(exact.model), torch.no_grad():
        assert exact.loss(other[swap]).item() == pytest.approx(exact.loss(other).item(), rel=1e-12)


@pytest.mark.parametrize("letter", LETTERS)
def test_the_hessian_of_a_locked_clone_commutes_with_the_swap_and_a_noisy_one_does_not(
    exact, letter
):
    swap, largest = exact.swapped(letter).numpy(), np.abs(exact.hessian).max()
    apart = np.abs(exact.hessian[np.ix_(swap, swap)] - exact.hessian).max() / largest
    locked = exact.model.config.hcviz["expansion"] == "symmetric"
    assert apart < 1e-12 if locked else apart > 1e-3


@pytest.mark.parametrize("sector", ["symmetric", *LETTERS])
def test_products_and_projections_are_those_of_the_matrices(exact, sector):
    vector = torch.randn(exact.flat.shape, generator=torch.Generator().manual_seed(3)).double()
    project = projector(exact.weights, exact.layout, exact.factors, sector)
    np.testing.assert_allclose(
        project(vector), exact.projection(sector) @ vector.numpy(), atol=1e-14
    )
    with TrueFloat64(exact.model):
        _, product = hessian_of(exact.model, IDS)
        np.testing.assert_allclose(product(vector), exact.hessian @ vector.numpy(), atol=1e-12)


@pytest.mark.parametrize("adam", [False, True], ids=["plain", "adam"])
def test_ends_and_trace_are_those_of_the_exact_hessian_within_their_errors(exact, adam):
    size = torch.rand(exact.flat.shape, generator=torch.Generator().manual_seed(4)).double() + 0.1
    parts = size.split([w.numel() for w in exact.weights.values()])
    moments = {n: x.view_as(w) for (n, w), x in zip(exact.weights.items(), parts, strict=True)}
    scale = np.diag(size.numpy() ** -0.5) if adam else np.eye(len(size))
    found = measured(exact, *(["curvature.adam"] if adam else ["curvature"]),
                     **({"moments": moments} if adam else {}))  # fmt: skip
    for sector in ("symmetric", *LETTERS):
        project = exact.projection(sector)
        values = np.linalg.eigvalsh(scale @ project @ exact.hessian @ project @ scale)
        for part, end in (("smallest", values[0]), ("largest", values[-1])):
            value, error = found["model", sector, part], found["model", sector, f"{part} error"]
            assert abs(value - end) <= error + 1e-12
            assert error < 0.02 * np.abs(values).max()
        value, error = found["model", sector, "trace"], found["model", sector, "trace error"]
        assert abs(value - values.sum()) < 4 * error


@pytest.mark.parametrize("letter", LETTERS)
def test_a_locked_clone_is_a_saddle_along_each_axis(exact, letter):
    """Weights that read copies differ without effect: a zero block, beside one that is not."""
    project = exact.projection(letter)
    inside = project @ exact.hessian @ project
    values = np.linalg.eigvalsh(inside)
    assert values[0] < -0.01 * np.abs(values).max()
    if exact.model.config.hcviz["expansion"] == "symmetric":
        reads = [
            torch.full(w.shape, any(d.role == "read" and set(LETTERS[letter]) & {
                a for s in d.segments for a in s.axes()} for d in exact.layout[n])).flatten()
            for n, w in exact.weights.items()
        ]  # fmt: skip
        reads = torch.cat(reads).numpy()
        assert np.abs(inside[np.ix_(reads, reads)]).max() < 1e-12 * np.abs(inside).max()


def test_a_small_push_grows_at_the_foretold_rate_in_one_step_of_gradient_descent(exact):
    if exact.model.config.hcviz["expansion"] != "symmetric":
        return  # elsewhere the sector's own gradient moves it too
    project, lr = exact.projection("N"), 0.01
    values, vectors = np.linalg.eigh(project @ exact.hessian @ project)
    push = torch.from_numpy(1e-5 * vectors[:, 0])
    weights = (exact.flat + push).requires_grad_()
    with TrueFloat64(exact.model):
        (gradient,) = torch.autograd.grad(exact.loss(weights), weights)
    after = torch.from_numpy(project) @ (weights - lr * gradient).detach()
    growth = torch.log(after.norm() / push.norm()).item()
    assert growth == pytest.approx(foretold(values[0], lr, momentum=0.0), rel=1e-3)


def test_one_tensor_is_its_own_block(exact):
    found = measured(exact, "curvature.tensors")
    name, first = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight", 0
    for other, weight in exact.weights.items():
        if other == name:
            break
        first += weight.numel()
    own = slice(first, first + exact.weights[name].numel())
    for sector in ("symmetric", "R", "N"):
        project = exact.projection(sector)[own, own]
        values = np.linalg.eigvalsh(project @ exact.hessian[own, own] @ project)
        assert found[name, sector, "smallest"] == pytest.approx(
            values[0], abs=0.02 * abs(values).max() + 1e-12
        )
        assert found[name, sector, "largest"] == pytest.approx(
            values[-1], abs=0.02 * abs(values).max() + 1e-12
        )
    assert (name, "H", "smallest") not in found


def test_the_example_of_the_page():
    """Two copies of a product: what differs between them has the ends -2 and 2."""
    hessian = torch.autograd.functional.hessian(lambda w: (w[:2] @ w[2:]) ** 2 / 2, torch.ones(4))
    apart = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]) / 2**0.5
    torch.testing.assert_close(apart @ hessian @ apart.T, torch.tensor([[0.0, 2], [2, 0]]))


def test_ends_and_trace_by_hand():
    matrix = torch.diag(torch.arange(-20.0, 31.0, dtype=torch.float64))
    start = torch.ones(51, dtype=torch.float64)
    found = dict(ends(lambda x: matrix @ x, start))
    assert (found["smallest"], found["largest"]) == pytest.approx((-20, 30), abs=0.01)
    probes = list(torch.randint(2, (4, 51)).double() * 2 - 1)
    assert dict(trace(lambda x: matrix @ x, probes)) == {"trace": 255, "trace error": 0}


def test_the_divisor_is_the_root_of_the_mean_square_of_a_steps_gradient(exact):
    """Of all steps that can be drawn, row by row, from three rows."""
    rows = torch.cat([IDS, IDS[:1].flip(1)])
    each = []
    for row in rows:
        exact.model.zero_grad()
        logits = exact.model(input_ids=row[None]).logits[0, :-1]
        cross_entropy(logits, row[1:]).backward()
        each.append(torch.cat([w.grad.flatten() for w in exact.weights.values()]))
    drawn = torch.stack([(each[i] + each[j]) / 2 for i in range(3) for j in range(3)])
    whole = torch.stack(each)
    expected = drawn.square().mean(0) + whole.var(0) / 2 - whole.var(0, correction=0) / 2
    found = torch.cat([one.flatten() for one in divisor(exact.model, rows, 2, eps=0).values()])
    torch.testing.assert_close(found.double(), expected.sqrt(), rtol=1e-4, atol=1e-7)


def test_a_matrix_of_zeros_has_the_eigenvalue_zero():
    assert dict(ends(torch.zeros_like, torch.ones(30))) == dict.fromkeys(
        ("smallest", "smallest error", "largest", "largest error"), 0
    )


def test_a_model_that_is_no_clone_has_one_sector(exact):
    with TrueFloat64(exact.model):
        axes = hcviz.layout(exact.model)
        rows = list(METRICS["curvature"].function(exact.model, IDS, axes, {}))
    assert {row["axis"] for row in rows} == {"symmetric"}

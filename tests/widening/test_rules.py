"""Expansions by part, by name, and given as a table; function-preserving whatever the shapes.

`expansion` and `blocks`, and clones made so.
"""

import re
from fractions import Fraction

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hcviz
from hcviz.architecture.axes import Dim, Segment
from hcviz.architecture.blocks import pieces
from hcviz.widening.expansion import EXPANSIONS, Expansion, widen

TABLE = [[0.7, 0.3], [0.25, 0.75]]


def changed(wide, plain) -> set[str]:
    """Return the leaves of the tensors that are not as in the plain clone."""
    found = wide.state_dict()
    names = {n for n, tensor in plain.state_dict().items() if not torch.equal(tensor, found[n])}
    return {re.sub(r"(.*\.)?(\w+)\.(weight|bias)$", r"\2", name) for name in names}


@pytest.mark.parametrize(
    ("expansion", "snr_db", "parts"),
    [
        ({"ffn": "noisy-symmetric"}, 20, {"gate_proj", "up_proj", "down_proj"}),
        ({"heads": "random"}, None, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"hidden": "random"}, None, {"lm_head"}),
        ({r"layers\.1.*down": "noisy-symmetric"}, None, {"down_proj"}),
        ({"down": TABLE, "ffn": "random"}, None, {"gate_proj", "up_proj", "down_proj"}),
        ("noisy-symmetric", {"up_proj": 0}, None),
    ],
)
def test_parts_and_names_choose_what_is_expanded(expansion, snr_db, parts):
    source = models.fresh("llama", torch.float64, tie_word_embeddings=False)
    plain = hcviz.clone(source)
    wide = hcviz.clone(source, expansion=expansion, snr_db=snr_db)
    assert models.error(models.logits(source), models.logits(wide)) < 1e-12
    if parts is not None:
        assert changed(wide, plain) == parts
    again = Expansion.of(*(wide.config.hcviz[key] for key in ("expansion", "snr_db", "seed")))
    assert again.to_dict() == Expansion.of(expansion, snr_db).to_dict()  # the recipe says it all


def test_noise_has_its_own_ratio_in_every_tensor():
    source = models.source("llama", torch.float64)
    wide = hcviz.clone(source, expansion="noisy-symmetric", snr_db={"up_proj": 0, "q_proj": 40})
    plain = hcviz.clone(source).state_dict()
    for name, decibels in (("mlp.up_proj", 0), ("self_attn.q_proj", 40), ("mlp.down_proj", 10)):
        name = f"model.layers.0.{name}.weight"
        noise = wide.state_dict()[name] - plain[name]
        power = plain[name].square().mean() / noise.square().mean()
        # the ratio is set in each row of blocks, and both rows have the same signal here
        assert 10 * power.log10() == pytest.approx(decibels, abs=1e-6)


def test_a_table_is_taken_row_by_row():
    source = models.source("llama")
    wide = hcviz.clone(source, expansion={"up_proj": TABLE}).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    small = source.state_dict()[name]
    rows = [torch.cat([share * small for share in row], 1) for row in TABLE]
    assert torch.allclose(wide[name], torch.cat(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("expansion", "snr_db", "message"),
    [
        ({"fnn": "random"}, None, r"'fnn' finds no tensor.*ffn, heads, hidden"),
        ({"(": "random"}, None, r"'\(' is no part"),
        ({"ffn": "cyclic"}, None, "expansion='cyclic' is unknown"),
        ({"ffn": "random"}, {"ffn": 10}, "snr_db=10 goes with a noisy form"),
        ({"ffn": "noisy-symmetric"}, {"heads": 10}, r"\['heads'\] has no form"),
        ([[0.7, 0.2]], None, "every row adds up to 1"),
        ([0.5, 0.5], None, "a row per written copy"),
        ([["a"]], None, "is no table of numbers"),
        ([[0.5, 0.3, 0.2]], None, r"model\..*: The given shares have 3 columns, and 2 copies"),
    ],
)
def test_slips_are_named(expansion, snr_db, message):
    with pytest.raises(hcviz.CloneError, match=message):
        hcviz.clone(models.source("llama"), expansion=expansion, snr_db=snr_db)


@given(
    written=st.integers(1, 5),
    read=st.integers(1, 6),
    more=st.tuples(st.integers(0, 7), st.integers(0, 9)),
    level=st.sampled_from(["ffn", "hidden"]),
    form=st.sampled_from(EXPANSIONS),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_copies_add_up_to_the_source_for_any_width(written, read, more, level, form, seed):
    """Feed copies of an input to the wide matrix: every copy of the output is the source's."""
    axes = (
        Dim("write", (Segment((("kv_heads", written), (None, 2))),)),
        Dim("read", (Segment(((level, read),)),)),
    )
    factors = {
        "kv_heads": Fraction(written + more[0], written),
        level: Fraction(read + more[1], read),
    }
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(2 * written, read, generator=generator, dtype=torch.float64)
    wide = widen("w", source, axes, factors, Expansion.of(form, None, seed))
    signal = torch.randn(read, generator=generator, dtype=torch.float64)
    copied = torch.zeros(read + more[1], dtype=torch.float64)  # padding of the stream stays zero
    whole = (read + more[1]) // read * read if level == "hidden" else read + more[1]
    copied[:whole] = signal[torch.arange(whole) % read]
    expected = (source @ signal).view(written, 2)
    expected = expected[torch.arange(written + more[0]) % written].flatten()
    assert torch.allclose(wide @ copied, expected, rtol=0, atol=1e-12 * (read + more[1]))
    seen = sum(piece.view.numel() for piece in pieces(wide, axes, factors))
    assert seen == wide.shape[0] * whole

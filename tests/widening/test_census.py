"""The census of families: what it finds, and its page; tests/test_matrix.py goes through all."""

import pytest

from hcviz.errors import HcvizError
from hcviz.widening.census import census, flag_census, to_markdown

EXACT = ["gpt2", "llama4", "nemotron"]


@pytest.fixture(scope="module")
def table():
    others = ["bloom", "diffllama", "ctrl", "recurrent_gemma", "bart", "gemma3"]
    return census([*EXACT, *others]).set_index("type")


@pytest.mark.parametrize("kind", EXACT)
def test_these_grow_in_every_axis(table, kind):
    assert table.loc[kind, "verdict"] == "exact", table.loc[kind, "why"]
    assert table.loc[kind, "grows"] == "hidden=2"


def test_others_name_what_keeps_them_and_what_still_works(table):
    assert table.loc["diffllama", "verdict"] == "partly"
    assert table.loc["diffllama", "grows"] == "hidden=1, ffn=2, heads=1; hidden=2, heads=1"
    assert "pairs head i" in table.loc["diffllama", "why"]
    assert table.loc["ctrl", "grows"] == "hidden=1, ffn=2, heads=1"
    assert table.loc["bloom", "grows"].startswith("hidden=2, head_dim=2")
    assert "ALiBi slopes depend on the number of heads" in table.loc["bloom", "why"]
    for kind, why in {
        "recurrent_gemma": "the gates of the recurrence are a matrix for each head",
        "bart": "encoder-decoder: its cross attention",
        "gemma3": "multi-modal configuration, and hcviz widens its text part",
    }.items():
        assert table.loc[kind, "verdict"] == "refused"
        assert why in table.loc[kind, "why"]


def test_a_cell_cannot_break_the_page(table):
    broken = table.reset_index().head(1).assign(why="a | b\nc")
    assert "| a / b c |" in to_markdown(broken, flag_census(broken.head(0)))


def test_unknown_types_are_refused():
    with pytest.raises(HcvizError, match="lama"):
        census(["lama"])

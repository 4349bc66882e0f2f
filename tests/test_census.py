"""The census of families: what it finds, and its page; tests/test_matrix.py goes through all."""

import pytest

from hcviz.census import census, to_markdown
from hcviz.errors import CloneError, HcvizError
from hcviz.usual import usual_config
from hcviz.widths import resized

EXACT = ["gpt2", "llama4", "nemotron"]


@pytest.fixture(scope="module")
def table():
    return census([*EXACT, "bloom", "diffllama", "ctrl", "recurrent_gemma", "bart", "gemma3"]).set_index("type")


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


def test_the_inner_width_of_a_state_space_mixer_stays_where_it_can():
    config, model_class = usual_config("mamba2")
    wide = resized(config, hidden=2)
    assert (wide.expand, wide.num_heads, wide.head_dim) == (1, config.num_heads, config.head_dim)
    assert wide.expand * wide.hidden_size == config.expand * config.hidden_size
    with pytest.raises(CloneError, match="expand=2 times hidden_size=4096.*Choose hidden=2"):
        resized(config, hidden=4)
    config, _ = usual_config("zamba2")
    assert resized(config, hidden=2).attention_hidden_size == 4 * config.hidden_size


def test_a_cell_cannot_break_the_page(table):
    broken = table.reset_index().head(1).assign(why="a | b\nc")
    assert "| a / b c |" in to_markdown(broken)


def test_unknown_types_are_refused():
    with pytest.raises(HcvizError, match="lama"):
        census(["lama"])

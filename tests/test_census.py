"""The census of families: what it finds for some types, and that its page knows all of them."""

import re
from pathlib import Path

import pytest

from hcviz.census import census, model_types, to_markdown
from hcviz.errors import HcvizError

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
EXACT = (
    "biogpt cohere deepseek_v3 gemma gemma2 gpt2 gpt_neox gpt_oss gptj granite llama minicpm3 "
    "mistral mixtral olmo olmo2 olmoe opt phi phi3 qwen2 qwen2_moe qwen3 stablelm starcoder2 "
    "vaultgemma xlm-roberta"
).split()


@pytest.fixture(scope="module")
def table():
    return census([*EXACT, "bloom", "mamba", "bart"]).set_index("type")


@pytest.mark.parametrize("kind", EXACT)
def test_these_grow_in_every_axis(table, kind):
    assert table.loc[kind, "verdict"] == "exact", table.loc[kind, "why"]


def test_others_say_why_and_what_still_works(table):
    assert table.loc["bloom", "verdict"] == "partly"
    assert "twin" in table.loc["bloom", "why"]
    assert table.loc["bloom", "axes"] == "ffn"
    assert table.loc["mamba", "verdict"] == "refused"
    assert "num_attention_heads=None" in table.loc["mamba", "why"]
    assert "encoder-decoder" in table.loc["bart", "why"]


def test_the_page_has_every_type_of_the_installed_transformers(table):
    rows = dict(re.findall(r"^\| ([\w-]+) \| (exact|partly|refused) \|", PAGE.read_text(), re.M))
    assert set(rows) == set(model_types()), "make it again: hcviz families --out docs/families.md"
    for kind in table.index:
        assert rows[kind] == table.loc[kind, "verdict"]


def test_a_cell_cannot_break_the_page(table):
    broken = table.reset_index().head(1).assign(why="a | b\nc")
    assert "| a / b c |" in to_markdown(broken)


def test_unknown_types_are_refused():
    with pytest.raises(HcvizError, match="lama"):
        census(["lama"])

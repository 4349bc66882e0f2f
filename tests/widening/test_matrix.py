"""Every causal-LM type of transformers: what docs/families.md says of it is what happens.

Across the rooms: the table is made by `census`, what it says is asked of `clone`.
"""

import re
import warnings
from pathlib import Path

import models
import pytest
import torch

import hcviz
from hcviz.architecture.factors import resolve_factors
from hcviz.architecture.tiny import faithful
from hcviz.io.process import quiet
from hcviz.widening.census import USUAL, model_types, usual_config
from hcviz.widening.expansion import Expansion
from hcviz.widening.request import Growth
from hcviz.widening.twin import loop_over_experts, random_twin, resolve_fusing

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
ROWS = {
    kind: (verdict, grows)
    for kind, verdict, grows in re.findall(
        r"^\| ([\w-]+) \| (exact|partly|refused) \| ([^|]*) \|", PAGE.read_text("utf-8"), re.M
    )
}
_ROOT = "multiplies embeddings by sqrt(hidden_size), rounded to float32 unless loaded in float64"
_KEPT = "keeps some weights in float32, in whatever dtype it is loaded"
FLOAT32 = {
    "ernie4_5_moe": _KEPT,
    "gemma": _ROOT,
    "gemma2": _ROOT,
    "gemma3_text": _ROOT,
    "olmo_hybrid": _KEPT,
    "vaultgemma": _ROOT,
    "zamba": _KEPT,
}
"""Types whose reload differs from what was saved by a rounding to float32, and why."""
AGAIN = "make the page again: hcviz families --out docs/families.md"


def test_the_page_has_every_type_of_the_installed_transformers():
    new, gone = sorted(set(model_types()) - set(ROWS)), sorted(set(ROWS) - set(model_types()))
    assert not new, f"transformers has new types, {new}: {AGAIN}"
    assert not gone, f"transformers has lost types, {gone}: {AGAIN}"


def test_the_counts_of_the_page_are_those_of_its_rows():
    for verdict in ("exact", "partly", "refused"):
        count = sum(found == verdict for found, _ in ROWS.values())
        assert f"{count} {verdict}" in PAGE.read_text("utf-8")
    assert sum(found == "exact" for found, _ in ROWS.values()) >= 110


def test_unusual_configurations_are_of_types_that_exist():
    assert set(USUAL) <= set(model_types())


@pytest.mark.parametrize("kind", [kind for kind in ROWS if ROWS[kind][0] == "refused"])
def test_refused_types_say_why(kind):
    with quiet(), pytest.raises(hcviz.CloneError, match=r".{40}"):
        refuse(kind)


def refuse(kind):
    config, model_class = usual_config(kind)
    factors = resolve_factors(config)
    resolve_fusing(Growth(config, model_class, factors, Expansion()), advise=False)


@pytest.mark.parametrize("kind", [kind for kind in ROWS if ROWS[kind][0] != "refused"])
def test_a_clone_of_the_type_is_exact_after_a_reload_as_the_stock_class(kind, tmp_path):
    config, model_class = usual_config(kind)
    call = {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", ROWS[kind][1].split(";")[0])}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heads without a gain are untied, with a warning
        source = random_twin(faithful(config, model_class), model_class)
        wide = hcviz.clone(source, **call)
        wide.save_pretrained(tmp_path)
        double, single = (
            model_class.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager").eval()
            for dtype in (torch.float64, torch.float32)
        )
    assert wide.num_parameters() > source.num_parameters()
    for model in (double, single):
        loop_over_experts(model)
    length = min(12, getattr(config, "max_position_embeddings", 12))
    ids = torch.randint(0, 90, (2, length), generator=torch.Generator().manual_seed(2))
    # a reload leaves the tables that a model makes in float32 (rotary ones) in float32, and
    # double() turns those of the source into the float64 numbers that they are: do both alike
    exact = models.logits(source, input_ids=ids)
    allowed = 4 * torch.finfo(torch.float32).eps if kind in FLOAT32 else 1e-12
    assert models.error(exact, models.logits(double.double(), input_ids=ids)) < allowed
    narrow = models.logits(source.float(), input_ids=ids)
    # where float32 itself is further off than that (Granite's unscaled attention), the clone's sums
    # round in another order than the source's, each as far from the truth
    rounding = models.error(exact, narrow)
    assert models.error(narrow, models.logits(single, input_ids=ids)) < max(2e-5, 2 * rounding)

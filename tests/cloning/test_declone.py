"""declone(): what a clone loses when it is projected back, and what it keeps."""

import models
import pytest
import torch

import hcviz
from hcviz.errors import HcvizError
from hcviz.widening.twin import TrueFloat64


def logits_apart(a, b):
    with torch.no_grad(), TrueFloat64():
        return models.error(models.logits(a), models.logits(b))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt_neox", {"hidden": 3}),
        ("llama", {"hidden": 2, "heads": 4, "kv_heads": 2}),
        ("gemma2", {"hidden": 2, "ffn": 3}),
        ("phi3", {"hidden": 2, "expansion": "noisy-symmetric"}),
        ("opt-350m", {"hidden": 2, "expansion": "random"}),
        ("olmo", {"hidden": 2, "expansion": "noisy-diagonal"}),
        ("gpt2", {"hidden": 2}),
    ],
)
def test_a_clone_gives_its_source_back(name, options):
    small = models.fresh(name).double()
    back, lost = hcviz.declone(hcviz.clone(small, **options))
    assert back.config.hidden_size == small.config.hidden_size
    assert not hasattr(back.config, "hcviz")
    for key, tensor in small.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], tensor, rtol=1e-12, atol=1e-13)
    assert logits_apart(small, back) < 1e-12
    noisy = options.get("expansion", "symmetric") != "symmetric"
    assert (lost["lost"].max() > 1e-3) == noisy


def test_a_trained_locked_clone_loses_nothing(tmp_path):
    wide = hcviz.clone(models.fresh("llama").double())
    optimizer = torch.optim.AdamW(wide.parameters(), lr=1e-2)
    ids = torch.randint(0, models.VOCAB, (2, 8))
    for _ in range(5):
        wide(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    back, lost = hcviz.declone(wide)
    assert lost["lost"].max() < 1e-25
    assert logits_apart(wide, back) < 1e-9
    back.save_pretrained(tmp_path)
    again = type(back).from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)


def test_what_has_left_is_measured():
    wide = hcviz.clone(models.fresh("llama"))
    up = wide.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        up.copy_(torch.randn_like(up))
    _, lost = hcviz.declone(wide)
    share = lost.set_index("tensor")["lost"]
    assert share["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.75, abs=0.05)
    assert share.drop("model.layers.0.mlp.up_proj.weight").max() == 0


def test_what_is_no_clone_is_refused():
    with pytest.raises(HcvizError, match="does not say how it was cloned"):
        hcviz.declone(models.fresh("llama"))

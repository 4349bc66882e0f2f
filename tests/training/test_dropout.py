"""Dropout: where a model drops, and how its rates are set."""

import pytest
import tiny
import torch
from torch import nn

from hcviz.errors import HcvizError
from hcviz.training.breakers import set_dropout

FAMILIES = tuple(tiny.SHAPES)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_reaches_the_live_model(family):
    model = tiny.model(family).train()
    ids = torch.arange(64).reshape(2, 32)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
        assert set_dropout(model, 0.5) >= model.config.num_hidden_layers
        assert not torch.equal(model(ids).logits, model(ids).logits)
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config.attention_dropout == 0.5


@pytest.mark.parametrize(
    ("family", "places"), [("gpt_neox", 7), ("opt", 5), ("olmo", 2), ("llama", 2)]
)
def test_dropout_counts_its_places(family, places):
    assert set_dropout(tiny.model(family), 0.1) == places


def test_a_model_that_cannot_drop_is_named():
    class Plain(nn.Module):
        config = tiny.model().config

    with pytest.raises(HcvizError, match="Plain has nothing that can drop"):
        set_dropout(Plain(), 0.1)
    assert set_dropout(Plain(), 0.0) == 0  # which is how it is

"""Set every dropout rate of a model: the configuration and the live modules that hold it."""

from typing import Any

from torch import nn

from hcviz.errors import HcvizError

_ATTRIBUTES = (
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "activation_dropout",
    "attn_dropout",
)
_NOT_RATES = (
    "layerdrop",
    "classifier_dropout",
    "summary_first_dropout",
)  # other heads, or whole layers


def dropout_fields(config: Any) -> dict[str, float]:
    """Return the configuration's dropout rates, by field name.

    Example:
        >>> from transformers import LlamaConfig
        >>> dropout_fields(LlamaConfig())
        {'attention_dropout': 0.0}
    """
    return {
        name: value
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("_pdrop"))
        and name not in _NOT_RATES
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def set_dropout(model: nn.Module, rate: float) -> int:
    """Set every dropout rate of a model, in place.

    What can drop differs by family: GPT-NeoX and OPT drop attention weights and the residual
    stream's inputs; Llama, OLMo and most later families have attention dropout only.

    Args:
        model: A `transformers` model.
        rate: Between 0 and 1 (1 excluded).

    Returns:
        How many places of the live model now hold the rate.

    Raises:
        HcvizError: If the rate is out of range, or above 0 where no place can drop.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> widths = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> config = LlamaConfig(vocab_size=8, num_hidden_layers=2, **widths)
        >>> set_dropout(LlamaForCausalLM(config), 0.1)
        2
    """
    if not 0 <= rate < 1:
        raise HcvizError(f"dropout must be at least 0 and below 1, not {rate}.")
    fields = dropout_fields(model.config)
    for name in fields:
        setattr(model.config, name, rate)
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
            count += 1
        for name in _ATTRIBUTES:
            value = module.__dict__.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                setattr(module, name, rate)
                count += 1
    if count == 0 and rate > 0:
        raise HcvizError(
            f"{type(model).__name__} has nothing that can drop (configuration fields: "
            f"{sorted(fields) or 'none'}). "
            "Leave dropout at None, or break the symmetry by noise."
        )
    return count

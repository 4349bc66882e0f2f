"""layout(): which axes every tensor of a model has, written and read."""

from fractions import Fraction

import pandas as pd
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hcviz.architecture.axes import Factors, source_units
from hcviz.architecture.factors import parse_factors, resolve_factors
from hcviz.architecture.families import family_of
from hcviz.architecture.infer import infer
from hcviz.architecture.segments import Fusing
from hcviz.architecture.widths import resized, widths
from hcviz.errors import CloneError
from hcviz.widening.expansion import Expansion
from hcviz.widening.request import Growth
from hcviz.widening.twin import resolve_fusing


class Layout(dict):
    """The axes of every tensor by name; prints as a table."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per tensor: its name and what each dimension is."""
        rows = [{"tensor": name, "axes": " x ".join(map(str, dims))} for name, dims in self.items()]
        return pd.DataFrame(rows, columns=["tensor", "axes"])

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False)


def layout(model: PreTrainedModel | PreTrainedConfig, *, factors: Factors | None = None) -> Layout:
    """Return the axes of every tensor of a causal language model, read off its architecture.

    Args:
        model: A model, or its configuration; no weight is looked at.
        factors: Give the layout of a clone in its source's units: the factors that it was made
            with, as in ``config.hcviz["factors"]``. None gives it in the model's own units.

    Returns:
        ``{tensor name: (Dim, ...)}``, a :class:`~hcviz.architecture.axes.Dim` per dimension.

    Raises:
        CloneError: If the architecture is not understood, naming the first tensor that is not.

    Example:
        >>> from transformers import LlamaConfig
        >>> axes = layout(LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1))
        >>> " x ".join(map(str, axes["model.layers.0.mlp.up_proj.weight"]))
        'write ffn x read hidden'
    """
    if isinstance(model, PreTrainedModel):
        config, model_class = model.config, type(model)
    else:
        classes = AutoModelForCausalLM._model_mapping
        if type(model) not in classes:
            raise CloneError(
                "layout() reads the architecture of a causal language model, and got "
                f"{type(model).__name__}. Pass such a model or its configuration."
            )
        config, model_class = model, classes[type(model)]
    known = (getattr(config, "hcviz", None) or {}).get("fusing")
    if known is not None:  # it was found out when the clone was made
        fusing = Fusing(**known)
    else:
        probe = Growth(config, model_class, resolve_factors(config), Expansion())
        fusing = resolve_fusing(probe, check=False)
    grown = parse_factors(factors or {})
    headless = getattr(config, "num_attention_heads", None) is None
    if grown and (headless or family_of(config).multiple):  # its units do not tell, or have no room
        smaller = resized(config, **{axis: 1 / Fraction(n) for axis, n in grown.items()})
        if widths(resized(smaller, **grown)) != widths(config):
            raise CloneError(
                f"{model_class.__name__} with {widths(config)} cannot have grown by {dict(grown)}. "
                "Pass the factors that the clone was made with."
            )
        return Layout(infer(smaller, model_class, fusing))
    axes = infer(config, model_class, fusing)
    return Layout({name: source_units(dims, grown) for name, dims in axes.items()})

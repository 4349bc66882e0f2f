"""Is the twin the source in all but size? The same modules, tensors and flags, other widths."""

import re

from torch import nn

from hcviz.architecture.infer import meta_model
from hcviz.architecture.tiny import shrunk
from hcviz.errors import CloneError

NUMBER = re.compile(r"\b\d+\b")


def make(model: nn.Module) -> set[tuple[str, str]]:
    """Return what a model is made of, sizes and numbers of layers aside.

    Args:
        model: A model on any device, the meta device too.

    Returns:
        ``(path of a module, what it is)``, numbers in the path folded: its class, the dimensions of
        its own tensors, and its flags (attributes that are True, False, None or a word).

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5))
        >>> sorted(make(layers))[1]
        ('*', "Linear {'weight': 2, 'bias': 1} {}")
    """
    found = set()
    for path, module in model.named_modules():
        tensors = {**module._parameters, **module._buffers}
        dims = {name: None if tensor is None else tensor.dim() for name, tensor in tensors.items()}
        flags = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and name != "training"
            if value is None or isinstance(value, bool | str)
        }
        found.add((NUMBER.sub("*", path), f"{type(module).__name__} {dims} {flags}"))
    return found


def faithful(config, model_class):
    """Return the smallest twin's configuration that is made as the source is.

    Layers are added until every kind of layer that the source has is in the twin.

    Args:
        config: The configuration of the model to be cloned; nothing of its size is allocated.
        model_class: Its class.

    Raises:
        CloneError: Naming what the twin has lost or made up, even with all layers.
    """
    whole, layers = make(meta_model(config, model_class)), 2
    while True:
        tiny = shrunk(config, layers)
        all_there = tiny.num_hidden_layers >= config.num_hidden_layers
        try:
            odd = sorted(whole ^ make(meta_model(tiny, model_class)))
        except CloneError:  # some families cannot be built with a few layers
            if all_there:
                raise
        else:
            if not odd:
                return tiny
            if all_there:
                break
        layers = 2 * tiny.num_hidden_layers
    path = odd[0][0]
    source, twin = (
        sorted(what for where, what in odd if where == path and ((where, what) in whole) == mine)
        for mine in (True, False)
    )
    raise CloneError(
        f"The tiny twin of this {config.model_type} configuration is not made as its source is: "
        f"{path or 'the model'} is {source or 'not there'} in the source and "
        f"{twin or 'not there'} in the twin. What holds for the twin need not hold for the source; "
        "no clone was made."
    )

"""Read the axes of every tensor off the architecture: widen one axis at a time, compare shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hcviz.blocks import Dim, Segment, TensorAxes
from hcviz.errors import CloneError
from hcviz.widths import Widths, resized, shrunk, widths

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
ROUTER = re.compile(r"router|gate\b|topk", re.IGNORECASE)
DOWN = re.compile(r"down|w2|output|proj_out", re.IGNORECASE)
FUSED_NAMES = {3: "qkv", 2: "gate/up"}


@dataclass(frozen=True)
class Fusing:
    """What shapes do not tell: a hypothesis that the tiny twin decides on."""

    attention: str = "stacked"
    """Fused attention matrices hold their parts one after the other, or ``interleaved`` by head."""
    ffn: str = "stacked"
    """The same of fused FFN matrices; interleaved neuron by neuron."""
    embed_power: float | None = None
    """The model multiplies its embeddings by ``hidden_size ** embed_power``; None: see family."""


def meta_model(config, model_class) -> nn.Module:
    """Build a model on the meta device: shapes and names, no memory.

    Raises:
        CloneError: If the configuration cannot be built.
    """
    try:
        with torch.device("meta"):
            return model_class(config)
    except Exception as error:  # modelling files raise all kinds
        raise CloneError(
            f"{model_class.__name__} cannot be built from its widened configuration: {error}. "
            "Choose other factors, or grow ffn only (hidden=1, ffn=2)."
        ) from error


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and persistent buffers of a model by name, tied ones once."""
    found = dict(model.named_parameters())
    saved = model.state_dict(keep_vars=True)
    found.update((k, v) for k, v in model.named_buffers() if k in saved)
    return found


def infer(config, model_class, fusing: Fusing) -> dict[str, TensorAxes]:
    """Return the axes of every tensor of a model.

    Args:
        config: Its configuration; nothing of its size is allocated.
        model_class: Its class.
        fusing: How fused matrices are laid out, which shapes do not tell.

    Raises:
        CloneError: Naming the first tensor that is not understood.
    """
    size = widths(config)
    base = meta_model(config, model_class)
    names = tensors(base)
    probes = _probes(config, model_class, names)
    coupled = "query" not in probes
    outputs = _attention_outputs(base)
    table = base.get_input_embeddings().weight
    owners = {}
    for path, module in base.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        owners.update({f"{path}.{leaf}".lstrip("."): (path, module) for leaf, _ in own})
    result = {}
    for name, tensor in names.items():
        path, module = owners[name]
        growth = [
            {probe: found[name][d] for probe, found in probes.items() if name in found}
            for d in range(tensor.dim())
        ]
        if tensor is table:  # a tied head may be found first; it is the embedding all the same
            module = base.get_input_embeddings()
        roles = _roles(name, tensor, module, growth)
        attends = f"{path.rpartition('.')[0]} {type(module).__name__}"
        inside = coupled and ATTENTION.search(attends) is not None
        result[name] = tuple(
            Dim(
                role,
                _segments(
                    name=f"{name} (dimension {d} of {tuple(tensor.shape)})",
                    length=tensor.shape[d],
                    growth=growth[d],
                    size=size,
                    fusing=fusing,
                    heads=inside and (role == "read") == (path in outputs),
                ),
            )
            for d, role in enumerate(roles)
        )
    return result


def heads_follow_hidden(config, model_class) -> bool:
    """Tell whether a family's head size is hidden / heads, so that both grow together only."""
    tiny = shrunk(config)
    names = tensors(meta_model(tiny, model_class))
    return "query" not in _probes(tiny, model_class, names)


def _probes(config, model_class, names) -> dict[str, dict[str, tuple[int, ...]]]:
    """Double one axis at a time and return by how much every dimension grew."""

    def growth(**factors) -> dict[str, tuple[int, ...]]:
        wide = tensors(meta_model(resized(config, **factors), model_class))
        grown = {}
        for name, tensor in names.items():
            if name not in wide or wide[name].dim() != tensor.dim():
                raise CloneError(f"{name} appears or changes its form when {factors} grow.")
            sizes = zip(wide[name].shape, tensor.shape, strict=True)
            step = tuple(large - small for large, small in sizes)
            if any(step):
                grown[name] = step
        return grown

    found = {"heads": growth(kv_heads=2), "query": growth(group=2)}
    steps = [step for grown in found.values() for steps in grown.values() for step in steps]
    if not any(steps) or min(steps) < 0:
        # the head size is hidden / heads somewhere: the two can be told apart by their place only
        found = {"hidden": growth(hidden=2, kv_heads=2)}
    else:
        found["hidden"] = growth(hidden=2)
    for field in widths(config).ffn:
        found[f"ffn:{field}"] = growth(ffn=2, only_ffn_field=field)
    empty = {name: (0,) * tensor.dim() for name, tensor in names.items()}
    return {probe: {**empty, **grown} if grown else {} for probe, grown in found.items()}


def _attention_outputs(model: nn.Module) -> set[str]:
    """Return the paths of the projections that write an attention's result to the stream."""
    last = {}
    for path, module in model.named_modules():
        parent = path.rpartition(".")[0]
        if isinstance(module, nn.Linear | Conv1D) and ATTENTION.search(parent):
            last[parent] = path
    return set(last.values())


def _roles(name: str, tensor: torch.Tensor, module: nn.Module, growth) -> tuple[str, ...]:
    """Tell which dimension of a tensor is written and which is read.

    Modules of torch say it by their kind. Parameters that a family keeps by themselves (stacked
    experts, routers, biases) say it by which axes they have, and by their name.
    """
    if tensor.dim() == 1:
        return ("write",)
    if tensor.dim() == 2 and isinstance(module, Conv1D | nn.Embedding):
        return ("read", "write")
    if tensor.dim() == 2 and isinstance(module, nn.Linear):
        return ("write", "read")
    grows = [{probe for probe, step in found.items() if step} for found in growth]
    growing = [d for d, probes in enumerate(grows) if probes]
    leaf = name.rpartition(".")[2]
    if len(growing) <= 1:
        reads = ROUTER.search(f"{name} {type(module).__name__}") and "bias" not in leaf
        return tuple("read" if reads and d in growing else "write" for d in range(tensor.dim()))
    hidden = [d for d in growing if grows[d] == {"hidden"}]
    if len(growing) == 2 and len(hidden) == 1:
        backward = DOWN.search(leaf) is not None
        return tuple(
            "write" if d not in growing or (d == hidden[0]) == backward else "read"
            for d in range(tensor.dim())
        )
    raise CloneError(
        f"{name} of shape {tuple(tensor.shape)} belongs to a {type(module).__name__}; hcviz cannot "
        "tell which of its dimensions is written and which is read. This model cannot be widened "
        "yet."
    )


def _segments(
    name: str, length: int, growth: Mapping[str, int], size: Widths, fusing: Fusing, heads: bool
) -> tuple[Segment, ...]:
    """Turn the growth of one dimension under each probe into its segments."""
    grown = {probe: step for probe, step in growth.items() if step}
    if not grown:
        return (Segment(((None, length),)),)
    if set(grown) == {"hidden"} and heads:
        grouped = size.group > 1 and length == size.heads * size.head_dim
        return (_head_segment(name, length, size, fusing, grouped=grouped),)
    if set(grown) == {"hidden"}:
        return (_pure(name, length, size.hidden, (("hidden", size.hidden),), fusing.ffn),)
    if len(grown) == 1 and next(iter(grown)).startswith("ffn:"):
        unit = size.ffn[next(iter(grown)).removeprefix("ffn:")]
        return (_pure(name, length, unit, (("ffn", unit),), fusing.ffn),)
    if set(grown) == {"heads"} and grown["heads"] == length:  # keys or values
        return (_head_segment(name, length, size, fusing, grouped=False),)
    if set(grown) == {"heads", "query"} and grown["heads"] == grown["query"] == length:
        return (_head_segment(name, length, size, fusing, grouped=True),)
    if set(grown) == {"heads", "query"} and grown["heads"] == length:  # fused query, key and value
        query, rest = grown["query"], length - grown["query"]
        key = Segment((("kv_heads", size.kv_heads), (None, rest // 2 // size.kv_heads)), "k")
        first = _head_segment(name, query, size, fusing, grouped=True).levels
        return (Segment(first, "q"), key, Segment(key.levels, "v"))
    raise CloneError(
        f"{name} grows by {grown} when one axis doubles; hcviz does not know this layout."
    )


def _pure(name: str, length: int, unit: int, levels, fusing: str) -> Segment:
    """Return a segment that holds its unit once or several times."""
    if length == unit:
        return Segment(levels)
    axis = levels[0][0]
    if length % unit or fusing == "interleaved":
        return Segment(((axis, length),))
    count = length // unit
    return Segment(((None, count), *levels), FUSED_NAMES.get(count, f"{count} parts"))


def _head_segment(
    name: str, length: int, size: Widths, fusing: Fusing, *, grouped: bool
) -> Segment:
    """Return the levels of a dimension made of heads; ``grouped`` means query heads in groups."""
    heads = size.heads if grouped else size.kv_heads
    levels = (
        (("kv_heads", size.kv_heads), ("group", size.group)) if grouped else (("kv_heads", heads),)
    )
    if grouped and size.group == 1:
        levels = (("kv_heads", heads), ("group", 1))
    if length % heads:
        raise CloneError(
            f"{name} grows with the heads, but is not a multiple of their number {heads}."
        )
    each = length // heads
    count, rest = divmod(each, size.head_dim)
    if rest or count <= 1 or fusing.attention == "interleaved":
        part = FUSED_NAMES.get(count, "") if count > 1 and not rest else ""
        return Segment((*levels, (None, each)), part)
    return Segment(
        ((None, count), *levels, (None, size.head_dim)), FUSED_NAMES.get(count, f"{count} parts")
    )

"""Read the axes of every tensor off the architecture: widen one axis at a time, compare shapes."""

import re
from collections import Counter

import torch
from torch import nn
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from hcviz.architecture.axes import Dim, Factors, Segment, TensorAxes
from hcviz.architecture.blocks import pieces
from hcviz.architecture.families import family_of
from hcviz.architecture.segments import Fusing, segments
from hcviz.architecture.widths import resized, widths
from hcviz.errors import CloneError

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
ROUTER = re.compile(r"router|gate\b|topk", re.IGNORECASE)
NUMBER = re.compile(r"\b\d+\b")
LAST = re.compile(r"(.*\b)\d+(\b.*)")
"""The last number in a name: what is before it, and after."""
DOWN = re.compile(r"down|w2|output|proj_out", re.IGNORECASE)


def meta_model(config, model_class) -> nn.Module:
    """Build a model on the meta device: shapes and names, no memory.

    Raises:
        CloneError: If the configuration cannot be built.
    """
    try:
        with torch.device("meta"), no_init_weights():
            model = model_class(config)
            model.tie_weights(recompute_mapping=False)
            return model
    except Exception as error:  # modelling files raise all kinds
        raise CloneError(
            f"{model_class.__name__} cannot be built with hidden_size="
            f"{getattr(config, 'hidden_size', None)}, num_attention_heads="
            f"{getattr(config, 'num_attention_heads', None)}: {error}. "
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
    probes = probe_axes(config, model_class, names)
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
        if path.rpartition(".")[2] in family_of(config).keys:
            roles = ("write", "read")
        words = f"{path.rpartition('.')[0]} {type(module).__name__}"
        attends, dims = ATTENTION.search(words) is not None, []
        for d, (role, length) in enumerate(zip(roles, tensor.shape, strict=True)):
            what = f"{name} (dimension {d} of {tuple(tensor.shape)})"
            heads = coupled and attends and (role == "read") == (path in outputs)
            kind = {"heads": heads, "attends": attends}
            dims.append(Dim(role, segments(what, length, growth[d], size, fusing, **kind)))
        result[name] = tuple(dims)
    return result


def probe_axes(config, model_class, names) -> dict[str, dict[str, tuple[int, ...]]]:
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
        found[f"ffn:{field}"] = growth(ffn=2, expert_ffn=2, only_ffn_field=field)
    empty = {name: (0,) * tensor.dim() for name, tensor in names.items()}
    return {probe: {**empty, **grown} if grown else {} for probe, grown in found.items()}


def origins(small: nn.Module, wide: nn.Module, factors: Factors) -> dict[str, str]:
    """Return of which tensor of its source a clone makes each that it keeps for a head by itself.

    A family may keep a norm for each head (StableLM's ``norms.3.weight``), so that more heads need
    more of them; copies of a head take the norm of its source. Every other tensor has one name.

    Args:
        small: The source; like the clone it may be on the meta device.
        wide: The clone.
        factors: By what it has grown.

    Returns:
        ``{name in the clone: name in the source}``; most families have none.

    Raises:
        CloneError: Naming the first tensor that the source has no counterpart of.
    """
    size, found = widths(small.config), {}
    levels = (("kv_heads", size.kv_heads), ("group", size.group))
    rows = [Dim("write", (Segment(levels[:n]),)) for n in (2, 1)]
    counts, wanted = (
        Counter(match.groups() for match in map(LAST.fullmatch, tensors(model)) if match)
        for model in (small, wide)
    )
    for before, after in counts:
        few, many = counts[before, after], wanted[before, after]
        if few == many:
            continue
        fits = [(r,) for r in rows if (r.wide_size({}), r.wide_size(factors)) == (few, many)]
        if not fits:
            raise CloneError(
                f"{type(wide).__name__} keeps {few} tensors {before}*{after}, and its clone would "
                f"have {many}. hcviz copies those that there is one of for each head; no clone was "
                "made. Grow another axis."
            )
        heads = torch.empty(many, dtype=torch.long)
        sources = pieces(torch.arange(few), fits[0], factors, wide=False)
        for source, copies in zip(sources, pieces(heads, fits[0], factors), strict=True):
            copies.view.copy_(source.view)
        for number, head in enumerate(heads.tolist()):
            found[f"{before}{number}{after}"] = f"{before}{head}{after}"
    return found


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
        "tell which of its dimensions is written and which read. This model cannot be widened yet."
    )

"""The twin's configuration: the source's family and flags at the smallest widths and depth."""

import copy

from torch import nn

from hcviz.architecture.families import family_of
from hcviz.architecture.infer import NUMBER, meta_model, probe_axes, tensors
from hcviz.architecture.widths import KV_FIELDS, read, settable, widths, write
from hcviz.errors import CloneError

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k")
"""The names under which configurations keep how many experts there are, and how many are chosen."""
MIXER_HEADS = ("num_heads", "mamba_n_heads", "n_mamba_heads")
MIXER_SIZES = ("head_dim", "mamba_d_head", "mamba_headdim")
MIXER_GROUPS = ("n_groups", "mamba_n_groups", "mamba_ngroups")
"""The names under which they keep the number, size and groups of a state-space mixer's heads."""
INNER = {
    "linear_num_heads": 2,
    "linear_num_key_heads": 2,
    "index_n_heads": 2,
    "q_lora_rank": 40,
    "kv_lora_rank": 24,
    "vocab_size_per_layer_input": 96,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
}
"""Inner widths that never grow and need not be large to be tried, with their size in the twin."""


def shrunk(config, layers: int = 2):
    """Return a tiny configuration of the same family and flags.

    Widths, vocabulary, depth and the number of experts shrink; head size, the kinds of layers and
    every other field stay.

    Args:
        config: The source's configuration.
        layers: Keep at least so many layers.
    """
    size, tiny = widths(config), copy.deepcopy(config)
    kv_heads = min(size.kv_heads, 2 * family_of(config).head_blocks)
    heads = kv_heads * min(size.group, 3)
    attends = getattr(config, "num_attention_heads", None) is not None
    streams = family_of(config).streams
    coupled = attends and size.heads * size.head_dim == size.hidden * streams
    if getattr(config, "head_dim", 0) is None and settable(config, "head_dim"):
        tiny.head_dim = size.head_dim  # None stands for hidden / heads, which the twin keeps
    if attends:
        tiny.num_attention_heads = heads
        for field in filter(lambda name: read(config, name), KV_FIELDS):
            write(tiny, field, kv_heads if size.kv_heads == read(config, field) else heads)
    tiny.hidden_size = heads * size.head_dim // streams if coupled else min(size.hidden, 96)
    if streams > 1:
        tiny.attention_hidden_size = streams * tiny.hidden_size
    for number, field in enumerate(size.ffn):
        write(tiny, field, min(size.ffn[field], 40 + 16 * number))
    if family_of(config).multiple:
        _keep_mixer(tiny)
    elif getattr(config, "expand", None):
        tiny.intermediate_size = config.expand * tiny.hidden_size
    for field in family_of(config).follows_hidden:
        same = read(config, field) == size.hidden
        write(tiny, field, tiny.hidden_size - (0 if same else 1))
    tiny.vocab_size = min(config.vocab_size, 96)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(getattr(tiny, name, None), int):
            setattr(tiny, name, min(getattr(tiny, name), tiny.vocab_size - 1))
    for field, small in INNER.items():
        if isinstance(getattr(config, field, None), int):
            setattr(tiny, field, min(getattr(config, field), small))
    if getattr(config, "linear_num_value_heads", None):
        ratio = config.linear_num_value_heads // config.linear_num_key_heads
        tiny.linear_num_value_heads = ratio * tiny.linear_num_key_heads
    _keep_experts(tiny)
    _keep_layers(tiny, config, layers)
    for name in config.sub_configs:  # towers of other senses, which do not grow
        for field in ("num_hidden_layers", "num_blocks"):
            if isinstance(getattr(getattr(tiny, name, None), field, None), int):
                setattr(getattr(tiny, name), field, 1)
    return tiny


def heads_follow_hidden(config, model_class) -> bool:
    """Tell whether a family's head size is hidden / heads, so that both grow together only."""
    tiny = shrunk(config)
    names = tensors(meta_model(tiny, model_class))
    return "query" not in probe_axes(tiny, model_class, names)


def _keep_mixer(tiny) -> None:
    """Give a state-space mixer four heads of the size that fills its inner width."""
    inner = getattr(tiny, family_of(tiny).multiple) * tiny.hidden_size
    for names, value in ((MIXER_HEADS, 4), (MIXER_SIZES, inner // 4)):
        for name in names:
            if isinstance(vars(tiny).get(name), int):  # not the attention's, by another name
                setattr(tiny, name, value)
    for name in MIXER_GROUPS:
        if isinstance(getattr(tiny, name, None), int):
            setattr(tiny, name, min(getattr(tiny, name), 2))


def _keep_experts(tiny) -> None:
    """Keep so few experts that the router still has to choose, also among groups of them."""
    chosen = next((k for k in (getattr(tiny, f, None) for f in CHOSEN) if k), None)
    if chosen is None:
        return
    groups = getattr(tiny, "n_group", None) or getattr(tiny, "num_expert_group", None) or 1
    open_groups = getattr(tiny, "topk_group", None) or groups
    enough = groups * max(2, -(-2 * chosen // open_groups))
    for field in EXPERTS:
        if (getattr(tiny, field, None) or 0) > enough:
            setattr(tiny, field, enough)


def _keep_layers(tiny, config, layers: int) -> None:
    """Keep the first layers of a configuration: as many as asked, and one of every kind."""
    depth = config.num_hidden_layers
    lists = {
        k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == depth
    }
    numbers = {k for k, v in lists.items() if list(v) == list(range(depth))}  # not kinds
    kinds = list(zip(*(v for k, v in lists.items() if k not in numbers), strict=True))
    kinds = list(map(repr, kinds or [()] * depth))
    keep = next(n for n in range(1, depth + 1) if set(kinds[:n]) == set(kinds))
    keep = min(max(keep, layers), depth)
    tiny.num_hidden_layers = keep
    for name, values in lists.items():
        setattr(tiny, name, values[:keep])


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

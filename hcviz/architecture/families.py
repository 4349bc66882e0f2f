"""What a model family does that its shapes do not tell: exceptions only, as data.

Everything else about an architecture is read off it (see ``hcviz.architecture.infer``). A family
that is not listed has no exceptions; the tiny twin of every clone (``hcviz.widening.twin``) finds
out if that is wrong.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """The exceptions of one ``config.model_type``."""

    embed_power: float = 0.0
    """The model multiplies its token embeddings by ``hidden_size ** embed_power``."""
    norm_offset: float = 0.0
    """A norm's gain is ``norm_offset + weight``; the final norm may take the head's 1/n."""
    follows_hidden: tuple[str, ...] = ()
    """Configuration fields that grow with ``hidden_size`` when they equal it."""
    grows_with_hidden: tuple[str, ...] = ()
    """Configuration fields that always grow with ``hidden_size``, being compared with it, or a
    multiple of it."""
    multiple: str = ""
    """Configuration field that times ``hidden_size`` is the inner width of a state-space mixer with
    heads. That width stays, so the field shrinks as ``hidden_size`` grows."""
    streams: int = 1
    """Attention reads so many vectors of ``hidden_size`` side by side, as wide as all its heads."""
    head_blocks: int = 1
    """A fused attention matrix is cut into so many blocks of heads, each with parts of its own."""
    keys: tuple[str, ...] = ()
    """Embeddings whose rows are multiplied with what is read, as a matrix is, not looked up as what
    is written."""
    stuck: str = ""
    """What keeps widths from growing, for the message when the twin finds that they cannot."""
    stuck_if: tuple[str, bool] | None = None
    """Configuration field, and its value, where only that does; None: always."""


_ALIBI = Family(stuck="ALiBi slopes depend on the number of heads, which cannot grow")
_SINES = Family(stuck="sinusoidal positions depend on hidden_size, which cannot grow")
_STAYS = "the inner width of the state-space mixer stays, as a whole multiple of hidden_size"
_SSM = Family(multiple="mamba_expand", stuck=_STAYS)
_ZAMBA = Family(
    multiple="mamba_expand", streams=2, grows_with_hidden=("attention_hidden_size",), stuck=_STAYS
)
_GEMMA = Family(embed_power=0.5, norm_offset=1.0)
_OFFSET = Family(norm_offset=1.0)
FAMILIES = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "vaultgemma": _GEMMA,
    "minicpm3": Family(grows_with_hidden=("dim_model_base",)),
    "minimax_m3_vl_text": _OFFSET,
    "nemotron": _OFFSET,
    "opt": Family(follows_hidden=("word_embed_proj_dim",)),
    "bloom": _ALIBI,
    "mpt": _ALIBI,
    "bamba": _SSM,
    "granitemoehybrid": _SSM,
    "mamba2": Family(multiple="expand", stuck=_STAYS),
    "zamba": _ZAMBA,
    "zamba2": replace(_ZAMBA, stuck_if=("use_shared_attention_adapter", False)),
    "diffllama": Family(stuck="differential attention pairs head i with head i + heads / 2"),
    "recurrent_gemma": Family(stuck="the gates of the recurrence are a matrix for each head"),
    "ctrl": _SINES,
    "xglm": _SINES,
    "codegen": Family(head_blocks=4),
    "doge": Family(keys=("down_embed",)),
    "dbrx": Family(follows_hidden=("ffn_config.hidden_size",)),
    "electra": Family(follows_hidden=("embedding_size",)),
    "falcon": Family(
        stuck="ALiBi slopes depend on the number of heads, and are divided by the root of their "
        "size, so that neither can grow",
        stuck_if=("alibi", True),
    ),
    "trocr": replace(_SINES, stuck_if=("use_learned_position_embeddings", False)),
    "rwkv": Family(follows_hidden=("attention_hidden_size",)),
    "qwen3_5_moe_text": _OFFSET,
    "qwen3_5_text": _OFFSET,
    "qwen3_next": _OFFSET,
    "roformer": Family(follows_hidden=("embedding_size",)),
}


def family_of(config) -> Family:
    """Return the exceptions of a configuration's family (none for most)."""
    return FAMILIES.get(config.model_type, Family())


def stuck_by(config) -> str:
    """Return what keeps the widths of a configuration from growing, if its family knows it."""
    family = family_of(config)
    field, value = family.stuck_if or ("model_type", config.model_type)
    return family.stuck if getattr(config, field) == value else ""

"""Tiny seeded models of every family, with nothing at its default: a wrong layout cannot hide.

Weights, biases and the gains of norms are all random; vocabulary, width, neurons, heads and head
size are all different; what a family can switch on (biases, windows, clipping) is on somewhere.
"""

import copy
import functools

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hcviz.widening.twin import TrueFloat64

VOCAB, LENGTH = 61, 10
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_WINDOW = {
    "num_hidden_layers": 2,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
_OPT = {**{k: v for k, v in _SHAPE.items() if k != "intermediate_size"}, "ffn_dim": 40}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 48}

FAMILIES = {
    "gpt_neox": ("gpt_neox", {**_SHAPE, "rotary_pct": 0.5, "num_hidden_layers": 2}),
    "gpt_neox-serial": ("gpt_neox", {**_SHAPE, "use_parallel_residual": False}),
    "opt": ("opt", {**_OPT, "word_embed_proj_dim": 32}),
    "opt-350m": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "olmo": ("olmo", {**_SHAPE, "clip_qkv": 1.5}),
    "olmo-tied": ("olmo", {**_SHAPE, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", _GROUPED),
    "llama": ("llama", {**_GROUPED, "num_hidden_layers": 2, "tie_word_embeddings": True}),
    "llama-one-kv": ("llama", {**_SHAPE, "num_key_value_heads": 1, "attention_bias": True}),
    "llama-head-size": ("llama", {**_GROUPED, "head_dim": 12, "mlp_bias": True}),
    "gemma": ("gemma", {**_GROUPED, "head_dim": 12}),
    "gemma2": ("gemma2", {**_GROUPED, "head_dim": 12, **_WINDOW}),
    "gemma3": ("gemma3_text", {**_GROUPED, "head_dim": 12, **_WINDOW}),
    "gpt2": ("gpt2", {**_GPT2, "n_inner": 40, "bos_token_id": 1, "eos_token_id": 2}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_SHAPE, "num_key_value_heads": 1, "head_dim": 12}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 4}),
    "phi3": ("phi3", _GROUPED),
    "phi": ("phi", _GROUPED),
}
"""Name to model type and configuration."""

COUPLED = frozenset(["gpt_neox", "gpt_neox-serial", "opt", "opt-350m", "gpt2"])
"""Their head size is hidden / heads by construction: heads and hidden grow together only."""

ONE_KV = frozenset(["llama-one-kv", "qwen3"])
TIED = frozenset(["opt", "opt-350m", "llama", "gemma", "gemma2", "gemma3", "gpt2"])
"""Tied, and with a gain that takes the head's 1/n (or with a head that grows by nothing)."""


def config(name: str, **changes):
    """Return the configuration of a family, with changes."""
    family, fields = FAMILIES[name]
    return AutoConfig.for_model(family, **{**fields, **changes})


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw every parameter: matrices keep the size of what they read, the rest spread by 0.3."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(values * 1.2 / min(parameter.shape) ** 0.5)
            else:
                parameter.add_(0.3 * values) if name.endswith("weight") else parameter.copy_(
                    0.3 * values
                )
    return model


def fresh(name: str, dtype: torch.dtype = torch.float32, **changes):
    """Build a model of a family that the test may change."""
    model = AutoModelForCausalLM.from_config(config(name, **changes))
    return randomise(model).to(dtype).eval()


@functools.cache
def source(name: str, dtype: torch.dtype = torch.float32):
    """Return a model that tests share: do not change it."""
    return fresh(name, dtype)


def ids(rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    """Return seeded token ids, the same ones at every call."""
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def logits(model: torch.nn.Module, **inputs) -> torch.Tensor:
    """Return logits in float64; of a float64 model truly computed in it."""
    inputs.setdefault("input_ids", ids())
    if model.dtype == torch.float64:
        with TrueFloat64(model):
            return model(**inputs).logits
    return model(**inputs).logits.double()


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference over the largest value; not a number counts as infinite."""
    value = ((a - b).abs().max() / a.abs().max()).item()
    return value if value == value else float("inf")


def scale(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the least-squares factor from ``a`` to ``b``: it shows a missing 1/n, argmax not."""
    return ((a * b).sum() / (a * a).sum()).item()


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter and buffer."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: copy.deepcopy(tensor.detach()) for name, tensor in tensors.items()}

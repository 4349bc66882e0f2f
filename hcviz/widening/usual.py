"""Configurations for trying a model type whose own defaults cannot be built or run, as data."""

from hcviz.errors import CloneError

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_OPEN_HEADS = "its defaults leave the head size open"
_OPEN_EXPERTS = "its defaults leave the number of experts open"
_NO_ATTENTION = "its defaults have no layer with attention"
_LARGE = "its heads are large, and small ones are tried sooner"

USUAL: dict[str, tuple[dict, str]] = {
    "codegen": ({"n_embd": 1024, "n_head": 16}, _LARGE),
    "cohere_compass_text": (
        {
            "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 10,
            "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
        },
        "its defaults leave the kinds of layers open",
    ),
    "dbrx": (
        {
            "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 500000.0},
            "ffn_config": {"hidden_size": 2048, "moe_num_experts": 4, "moe_top_k": 2},
        },
        "its defaults leave the rotary base open and are of two hidden sizes",
    ),
    "bamba": ({"attn_layer_indices": [9, 18, 27]}, _NO_ATTENTION),
    "deepseek_v2": (
        {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
        "its defaults leave the number of chosen experts open",
    ),
    "dots1": (
        {
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
        },
        _OPEN_EXPERTS,
    ),
    "granitemoehybrid": (
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
        _NO_ATTENTION,
    ),
    "hunyuan_v1_dense": ({"head_dim": 128}, _OPEN_HEADS),
    "hunyuan_v1_moe": ({"head_dim": 128}, _OPEN_HEADS),
    "jamba": ({"hidden_size": 1024}, _LARGE),
    "lfm2_moe": (
        {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
        "its defaults leave the kinds of layers open",
    ),
    "ministral": ({"head_dim": 128}, _OPEN_HEADS),
    "nemotron": ({"head_dim": 128, "num_key_value_heads": 8}, _OPEN_HEADS),
    "nemotron_h": ({"mamba_num_heads": 16}, _LARGE),
    "qwen3_5_text": ({"head_dim": 64}, _LARGE),
    "xmod": ({"default_language": "en_XX"}, "its defaults name no language"),
}
"""By model type: what to set, and why. Checkpoints that were published have such fields set."""


def usual_config(kind: str):
    """Return a configuration of a model type that can be built, and the class of its decoder.

    A multi-modal type whose causal language model is its text part gives the text part's
    configuration, as ``AutoModelForCausalLM.from_config`` does.

    Args:
        kind: A ``model_type`` of transformers.

    Raises:
        CloneError: If the configuration refuses its own defaults.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.for_model(kind, **USUAL.get(kind, ({}, ""))[0])
    except Exception as error:  # configurations check themselves, each in its way
        reason = " ".join(str(error).split())
        raise CloneError(f"{kind}: its own configuration stops: {reason}") from error
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    if model_class.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()
    return config, model_class

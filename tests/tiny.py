"""Tiny seeded models and a short real text, for tests that train."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hcviz.io.files import data_folder
from hcviz.text.documents import read_documents

SHAPES = {
    "gpt_neox": {"intermediate_size": 32},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0},
    "olmo": {"intermediate_size": 32},
    "llama": {"intermediate_size": 32, "num_key_value_heads": 2},
}


def tokenizer():
    """Load the shipped tokenizer."""
    return AutoTokenizer.from_pretrained(data_folder() / "sources" / "tokenizer")


def model(family: str = "llama", *, hidden_size: int = 16, seed: int = 0, **changes):
    """Build a tiny random model of a family."""
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": 2048,
            "hidden_size": hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 1,
            **SHAPES[family],
            **changes,
        },
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def write_text(folder: Path, documents: int = 40) -> Path:
    """Write the first chapters of the ASV as a .jsonl file."""
    path = folder / "text.jsonl"
    found = read_documents("asv")[0][:documents]
    path.write_text("".join(json.dumps({"text": d.text}) + "\n" for d in found), encoding="utf-8")
    return path

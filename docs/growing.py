"""Draw the picture of growing.md: python docs/growing.py (two minutes)."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from transformers import AutoModelForCausalLM, set_seed

import hcviz
from hcviz.views.arms import history

AT = {400: "hidden=2,expansion=noisy-symmetric", 600: "layers=6"}
SHARED = {"corpus": "asv+kjv", "context": 64, "lr": 6e-3, "steps": 800, "source": "random weights"}
SHARED |= {"snapshots": 2, "eval_every": 20, "eval_blocks": 64}

if __name__ == "__main__":
    trained, tokenizer = hcviz.load("nano:gpt-neox-quarter")
    set_seed(0)
    fresh = AutoModelForCausalLM.from_config(trained.config)
    with tempfile.TemporaryDirectory() as folder:
        small = hcviz.train(fresh, out=f"{folder}/small", tokenizer=tokenizer, **SHARED)
        grown = hcviz.grow(fresh, out=f"{folder}/grown", at=AT, tokenizer=tokenizer, **SHARED)
        rows = history([small, grown]).query("step >= 60")
        _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
        hcviz.plots.loss(rows, x="flops", ax=ax)
        ax.figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)

"""Time and memory of an in-memory clone, as a ratio to the limit: allocate and copy the same bytes.

    python benchmarks/clone.py --shape pythia-160m --runs 5

Both sides run in turn in one process; the ratios are taken pair by pair. The peak is of a child
process. Nothing is downloaded: the source has the shape of the model, not its weights.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.blocks import pieces, wide_shape
from hcviz.layouts import layout
from hcviz.widths import resolve_factors

NEOX = {"model_type": "gpt_neox", "vocab_size": 50304, "rotary_pct": 0.25}
SHAPES = {
    "pythia-70m": NEOX
    | {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}
    | {"intermediate_size": 2048},
    "pythia-160m": NEOX
    | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"intermediate_size": 3072},
    "pythia-410m": NEOX
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    | {"intermediate_size": 4096},
    "llama-3.2-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
}


def source(shape: str, dtype: torch.dtype):
    """Build a model of a shape whose weights are cheap to make and not all alike."""
    fields = dict(SHAPES[shape])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        row = torch.linspace(-0.02, 0.02, parameter.shape[-1], dtype=torch.float32)
        parameter.data.copy_(row.expand_as(parameter))
    model.tie_weights()
    return model


def limit(tensors, axes, factors) -> None:
    """Allocate every wide tensor and fill it with one tiled copy: no method can do less."""
    kept = []
    for name, tensor in tensors:
        wide = torch.empty(wide_shape(axes[name], factors), dtype=tensor.dtype)
        for small, large in zip(
            pieces(tensor, axes[name], {}), pieces(wide, axes[name], factors), strict=True
        ):
            large.view.copy_(small.view)
        kept.append(wide)


def seconds(function, *arguments, **options) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def peak(shape: str, dtype: str) -> dict[str, float]:
    """Measure a child process that only builds the source and clones it once."""
    code = (
        "import resource, sys, torch; sys.path.insert(0, sys.argv[1]); import clone, hcviz\n"
        "rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "hcviz.clone(clone.source('pythia-70m', torch.float32).eval()); base = 0\n"
        "import psutil; base = psutil.Process().memory_info().rss\n"
        "m = clone.source(sys.argv[2], getattr(torch, sys.argv[3])); w = hcviz.clone(m)\n"
        "size = lambda x: sum(p.numel() * p.element_size() for p in x.parameters())\n"
        "print(rss() - base, size(m) + size(w))"
    )
    here = __file__.rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code, here, shape, dtype], capture_output=True, text=True, check=True
    )
    measured, models = map(float, done.stdout.split()[-2:])
    return {"peak_gb": measured / 1e9, "models_gb": models / 1e9, "peak_ratio": measured / models}


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="pythia-160m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = source(options.shape, getattr(torch, options.dtype))
    axes, factors = layout(model), resolve_factors(model.config)
    tensors = [(n, p.data) for n, p in model.named_parameters()]
    inferring = seconds(layout, model)
    hcviz.clone(model)  # checks the twin, once per configuration; the pairs do not repeat it
    pairs = []
    for _ in range(options.runs):
        pairs.append((seconds(hcviz.clone, model), seconds(limit, tensors, axes, factors)))
    ratios = sorted(ours / best for ours, best in pairs)
    result = {
        "shape": options.shape,
        "dtype": options.dtype,
        "clone_s_median": statistics.median(ours for ours, _ in pairs),
        "limit_s_median": statistics.median(best for _, best in pairs),
        "ratio_min_median_max": [ratios[0], statistics.median(ratios), ratios[-1]],
        "layout_s": inferring,
        **peak(options.shape, options.dtype),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

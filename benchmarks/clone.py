"""Time and memory of an in-memory clone, as a ratio to the limit: allocate and copy the same bytes.

    python benchmarks/clone.py --shape pythia-410m --runs 5

Both sides run in turn in one process on one thread; the ratios are taken pair by pair, of the wall
clock and of this process's CPU time (which other people's work disturbs less). The peak is of a
child process. Nothing is downloaded: the source has the shape of the model, not its weights.
``--runs 0`` takes the peak only, of models too large for two copies.
"""

import argparse
import functools
import subprocess
import sys
import time
from pathlib import Path

import torch
from tables import facts, show
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.architecture.axes import wide_shape
from hcviz.architecture.factors import resolve_factors
from hcviz.cloning.clone import decide
from hcviz.widening.layout import layout
from hcviz.widening.request import CloneRequest

FORMS = ("symmetric", "noisy-symmetric", "noisy-diagonal", "random")
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
    "llama-70b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
    },
}


def config_of(shape: str):
    """Return a shape's configuration."""
    fields = dict(SHAPES[shape])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def source(shape: str, dtype: torch.dtype):
    """Build a model of a shape whose weights are cheap to make and not all alike."""
    config = config_of(shape)
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
        tiles = [n // size for n, size in zip(wide.shape, tensor.shape, strict=True)]
        pairs = [n for pair in zip(tiles, tensor.shape, strict=True) for n in pair]
        small = tensor.view([n for size in tensor.shape for n in (1, size)])
        wide.view(pairs).copy_(small)
        kept.append(wide)


def seconds(function, *arguments, **options) -> tuple[float, float]:
    """Return how long a call took, by the wall clock and in CPU time."""
    start = time.perf_counter(), time.process_time()
    function(*arguments, **options)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def peak(shape: str, dtype: str) -> dict[str, float]:
    """Measure a child process that only builds the source and clones it once."""
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import clone, hcviz, tables\n"
        "hcviz.clone(clone.source('pythia-70m', torch.float32).eval()); base = 0\n"
        "import psutil; base = psutil.Process().memory_info().rss\n"
        "m = clone.source(sys.argv[2], getattr(torch, sys.argv[3])); w = hcviz.clone(m)\n"
        "size = lambda x: sum(p.numel() * p.element_size() for p in x.parameters())\n"
        "print(tables.peak() - base, size(m) + size(w))"
    )
    here = __file__.rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code, here, shape, dtype], capture_output=True, text=True, check=True
    )
    measured, models = map(float, done.stdout.split()[-2:])
    return {"peak_gb": measured / 1e9, "models_gb": models / 1e9, "peak_ratio": measured / models}


def main() -> None:
    """Run the benchmark, print its table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="pythia-160m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"shape": options.shape, "dtype": options.dtype}
    if options.runs:
        result |= race(options.shape, options.dtype, options.runs)
    result |= peak(options.shape, options.dtype)
    show(
        {**result, "layout_70b_s": seconds(layout, config_of("llama-70b"))[0], **facts()},
        options.out,
    )


def race(shape: str, dtype: str, runs: int) -> dict[str, list[float]]:
    """Clone and copy in turn; forms with noise or random shares against plain clone and normals."""
    model = source(shape, getattr(torch, dtype))
    axes, factors = layout(model), resolve_factors(model.config)
    tensors = [(n, p.data) for n, p in model.named_parameters()]
    clones = {form: functools.partial(hcviz.clone, model, expansion=form) for form in FORMS}
    for clone in clones.values():  # checks the twin, once a configuration and form
        clone()
    jobs = {
        **clones,
        "limit": functools.partial(limit, tensors, axes, factors),
        "normals": functools.partial(normals, tensors, axes, factors),
        "decide": functools.partial(decide, model, CloneRequest()),
    }
    rows = [{name: seconds(job) for name, job in jobs.items()} for _ in range(runs)]
    table = {f"{name}_s": [row[name][0] for row in rows] for name in jobs}
    for k, clock in enumerate(("wall", "cpu")):
        table[f"ratio_{clock}"] = [row["symmetric"][k] / row["limit"][k] for row in rows]
        for form in FORMS[1:]:
            table[f"{form}_ratio_{clock}"] = [
                row[form][k] / (row["symmetric"][k] + row["normals"][k]) for row in rows
            ]
    return table


def normals(tensors, axes, factors) -> None:
    """Draw as many float32 normals as the wide model has weights, tensor by tensor."""
    for name, _ in tensors:
        torch.randn(wide_shape(axes[name], factors))


if __name__ == "__main__":
    main()

"""Time of measuring, as ratios to the least that any method must do; medians and spread of pairs.

    python benchmarks/metrics.py --shape pythia-410m --runs 5

- copies: ledger and cosine of every tensor of a checkpoint, against reading its bytes once and
  summing them; its copies are far apart, nearly equal, or equal bit by bit.
- spectrum: the metric against ``torch.linalg.svdvals`` of the same matrix alone.
- curvature: a Hessian-vector product of the shipped 64-wide clone against a gradient.
- text: every metric of a model, against one forward pass over the text that it takes.
- experts: what routers of a mixture of 8 experts choose, against one forward pass, and how alike
  the experts are, against reading and summing them.
- weights: every metric of single weights that needs no second snapshot, against reading and summing
  them, over the second layer of a small clone.
- live: the share of a training run that measuring the ledger of all tensors adds.
- snapshots: the share of it that saving the default snapshots adds.
- slider: milliseconds of one step of ``hcviz.explore``.

Both sides of a ratio run in turn in one process, on one thread, by its CPU time, which other work
on the machine disturbs less than the wall's. Nothing is downloaded.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from clone import SHAPES, source
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.architecture.blocks import pieces
from hcviz.metrics import METRICS
from hcviz.metrics._curvature import hessian_of
from hcviz.runs.run import Run
from hcviz.widening.layout import layout

FACTORS = {"hidden": 2, "ffn": 2, "kv_heads": 2}
APART = {"noisy": 0.3, "trained": 0.01, "locked": 0.0}
"""How far the copies of a checkpoint are apart, in standard deviations of its weights."""
STACK = "model.layers.1.mlp.experts.down_proj"


def seconds(function) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def spread(pairs) -> dict[str, object]:
    """Return medians of both sides, and least, median and largest ratio."""
    ratios = sorted(ours / least for ours, least in pairs)
    return {
        "ours_s": statistics.median(ours for ours, _ in pairs),
        "least_s": statistics.median(least for _, least in pairs),
        "ratio_min_median_max": [ratios[0], statistics.median(ratios), ratios[-1]],
    }


def checkpoint(shape: str, apart: float, folder: Path) -> Run:
    """Save a checkpoint of a shape whose copies are so far apart."""
    model = source(shape, torch.float32)
    axes, generator = layout(model.config, factors=FACTORS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.02, generator=generator)
            for blocks in pieces(parameter, axes[name], FACTORS):
                first = blocks.view[(slice(1),) * len(blocks.copy_axes)].clone()
                blocks.view.copy_(first.expand_as(blocks.view))
            if apart:
                noise = torch.empty_like(parameter).normal_(generator=generator)
                parameter.add_(noise, alpha=0.02 * apart)
    model.save_pretrained(folder)
    return Run.of(folder, label=shape, factors=FACTORS)


def copies(run: Run, runs: int) -> dict[str, object]:
    """Compare ledger and cosine over a checkpoint with reading it once."""
    names, axes = run.names(), run.layout

    def measured() -> None:
        for name in names:
            weight = run.tensor(name)
            for metric in ("ledger", "cosine"):
                list(METRICS[metric].function(weight, axes[name], FACTORS))

    def read() -> None:
        for name in names:
            run.tensor(name).sum().item()

    measured(), read()
    return spread([(seconds(measured), seconds(read)) for _ in range(runs)])


def spectrum(runs: int) -> dict[str, object]:
    """Compare the spectrum of a matrix with its singular values alone."""
    pairs = []
    for seed in range(runs):
        weight = torch.randn(1024, 512, generator=torch.Generator().manual_seed(seed))
        ours = seconds(lambda w=weight: list(METRICS["spectrum"].function(w, (), {})))
        pairs.append((ours, seconds(lambda w=weight: torch.linalg.svdvals(w.double()))))
    return spread(pairs)


def curvature(runs: int) -> dict[str, object]:
    """Compare a Hessian-vector product with a gradient, on eight blocks of 128 tokens."""
    wide = hcviz.clone(hcviz.load("nano:gpt-neox-quarter")[0])
    ids = torch.randint(0, 2048, (8, 128), generator=torch.Generator().manual_seed(0))
    weights, product = hessian_of(wide, ids)
    vector = torch.ones(sum(weight.numel() for weight in weights.values()))

    def gradient() -> None:
        wide(input_ids=ids, labels=ids).loss.backward()

    product(vector), gradient()
    return spread([(seconds(lambda: product(vector)), seconds(gradient)) for _ in range(runs)])


def small_clone():
    """Return a noisy clone of the shipped source, its axes and its source."""
    source = hcviz.load("nano:gpt-neox")[0]
    wide = hcviz.clone(source, expansion="noisy-symmetric")
    return wide, layout(wide.config, factors=wide.config.hcviz["factors"]), source


def text(runs: int) -> dict[str, object]:
    """Compare every metric of a model with one forward pass over its text."""
    wide, axes, source = small_clone()
    factors, found, given = wide.config.hcviz["factors"], {}, {"source": source, "start": wide}
    for name, entry in METRICS.items():
        if entry.of == "model" and name != "experts" and "curvature" not in name:
            batch = torch.randint(2048, (entry.blocks, 128))
            extras = {extra: given[extra] for extra in entry.needs}

            def ours(entry=entry, batch=batch, extras=extras) -> None:
                list(entry.function(wide, batch, axes, factors, **extras))

            @torch.no_grad()
            def forward(batch=batch) -> None:
                wide(batch)

            forward()
            found[name] = spread([(seconds(ours), seconds(forward)) for _ in range(runs)])
    return found


def experts(runs: int) -> dict[str, object]:
    """Compare the metrics of experts with a forward pass, and with reading a stack of them."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 2048}
    config = AutoConfig.for_model("mixtral", **sizes, **heads, num_local_experts=8)
    model = AutoModelForCausalLM.from_config(config).eval()
    batch, axes = torch.randint(2048, (METRICS["experts"].blocks, 128)), layout(config, factors={})
    stack = model.get_parameter(STACK).detach()

    @torch.no_grad()
    def forward() -> None:
        model(batch)

    def ours(name: str, *what) -> Callable[[], object]:
        return lambda: list(METRICS[name].function(*what, {}))

    sides = {
        "experts": (ours("experts", model, batch, axes), forward),
        "experts.cosine": (ours("experts.cosine", stack, axes[STACK]), lambda: stack.sum().item()),
    }
    forward()
    return {
        name: spread([(seconds(one), seconds(least)) for _ in range(runs)])
        for name, (one, least) in sides.items()
    }


def weights(runs: int) -> dict[str, object]:
    """Compare every metric of single weights with reading and summing a layer of them."""
    wide, axes, _ = small_clone()
    factors, found = wide.config.hcviz["factors"], {}
    layer = {n: p.detach() for n, p in wide.named_parameters() if ".1." in n and p.dim() == 2}
    for name, entry in METRICS.items():
        if entry.of == "weight" and not entry.needs:

            def ours(entry=entry) -> None:
                for tensor, weight in layer.items():
                    list(entry.function(weight.clone(), axes[tensor], factors))

            def read() -> None:
                for weight in layer.values():
                    weight.clone().sum().item()

            read()
            found[name] = spread([(seconds(ours), seconds(read)) for _ in range(runs)])
    return found


def training(runs: int, folder: Path) -> dict[str, object]:
    """Train the shipped source's clone with the defaults, measured and not, and time its parts."""
    from hcviz.training.trainer import Snapshots, SnapshotTrainer

    wide = hcviz.clone(hcviz.load("nano:gpt-neox")[0], expansion="noisy-symmetric")
    spent = {"saving": 0.0}

    def timed(cls, name: str) -> None:
        function = getattr(cls, name)

        def watched(self, *args, **kwargs):
            start = time.perf_counter()
            result = function(self, *args, **kwargs)
            spent["saving"] += time.perf_counter() - start
            return result

        setattr(cls, name, watched)

    timed(SnapshotTrainer, "_save_checkpoint")
    timed(Snapshots, "on_save")
    live, saving = [], []
    for number in range(runs):
        spent["saving"] = 0.0
        start = time.perf_counter()
        run = hcviz.train(
            wide, out=folder / f"run-{number}", source="nano:gpt-neox", metrics=["ledger"],
            progress=False,
        )  # fmt: skip
        total = time.perf_counter() - start
        live.append(run.info["metrics_overhead"])
        saving.append(spent["saving"] / (total - spent["saving"]))
    return {
        "live_share_min_median_max": [min(live), statistics.median(live), max(live)],
        "snapshot_share_min_median_max": [min(saving), statistics.median(saving), max(saving)],
        "slider_ms_median_max": slider(run),
    }


def slider(run: Run) -> list[float]:
    """Move the slider over all steps, once to fill what is kept and once for the clock."""
    view = hcviz.explore(run)
    for step in run.steps:
        view.slider.value = step
    times = []
    for step in run.steps:
        start = time.process_time()
        view.slider.value = step
        times.append((time.process_time() - start) * 1e3)
    return [statistics.median(times), max(times)]


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="pythia-160m")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-training", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "shape": options.shape,
            "copies": {
                kind: copies(checkpoint(options.shape, apart, Path(folder, kind)), options.runs)
                for kind, apart in APART.items()
            },
            "spectrum": spectrum(options.runs),
            "curvature": curvature(options.runs),
            "text": text(options.runs),
            "experts": experts(options.runs),
            "weights": weights(options.runs),
        }
        if not options.no_training:
            result |= training(options.runs, Path(folder))
    result |= {
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "load": psutil.getloadavg(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

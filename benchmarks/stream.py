"""Time and memory of a streamed clone, beside writing the same bytes with safetensors.

    python benchmarks/stream.py --gb 6 --place DISK

A source of that size is made of random numbers in the shape of a Llama, in shards, in a temporary
folder that is deleted at the end; the disk has to hold five times its size. Each run is a process
of its own; times include bringing everything to the disk. The table is printed; ``--out`` writes
it with the numbers of every run as JSON.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tables import facts, peak, show
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {"vocab_size": 32000, "hidden_size": 3072, "intermediate_size": 8192, "head_dim": 128}
HEADS = {"num_attention_heads": 24, "num_key_value_heads": 8}
FIGURES = {"stream": ("stream_s", "peak_gb", "stream_cpu_s"), "write": ("write_s", "write_cpu_s")}
"""What each job prints."""


def empty_model(layers: int):
    """Build the source's shapes, without memory."""
    config = AutoConfig.for_model("llama", **SHAPE, **HEADS, num_hidden_layers=layers)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def make_source(folder: Path, gigabytes: float) -> int:
    """Write random shards of 1 GB, one tensor's memory at a time, and return how many bytes."""
    from hcviz.io.shards import write_shard

    sizes = [sum(p.nbytes for p in empty_model(n).parameters()) for n in (1, 2)]
    layers = max(1, round((gigabytes * 1e9 - sizes[0]) / (sizes[1] - sizes[0])) + 1)
    model = empty_model(layers)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    split = split_torch_state_dict_into_shards(state, max_shard_size="1GB")
    generator = torch.Generator().manual_seed(0)

    def parts(names):
        for name in names:
            values = torch.empty(state[name].shape, dtype=torch.bfloat16)
            yield {name: values.uniform_(-0.05, 0.05, generator=generator)}
            del values

    for file, names in split.filename_to_tensors.items():
        write_shard(folder / file, {name: state[name] for name in names}, parts(names))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def warm() -> None:
    """Touch the free memory once, in a process of its own.

    On a virtual machine the first touch of a page, also of one that holds a file, costs far more
    than what is measured here, and which of two jobs pays for it is chance.
    """
    free = int(0.85 * psutil.virtual_memory().available)
    touch = f"import numpy; numpy.empty({free}, dtype=numpy.uint8)[::4096] = 1"
    subprocess.run([sys.executable, "-c", touch], check=True)


def stream(source: str, out: str, shard: str) -> None:
    """Run hcviz clone in this process; print seconds, peak above the libraries' memory, CPU."""
    import hcviz.cloning.clone_checkpoint  # noqa: F401 - the libraries' own memory is not the clone's
    from hcviz import cli

    base = psutil.Process().memory_info().rss
    warm()
    sys.argv = ["hcviz", "clone", source, out, "--check", "twin", "--max-shard-size", shard]
    start = time.perf_counter()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        cli.main()
    os.sync()
    spent = time.perf_counter() - start
    print(spent, (peak() - base) / 1e9, time.process_time())


def write(made: str, out: str, shard: str) -> None:
    """Write tensors of the clone's shapes, shard by shard, and print the seconds of writing."""
    config = AutoConfig.from_pretrained(made)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).state_dict()
    split = split_torch_state_dict_into_shards(state, max_shard_size=shard)
    Path(out).mkdir()
    made = {}  # the same memory in every shard, so that nothing but writing takes time

    def fill(names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        seen = Counter()
        for name in names:
            shape = state[name].shape
            key = (shape, seen[shape])
            seen[shape] += 1
            if key not in made:
                made[key] = torch.full(shape, 0.5, dtype=torch.bfloat16)
            yield name, made[key]

    shards = {Path(out) / f: dict(fill(names)) for f, names in split.filename_to_tensors.items()}
    warm()
    start = time.perf_counter(), time.process_time()
    for path, tensors in shards.items():
        save_file(tensors, path, {"format": "pt"})
    os.sync()
    print(time.perf_counter() - start[0], time.process_time() - start[1])


def child(job: str, *words: str) -> list[float]:
    """Run one job in a process of its own and return the numbers that it prints."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", job, *words], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Run the benchmark, or one job of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shard", default="1GB")
    parser.add_argument("--alone", action="store_true", help="do not write the same bytes, too")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        {"stream": stream, "write": write}[options.job[0]](*options.job[1:])
        return
    free = shutil.disk_usage(options.place).free
    if free < 5.2e9 * options.gb:
        raise SystemExit(f"{options.place} has {free / 1e9:.0f} GB free, and this needs more.")
    rows = []
    with tempfile.TemporaryDirectory(dir=options.place) as folder:
        source, out, copy = (Path(folder) / name for name in ("source", "clone", "copy"))
        source.mkdir()
        size = make_source(source, options.gb)
        os.sync()  # or the first run would also bring the source to the disk
        child("stream", str(source), str(out), options.shard)  # not counted; tells the sizes
        written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        config = Path(folder) / "config.json"
        shutil.copy(out / "config.json", config)
        shutil.rmtree(out)
        for number in range(options.runs):
            jobs = ["stream", "write"][: 1 if options.alone else 2]
            row = {}
            for job in jobs if number % 2 else jobs[::-1]:  # who goes first finds other memory
                os.sync()
                words = (str(source), str(out)) if job == "stream" else (str(config), str(copy))
                found = child(job, *words, options.shard)
                row |= dict(zip(FIGURES[job], found, strict=True))
                shutil.rmtree(out if job == "stream" else copy)
            if not options.alone:
                row["ratio"] = row["stream_s"] / row["write_s"]
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    table = {key: [row[key] for row in rows] for key in rows[0]}
    result = {"source_gb": size / 1e9, "clone_gb": written / 1e9, "shard": options.shard}
    show({**result, **table, **facts()}, options.out)


if __name__ == "__main__":
    main()

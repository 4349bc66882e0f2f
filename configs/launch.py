"""Train the clone of a pair, or the random start beside it, as the pair's file says.

    hcviz dry-run pythia-410m
    hcviz clone EleutherAI/pythia-410m wide --hidden 2
    python configs/dolma.py dolma --tokenizer EleutherAI/pythia-410m --gigabytes 2
    torchrun --nproc_per_node 8 configs/launch.py pythia-410m wide runs/cloned --corpus dolma
    accelerate launch --config_file configs/several-nodes.yaml --num_machines 8 --num_processes 64 \
        --machine_rank R --main_process_ip FIRST_NODE \
        configs/launch.py pythia-410m wide runs/cloned --corpus dolma

The steps are the same on any number of GPUs: each of fewer gathers more batches for one.
"""

import os
from pathlib import Path

import tyro

import hcviz
from hcviz.claims.budget import read_pair


def launch(
    pair: tyro.conf.Positional[str],
    model: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    /,
    corpus: str,
    steps: int | None = None,
    device: str | None = None,
) -> None:
    """Train.

    Args:
        pair: A file of configs/pairs, by its name or path.
        model: The clone: a folder or a hub id.
        out: The run's folder.
        corpus: The text, as for hcviz train.
        steps: Shorten the whole schedule to so many optimizer steps, for a trial.
        device: cpu forces the CPU; None takes the best there is.
    """
    request = read_pair(pair).launch.request(int(os.environ.get("WORLD_SIZE", "1")))
    request |= {"steps": steps} if steps else {}
    hcviz.train(model, out=out, corpus=corpus, device=device, **request)


if __name__ == "__main__":
    tyro.cli(launch)

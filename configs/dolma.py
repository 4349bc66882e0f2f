"""Write a part of Dolma as a text to train on: the first documents of many shards.

    python configs/dolma.py dolma.jsonl --gigabytes 2

The hub's allenai/dolma holds lists of shards, and a loading script that `datasets` no longer runs;
so the shards of one list are read from where it says, in an order that the seed shuffles.
"""

import gzip
import json
import random
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import tyro
from huggingface_hub import hf_hub_download


def write(out: Path, urls: Sequence[str], size: float) -> None:
    """Write documents up to a size in bytes of text, as many bytes of each shard.

    Args:
        out: A .jsonl file; it appears when it is whole.
        urls: Of shards, gzipped JSON lines with a "text" each.
        size: Bytes of text in all.
    """
    part = out.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for url in urls:
            left = size / len(urls)
            with urllib.request.urlopen(url) as answer, gzip.open(answer, "rt", "utf-8") as lines:
                for line in lines:
                    text = json.loads(line)["text"]
                    file.write(json.dumps({"text": text}) + "\n")
                    left -= len(text.encode())
                    if left <= 0:
                        break
    part.replace(out)


def main(
    out: tyro.conf.Positional[Path],
    /,
    gigabytes: float = 1.0,
    shards: int = 64,
    version: str = "v1_6-sample",
    seed: int = 0,
) -> None:
    """Write it.

    Args:
        out: A .jsonl file.
        gigabytes: Of text.
        shards: How many to read from.
        version: A list of shards: a file in the folder urls of the hub's allenai/dolma.
        seed: Of the order of shards.
    """
    listed = hf_hub_download("allenai/dolma", f"urls/{version}.txt", repo_type="dataset")
    urls = sorted(Path(listed).read_text(encoding="utf-8").split())
    random.Random(seed).shuffle(urls)
    write(out, urls[:shards], gigabytes * 1e9)


if __name__ == "__main__":
    tyro.cli(main)

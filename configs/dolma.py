"""Write a part of Dolma as tokens to train on: the first documents of many shards.

    python configs/dolma.py dolma --tokenizer EleutherAI/pythia-410m --gigabytes 2

The hub's allenai/dolma holds lists of shards, and a loading script that `datasets` no longer runs;
so the shards of one list are read from where it says, in an order that the seed shuffles. A list of
your own, an address a line of gzipped JSON lines with a "text" each, is read the same way.
"""

import gzip
import json
import random
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro
from huggingface_hub import hf_hub_download
from transformers import AutoTokenizer

from hcviz.text.tokens import write_tokens


def texts(urls: Sequence[str], size: float) -> Iterator[str]:
    """Yield documents up to a size in bytes of text, as many bytes of each shard.

    A shard that breaks off gives what came until then, and is named.

    Args:
        urls: Of shards, gzipped JSON lines with a "text" each.
        size: Bytes of text in all.
    """
    for url in urls:
        left = size / len(urls)
        try:
            with urllib.request.urlopen(url) as answer, gzip.open(answer, "rt", "utf-8") as lines:
                while left > 0 and (line := lines.readline()):
                    text = json.loads(line)["text"]
                    yield text
                    left -= len(text.encode())
        except (OSError, EOFError) as error:
            print(f"{url} broke off: {error}", file=sys.stderr)


def main(
    out: tyro.conf.Positional[Path],
    /,
    tokenizer: str,
    gigabytes: float = 1.0,
    shards: int = 64,
    version: str = "v1_6-sample",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write it.

    Args:
        out: A folder; it appears when it is whole.
        tokenizer: That of the model to train: a folder or a hub id.
        gigabytes: Of text; a token of 4 bytes holds some 4 bytes of it.
        shards: How many to read from.
        version: A list of shards: a file in the folder urls of the hub's allenai/dolma, or of ours.
        seed: Of the order of shards, and of the documents that are held out.
        overwrite: Replace an existing folder.
    """
    listed = Path(version)
    if not listed.is_file():
        where = f"urls/{version}.txt"
        listed = Path(hf_hub_download("allenai/dolma", where, repo_type="dataset"))
    urls = sorted(listed.read_text(encoding="utf-8").split())
    random.Random(seed).shuffle(urls)
    write_tokens(
        texts(urls[:shards], gigabytes * 1e9),
        out,
        tokenizer=AutoTokenizer.from_pretrained(tokenizer),
        seed=seed,
        origin={"shards": listed.name, "read": str(len(urls[:shards]))},
        overwrite=overwrite,
    )


if __name__ == "__main__":
    tyro.cli(main)

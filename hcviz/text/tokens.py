"""A text of any size as tokens on the disk: written as it comes in, read through a memory map."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import fresh_folder, write_text

TYPE = np.dtype("<i4")
NOTE, SIDES = "tokens.json", ("train", "heldout")
BATCH = 1024
"""Documents that are tokenised at once: lists of numbers take ten times the room of the text."""


class Side(TypedDict):
    """What is noted of one side of a text; its tokens are in a file of its name."""

    __pydantic_config__ = forms.OPEN
    documents: int
    bytes: int
    tokens: int
    largest: int
    sha256: str


class Note(TypedDict):
    """The form of the note that lies beside the tokens."""

    __pydantic_config__ = forms.OPEN
    vocabulary: str
    train: Side
    heldout: Side
    heldout_documents: list[int]
    holdout: float
    seed: int
    origin: dict[str, str]


def write_tokens(
    texts: Iterable[str],
    out: str | Path,
    *,
    tokenizer: Any,
    holdout: float = 0.01,
    heldout_tokens: int = 2_000_000,
    seed: int = 0,
    origin: dict[str, str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a text as tokens, 4 bytes each, in the memory that a thousand documents take.

    The folder is a corpus: give it to :func:`hcviz.train` or ``--corpus``, for blocks of any
    context. Documents follow one another with an end-of-text token after each.

    Args:
        texts: The documents.
        out: The folder; it appears when it is whole.
        tokenizer: That of the model to train; it needs an end-of-text token.
        holdout: The chance of a document to be held out,
        heldout_tokens: as long as those held out have fewer tokens than this.
        seed: Of the choice of held-out documents.
        origin: Where the text comes from, for the record.
        overwrite: Replace an existing folder.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        HcvizError: If the folder is there or cannot be written, or the tokenizer has no such token.

    Example:
        >>> import tempfile
        >>> from hcviz.io.sources import load
        >>> out, tokenizer = Path(tempfile.mkdtemp(), "days"), load("nano:opt")[1]
        >>> days = (f"On day {n} it rained." for n in range(200))
        >>> sorted(path.name for path in write_tokens(days, out, tokenizer=tokenizer).iterdir())
        ['heldout.bin', 'tokens.json', 'train.bin']
    """
    random = np.random.default_rng(seed)
    sides = {name: Side(documents=0, bytes=0, tokens=0, largest=0, sha256="") for name in SIDES}
    numbers, digests = [], {name: hashlib.sha256() for name in SIDES}
    with fresh_folder(out, overwrite=overwrite) as folder, contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in SIDES}
        bar = stack.enter_context(tqdm(unit="B", unit_scale=True, disable=not progress))
        for number, (text, row) in enumerate(tokenised(texts, tokenizer)):
            held = random.random() < holdout and sides["heldout"]["tokens"] < heldout_tokens
            name = "heldout" if held else "train"
            numbers += [number] * held
            side, data, size = sides[name], row.astype(TYPE).tobytes(), len(text.encode())
            files[name].write(data)
            digests[name].update(data)
            side["documents"] += 1
            side["bytes"] += size
            side["tokens"] += len(row)
            side["largest"] = max(side["largest"], int(row.max()))
            bar.update(size)
        for name, side in sides.items():
            side["sha256"] = digests[name].hexdigest()
        facts = {"holdout": holdout, "seed": seed, "origin": origin or {}}
        note = {"vocabulary": _hash(tokenizer), **sides, "heldout_documents": numbers, **facts}
        write_text(folder / NOTE, json.dumps(note, indent=2) + "\n")
    return Path(out)


def read_tokens(folder: Path, tokenizer: Any) -> tuple[Note, dict[str, torch.Tensor]]:
    """Open a folder of tokens: what is noted, and by side int32 [T], which stays on the disk.

    Raises:
        HcvizError: If the folder is damaged, or of another tokenizer.
    """
    remedy = "Write the folder anew, or copy it whole."
    note = forms.read(folder / NOTE, Note, remedy)
    if note["vocabulary"] != _hash(tokenizer):
        raise HcvizError(
            f"{folder} was written with another tokenizer than {tokenizer.name_or_path!r}. Give "
            "the tokenizer that wrote it, or write the text with this one."
        )
    tokens = {}
    for name in SIDES:
        path, size = folder / f"{name}.bin", note[name]["tokens"] * TYPE.itemsize
        there = path.stat().st_size if path.is_file() else 0
        if there != size:
            raise HcvizError(f"{path} has {there} bytes, and {NOTE} says {size}. {remedy}")
        # copy on write, for torch warns of what it may not write
        found = np.memmap(path, TYPE, mode="c") if size else np.zeros(0, TYPE)
        tokens[name] = torch.from_numpy(found)
    return note, tokens


def tokenised(texts: Iterable[str], tokenizer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every document with its tokens and an end-of-text token after them, int64.

    Raises:
        HcvizError: If the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise HcvizError(
            f"The tokenizer {tokenizer.name_or_path!r} has no end-of-text token to put between "
            "documents. Set one: tokenizer.eos_token = ..."
        )
    texts = iter(texts)
    while some := list(itertools.islice(texts, BATCH)):
        rows = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
        for text, row in zip(some, rows, strict=True):
            yield text, np.asarray([*row, tokenizer.eos_token_id], dtype=np.int64)


def vocabulary_of(tokenizer: Any) -> Iterator[bytes]:
    """Yield the tokens and their numbers, in the order of these, for a hash."""
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        yield f"\x1e{index}\x1f{token}".encode()


def _hash(tokenizer: Any) -> str:
    return hashlib.sha256(b"".join(vocabulary_of(tokenizer))).hexdigest()

"""Tokenise a text, hold out whole documents, and pack the rest into blocks of equal length.

Shapes: N blocks, C context, V vocabulary.
"""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hcviz.errors import HcvizError
from hcviz.text.documents import Document, read_documents
from hcviz.text.grammar import ENGLISH
from hcviz.text.tokens import NOTE, read_tokens, tokenised, vocabulary_of


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Packed token blocks of a text, with held-out documents.

    Documents follow one another with an end-of-text token after each; the tail that does not fill
    a block is left out. ``bytes_per_token`` turns a mean loss over all predicted held-out tokens
    into bits per byte of text: the separators' nats are counted, their bytes are not.
    """

    name: str
    train: torch.Tensor
    """int64 [N_train, C]; int32 if it lies on the disk"""
    heldout: torch.Tensor
    """int64 [N_heldout, C]"""
    fingerprint: str
    """SHA-256 of the documents, their split and the tokenizer."""
    bytes_per_token: float
    """Text bytes per predicted held-out token."""
    largest: int
    """The largest number of a token."""
    heldout_groups: tuple[str, ...]
    documents: int
    text_bytes: int
    seed: int
    holdout: float
    origin: dict[str, str]
    floor: float | None = None
    """Least mean loss in nats per token, where the text's entropy is known (``grammar``)."""

    @property
    def context(self) -> int:
        """Tokens in a block."""
        return self.train.shape[1]

    @property
    def train_tokens(self) -> int:
        """Tokens in one epoch."""
        return self.train.numel()

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Turn a mean held-out loss in nats per token into bits per byte of text."""
        return nats_per_token / self.bytes_per_token / math.log(2)

    @torch.no_grad()
    def heldout_loss(self, model: Any, *, batch_size: int = 16) -> float:
        """Return a model's mean loss in nats per predicted token, over every held-out block."""
        model.eval()
        total = 0.0
        for batch in self.heldout.to(model.device).split(batch_size):
            total += model(input_ids=batch, labels=batch).loss.item() * len(batch)
        return total / len(self.heldout)

    def describe(self) -> dict[str, Any]:
        """Summarise the corpus in plain values, for ``run.json`` and for people."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "documents": self.documents,
            "heldout_documents": len(self.heldout_groups),
            "text_bytes": self.text_bytes,
            "context": self.context,
            "train_tokens": self.train_tokens,
            "heldout_tokens": self.heldout.numel(),
            "bytes_per_token": round(self.bytes_per_token, 6),
            "holdout": self.holdout,
            "seed": self.seed,
            "origin": self.origin,
            **({"floor": round(self.floor, 6)} if self.floor is not None else {}),
        }


def load_corpus(
    name_or_path: str | Path = "asv",
    *,
    tokenizer: Any,
    context: int = 256,
    holdout: float = 0.05,
    seed: int = 0,
) -> Corpus:
    """Read, split, tokenise and pack a text.

    Args:
        name_or_path: See `hcviz.text.documents.read_documents`; or a folder that
            `hcviz.text.tokens.write_tokens` wrote, whose tokens stay on the disk, and whose split
            stays as it was written.
        tokenizer: A Hugging Face tokenizer with an end-of-text token.
        context: Tokens in a block.
        holdout: Share of the documents that is held out. The same seed holds out the same chapters
            of ``asv``, ``kjv`` and ``asv+kjv``, also beside other texts.
        seed: Of the choice of held-out documents; not of the training order.

    Returns:
        The `Corpus`.

    Raises:
        HcvizError: If the corpus is unknown, empty, or too short for one block on either side.

    Example:
        >>> from hcviz.io.sources import source_path
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(source_path("opt"))
        >>> corpus = load_corpus("asv", tokenizer=tokenizer, context=128)
        >>> corpus.train.shape[1], len(corpus.heldout_groups)
        (128, 60)
    """
    if not 0 < holdout < 1:
        raise HcvizError(
            f"holdout must lie between 0 and 1, not {holdout}: it is a share of the documents."
        )
    if context < 2:
        raise HcvizError(f"context must be at least 2 tokens, not {context}.")
    name = str(name_or_path)
    if (Path(name) / NOTE).is_file():
        return _on_disk(Path(name), tokenizer, context)
    exact = name.partition(":")[0] == "grammar" and "+" not in name
    documents, origin = read_documents(name_or_path)
    train, heldout = split_documents(documents, holdout=holdout, seed=seed, name=name)
    blocks = {
        "train": pack(train, tokenizer, context, f"The training part of {name!r}"),
        "heldout": pack(heldout, tokenizer, context, f"The held-out part of {name!r}"),
    }
    exact = _exact_bytes(blocks["heldout"], tokenizer)
    known = name.partition(":")[0] == "grammar" and "+" not in name
    return Corpus(
        name=name,
        **blocks,
        fingerprint=_fingerprint(train, heldout, tokenizer),
        bytes_per_token=_mean_bytes(heldout, tokenizer) if exact is None else exact,
        largest=max(int(block.max()) for block in blocks.values()),
        heldout_groups=tuple(dict.fromkeys(document.group for document in heldout)),
        documents=len(documents),
        text_bytes=sum(len(document.text.encode()) for document in documents),
        seed=seed,
        holdout=holdout,
        origin=origin,
        floor=ENGLISH.floor(lambda word: len(tokenizer.tokenize(word))) if known else None,
    )


def _on_disk(folder: Path, tokenizer: Any, context: int) -> Corpus:
    """Open a folder of tokens; those held out are read, the others as they are asked for."""
    note, tokens = read_tokens(folder, tokenizer)
    train = cut(tokens["train"], context, f"The training part of '{folder}'")
    heldout = cut(tokens["heldout"].long(), context, f"The held-out part of '{folder}'")
    sides, exact = (note["train"], note["heldout"]), _exact_bytes(heldout, tokenizer)
    marks = "".join([note["vocabulary"], *(side["sha256"] for side in sides)])
    return Corpus(
        name=str(folder),
        train=train,
        heldout=heldout,
        fingerprint=hashlib.sha256(marks.encode()).hexdigest(),
        bytes_per_token=sides[1]["bytes"] / sides[1]["tokens"] if exact is None else exact,
        largest=max(side["largest"] for side in sides),
        heldout_groups=tuple(f"document {number}" for number in note["heldout_documents"]),
        documents=sum(side["documents"] for side in sides),
        text_bytes=sum(side["bytes"] for side in sides),
        seed=note["seed"],
        holdout=note["holdout"],
        origin=note["origin"],
    )


def heldout_blocks(
    name: str, *, tokenizer: Any, context: int, holdout: float, seed: int
) -> torch.Tensor:
    """Read the held-out part of a text alone, as :func:`load_corpus` splits it: int64 [N, C].

    Raises:
        HcvizError: If the text cannot be read, or is too short for a block.
    """
    what = f"The held-out part of {name!r}"
    if (Path(name) / NOTE).is_file():
        return cut(read_tokens(Path(name), tokenizer)[1]["heldout"].long(), context, what)
    documents, _ = read_documents(name)
    _, heldout = split_documents(documents, holdout=holdout, seed=seed, name=name)
    return pack(heldout, tokenizer, context, what)


def split_documents(
    documents: list[Document], *, holdout: float = 0.05, seed: int = 0, name: str = "corpus"
) -> tuple[list[Document], list[Document]]:
    """Split documents into train and held-out by their group, each side in the given order.

    Each shelf is split as it would be alone.

    Raises:
        HcvizError: If there are fewer than two groups, so that one cannot be held out whole.
    """
    documents = [document for document in documents if document.text.strip()]
    shelves = sorted({document.shelf for document in documents}) or [""]
    if len(shelves) > 1:
        parts = [[d for d in documents if d.shelf == shelf] for shelf in shelves]
        apart = [split_documents(part, holdout=holdout, seed=seed, name=name) for part in parts]
        return tuple([d for pair in apart for d in pair[side]] for side in (0, 1))
    groups = sorted({document.group for document in documents})
    if len(groups) < 2:
        raise HcvizError(
            f"The corpus {name!r} holds {len(groups)} documents; two are needed, one to train on "
            "and one to hold out. "
            "Separate documents by blank lines (.txt), by <|endoftext|>, or write one a line "
            "(.jsonl)."
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    count = min(len(groups) - 1, max(1, math.ceil(holdout * len(groups))))
    chosen = {groups[i] for i in order[:count]}
    train = [document for document in documents if document.group not in chosen]
    return train, [document for document in documents if document.group in chosen]


def pack(documents: list[Document], tokenizer: Any, context: int, what: str) -> torch.Tensor:
    """Tokenise documents, join them with end-of-text tokens, cut into blocks: int64 [N, C]."""
    rows = [row for _, row in tokenised((document.text for document in documents), tokenizer)]
    return cut(torch.from_numpy(np.concatenate(rows)), context, what)


def cut(tokens: torch.Tensor, context: int, what: str) -> torch.Tensor:
    """Cut tokens into blocks, [T] -> [N, C]; the tail that fills none is left out.

    Raises:
        HcvizError: If not one is full.
    """
    count = len(tokens) // context
    if count == 0:
        raise HcvizError(
            f"{what} is too short: {len(tokens)} tokens, and one block needs {context}. "
            "Give more text, a smaller context, or a larger holdout."
        )
    return tokens[: count * context].view(count, context)


def _exact_bytes(blocks: torch.Tensor, tokenizer: Any) -> float | None:
    """Count text bytes per predicted token, if the tokenizer is byte-level; else None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "decoder", None)).__name__ != "ByteLevel":
        return None
    # in a byte-level vocabulary every character stands for one byte
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    sizes = torch.tensor([0 if i in special else len(token) for i, token in enumerate(vocabulary)])
    predicted = blocks[:, 1:]  # the first token of a block has nothing before it to be told from
    return sizes[predicted].sum().item() / predicted.numel()


def _mean_bytes(documents: list[Document], tokenizer: Any) -> float:
    """Return text bytes per token over documents, with the end-of-text token of each."""
    tokens = sum(len(row) for _, row in tokenised((d.text for d in documents), tokenizer))
    return sum(len(document.text.encode()) for document in documents) / tokens


def _fingerprint(train: list[Document], heldout: list[Document], tokenizer: Any) -> str:
    """Hash what the model sees and what it does not: equal for runs that can be compared."""
    digest = hashlib.sha256()
    for side, documents in (("train", train), ("heldout", heldout)):
        for document in documents:
            digest.update(f"\x1e{side}\x1f{document.group}\x1f{document.text}".encode())
    for entry in vocabulary_of(tokenizer):
        digest.update(entry)
    return digest.hexdigest()

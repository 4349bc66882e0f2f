"""Multiple-choice tasks: the items that ship, and how a model chooses among options.

Shapes: B rows of a batch, C tokens of the longest.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hcviz.io.files import data_folder


@dataclass(frozen=True)
class Item:
    """A context and what may follow it; one of the options did."""

    context: str
    options: tuple[str, ...]
    answer: int
    place: str
    """The held-out chapter that it was made of, and its translation."""


def task_file(name: str) -> Path:
    """Return where the items of a shipped task lie."""
    return data_folder() / "tasks" / f"{name}.jsonl"


def task_names() -> list[str]:
    """Return the names of the shipped tasks.

    Example:
        >>> len(task_names())
        10
    """
    return sorted(path.stem for path in task_file("*").parent.glob("*.jsonl"))


def read_items(name: str) -> list[Item]:
    """Return the items of a shipped task."""
    rows = map(json.loads, task_file(name).read_text(encoding="utf-8").splitlines())
    return [Item(**row | {"options": tuple(row["options"])}) for row in rows]


@torch.no_grad()
def option_scores(
    model: nn.Module, tokenizer: Any, items: Sequence[Item], *, batch_size: int = 64
) -> list[list[float]]:
    """Return the log-likelihood of every option after its context, in nats, as the harness has it.

    Options that differ in their last token only are read in one row.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    rows: dict[tuple[int, ...], list[tuple[int, int, int, int]]] = {}
    for number, item in enumerate(items):
        before = len(_encode(tokenizer, item.context))
        for which, option in enumerate(item.options):
            whole = _encode(tokenizer, item.context + option)
            read = tuple(whole[:-1][-most:] if most else whole[:-1])
            wanted = number, which, len(whole) - before, whole[-1]
            rows.setdefault(read, []).append(wanted)
    scores = [[0.0] * len(item.options) for item in items]
    todo = sorted(rows, key=len)
    for start in range(0, len(todo), batch_size):
        some = todo[start : start + batch_size]
        ids = torch.zeros(len(some), len(some[-1]), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, read in enumerate(some):
            ids[place, : len(read)] = torch.tensor(read)
            mask[place, : len(read)] = 1
        where = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
        logits = model(**where).logits.float().cpu()
        for place, read in enumerate(some):
            for number, which, count, last in rows[read]:
                targets = torch.tensor([*read[len(read) - count + 1 :], last])
                chosen = logits[place, len(read) - count : len(read)].log_softmax(-1)
                scores[number][which] = chosen.gather(1, targets[:, None]).sum().item()
    return scores


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

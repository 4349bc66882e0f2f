"""Checkpoints tensor by tensor: what a model makes of stored tensors, and shards written in place.

What is stored and what a model has differ where transformers converts one into the other, such as
experts that are stacked on loading. A :class:`Unit` is the smallest group that converts by itself.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from hcviz.errors import HcvizError
from hcviz.stored import weight_files

METADATA = {"format": "pt"}


class Checkpoint:
    """The tensors of a folder of safetensors files, read one at a time.

    They are read, not mapped, so that no page of a file counts as memory of this process; only what
    says shapes and dtypes is mapped.

    Args:
        folder: A folder with ``model.safetensors``, or shards and their index.

    Raises:
        HcvizError: If it holds no whole weights, or a file is damaged.
    """

    def __init__(self, folder: Path):
        """Open the files."""
        self.files = weight_files(folder)
        if not self.files:
            raise HcvizError(
                f"{folder} holds no whole safetensors weights (model.safetensors, or shards and "
                "model.safetensors.index.json). Download it again, or save it with save_pretrained."
            )
        self._of, self._mapped = {}, {}
        for path in self.files:
            try:
                file = safe_open(path, framework="pt", backend="pread")
                mapped = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise HcvizError(
                    f"{path} cannot be read: {error}. The file is damaged or cut short; "
                    "download it again."
                ) from error
            self._of.update(dict.fromkeys(file.keys(), file))
            self._mapped.update(dict.fromkeys(file.keys(), mapped))

    def __iter__(self):
        return iter(self._of)

    def empty(self, key: str) -> torch.Tensor:
        """Return a tensor's shape and dtype, as a tensor on the meta device."""
        part = self._mapped[key].get_slice(key)
        shape = part.get_shape()
        dtype = (part[:0] if shape else self._mapped[key].get_tensor(key)).dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    def tensor(self, key: str) -> torch.Tensor:
        """Read a tensor into memory of its own."""
        return self._of[key].get_tensor(key)


@dataclass(frozen=True)
class Unit:
    """Stored tensors that make tensors of a model by themselves."""

    name: str
    """The first tensor of the model that they make."""
    stored: tuple[tuple[str, str], ...]
    """The stored names, each with the pattern by which the converter knows it."""
    converter: WeightConverter | None

    def read(self, model: PreTrainedModel, tensor_of, dtype: torch.dtype) -> dict[str, Any]:
        """Return the model's tensors by name.

        Args:
            model: The model, on the meta device.
            tensor_of: Gives a stored tensor by its name.
            dtype: The dtype that they get.
        """
        if self.converter is None:
            return {self.name: tensor_of(self.stored[0][1]).to(dtype)}
        converter = deepcopy(self.converter)
        for pattern, key in self.stored:
            converter.add_tensor(self.name, key, pattern, tensor_of(key).to(dtype))
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: x[0] if isinstance(x, list) else x for name, x in made.items()}


def units(model: PreTrainedModel, keys: Iterable[str]) -> tuple[list[Unit], list[str]]:
    """Sort stored tensors into units, by the rules by which transformers loads them.

    Args:
        model: The model, on the meta device.
        keys: The stored names.

    Returns:
        The units, and the names that no tensor of the model wants (old rotary tables and the like).
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    of_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted, prefix = model.state_dict(), model.base_model_prefix
    found, stale = {}, []
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = rename_source_key(key, [], [], prefix, wanted)
        if name in wanted:
            found.setdefault(name, []).append((pattern, key))
        else:
            stale.append(key)
    made = [Unit(n, tuple(stored), of_pattern.get(stored[0][0])) for n, stored in found.items()]
    return made, stale


class Turns:
    """Memory for parts of a file, one of which is written while the next is made.

    Two stretches take turns, used again and again: clearing new memory takes Linux as long as
    filling it. What is made in a turn is gone two turns later.

    Args:
        parts: The bytes of the tensors of every part.
    """

    def __init__(self, parts: Iterable[Iterable[int]]):
        """Reserve the memory of the largest part; it is taken only as far as it is used."""
        size = max(sum(map(_aligned, part)) for part in parts)
        self._stretches = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
        self._used = 0

    def next(self) -> None:
        """Begin a part."""
        self._stretches.reverse()
        self._used = 0

    def empty(self, shape, dtype: torch.dtype, device=None) -> torch.Tensor:
        """Return a tensor of the part in this turn's stretch, as ``torch.empty`` does."""
        first, size = self._used, math.prod(shape) * dtype.itemsize
        self._used += _aligned(size)
        return self._stretches[0][first : first + size].view(dtype).view(shape)


def _aligned(size: int) -> int:
    """Return how many bytes a tensor takes of a stretch, so that the next starts well."""
    return -(-size // 64) * 64


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor], parts: Iterable[dict]) -> None:
    """Write a safetensors file tensor by tensor: the bytes that ``safetensors`` writes at once.

    Args:
        path: The file; it appears by rename when it is whole.
        tensors: Names, shapes and dtypes of all its tensors, on the meta device.
        parts: Dictionaries of tensors, in any order; those that belong elsewhere are passed over.
            One is written while the next is made.

    Raises:
        HcvizError: If the parts do not fill it.
    """
    head, starts = _header(tensors)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    missing, pending = set(tensors), []

    def put(part: dict[str, torch.Tensor], names: set[str]) -> None:
        for name in names:
            file.seek(len(head) + starts[name])
            file.write(part[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy())

    try:
        with scratch.open("wb") as file, ThreadPoolExecutor(1) as pool:
            file.write(head)
            for part in parts:
                while pending:
                    pending.pop().result()
                names = missing & part.keys()
                pending.append(pool.submit(put, part, names))
                missing -= names
                del part  # or it would stay while the next ones are made
            while pending:
                pending.pop().result()
        if missing:
            raise HcvizError(f"{path.name} lacks {min(missing)}, which nothing made.")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _header(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return the head of a safetensors file and where each tensor's bytes start after it.

    The order of the tensors is the one in which ``safetensors`` puts single values of their dtypes.
    """
    sample = save({name: torch.empty(1, dtype=t.dtype) for name, t in tensors.items()}, METADATA)
    entries = json.loads(sample[8 : 8 + int.from_bytes(sample[:8], "little")])
    starts, end = {}, 0
    for name, entry in entries.items():
        if name != "__metadata__":
            starts[name], end = end, end + tensors[name].numel() * tensors[name].element_size()
            entry |= {"shape": list(tensors[name].shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts

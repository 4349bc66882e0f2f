"""Checkpoints tensor by tensor: what is stored, and what a model makes of it.

What is stored and what a model has differ where transformers converts one into the other, such as
experts that are stacked on loading. A :class:`Unit` is the smallest group that converts by itself.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import damaged, header, weight_files

FETCH_AGAIN = "download it again"


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
        files = weight_files(folder)
        if not files:
            raise HcvizError(
                f"{folder} holds no whole safetensors weights (model.safetensors, or shards and "
                "model.safetensors.index.json). Download it again, or save it with save_pretrained."
            )
        self._mapped, self._places = {}, {}
        for path in files:
            try:
                mapped = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise damaged(path, error, FETCH_AGAIN) from error
            head = header(path)
            for key, entry in json.loads(head).items():
                if key != "__metadata__":
                    self._mapped[key] = mapped
                    self._places[key] = path, 8 + len(head) + entry["data_offsets"][0]

    def __iter__(self):
        return iter(self._places)

    def empty(self, key: str) -> torch.Tensor:
        """Return a tensor's shape and dtype, as a tensor on the meta device."""
        part = self._mapped[key].get_slice(key)
        shape = part.get_shape()
        dtype = (part[:0] if shape else self._mapped[key].get_tensor(key)).dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    def tensor(self, key: str, empty=torch.empty) -> torch.Tensor:
        """Read a tensor into memory that ``empty`` gives, as ``torch.empty`` does."""
        like = self.empty(key)
        tensor = empty(like.shape, dtype=like.dtype)
        path, start = self._places[key]
        with path.open("rb") as file:
            file.seek(start)
            got = file.readinto(tensor.reshape(-1).view(torch.uint8).numpy())
        if got != tensor.nbytes:
            raise damaged(path, f"{key} ends after {got} of {tensor.nbytes} bytes", FETCH_AGAIN)
        return tensor


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

"""The tensors of a checkpoint's files: by the model's names, and what makes which of a model's."""

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
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
from hcviz.io.files import natural

KEPT = "hcviz_keep"
"""In a file's metadata: the expression whose tensors alone a thinned snapshot holds."""


def weight_files(folder: Path) -> list[Path]:
    """Return a checkpoint's safetensors files; none if it is not whole."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        files = [folder / shard for shard in sorted(shards)]
    else:
        files = [folder / "model.safetensors"]
    return files if all(file.is_file() for file in files) else []


def header(path: Path) -> bytes:
    """Return the JSON at the head of a safetensors file, after the 8 bytes that tell its size."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def file_stamp(path: Path) -> tuple[str, int, int] | None:
    """Return a file's name, size and time of change (ns); None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return path.name, stat.st_size, stat.st_mtime_ns


def stamp(folder: Path) -> tuple[tuple[str, int, int] | None, ...]:
    """Return the :func:`file_stamp` of each of a checkpoint's weight files."""
    return tuple(map(file_stamp, weight_files(folder)))


class Stored:
    """The tensors of a checkpoint folder, by their names in the model.

    A name in the file may be an older one (GPT-NeoX's ``embed_out`` is its ``lm_head``), and
    experts may be stored one by one that the model stacks: both are mapped as transformers does
    it, and a stacked tensor is put together when it is asked for.
    """

    def __init__(self, folder: Path):
        """Take the folder; nothing is read yet."""
        self.folder = folder
        self.stamp = stamp(folder)

    def __contains__(self, name: str) -> bool:
        return name in self._index

    @cached_property
    def mark(self) -> tuple[Any, ...]:
        """What tells this content from another: its :func:`stamp`, and its files' headers."""
        digest = hashlib.sha256()
        for path in weight_files(self.folder):
            digest.update(header(path))
        return (*self.stamp, digest.hexdigest())

    def names(self) -> list[str]:
        """Return the model's names of what is stored, layer by layer."""
        return sorted(self._index, key=natural)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the first file says of itself."""
        return self._open(weight_files(self.folder)[0], lambda file: file.metadata() or {})

    @property
    def kept(self) -> str | None:
        """The expression whose tensors alone are stored; None for a whole checkpoint."""
        return self.metadata.get(KEPT)

    def files_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Read tensors as they are stored: by the names, and in the parts, of the file."""
        places = [place for name in names for place in self._index[name][1]]
        return {k: self._open(path, lambda f, k=k: f.get_tensor(k)) for path, k, _ in places}

    def tensor(self, name: str) -> Any:
        """Read one tensor (KeyError if it is not stored), and nothing else of its file."""
        converter, keys = self._index[name]
        if converter is None:
            [(path, key, _)] = keys
            return self._open(path, lambda file: file.get_tensor(key))
        converter = copy.deepcopy(converter)
        for path, key, pattern in keys:
            tensor = self._open(path, lambda file, key=key: file.get_tensor(key))
            converter.add_tensor(name, key, pattern, lambda tensor=tensor: tensor)
        return converter.convert(name)[name]

    @cached_property
    def _index(self) -> dict[str, tuple[Any, list[tuple[Path, str, str | None]]]]:
        """Map a name to the converter that makes it, if any, and to the stored tensors it takes."""
        from transformers.core_model_loading import dot_natural_key, rename_source_key

        keys = {
            key: path
            for path in weight_files(self.folder)
            for key in self._open(path, lambda file: list(file.keys()))
        }
        renamings, converters = self._mapping
        index = {}
        for key in sorted(keys, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters)
            converter = next((c for c in converters if pattern in c.source_patterns), None)
            first, *others = converter.target_patterns if converter else ("",)
            for target in (first, *others):
                full = name.replace(first, target, 1) if others else name
                index.setdefault(full, (converter, []))[1].append((keys[key], key, pattern))
        return index

    @cached_property
    def _mapping(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """The renamings and converters of transformers for this kind of model."""
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        config = json.loads((self.folder / "config.json").read_text())
        for kind in (*(config.get("architectures") or ()), config.get("model_type")):
            found = get_checkpoint_conversion_mapping(kind)
            if found is not None:
                # subclasses rename by what else is in the model, which a file does not tell
                return (
                    [one for one in found if type(one) is WeightRenaming],
                    [one for one in found if isinstance(one, WeightConverter)],
                )
        return (), ()

    def _open(self, path: Path, read: Any) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return read(file)
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error


TRAIN_AGAIN = (
    "delete its checkpoint folder and train again with the same --out to continue from the one "
    "before"
)


def damaged(path: Path, why: object, then: str = TRAIN_AGAIN) -> HcvizError:
    """Say that a file cannot be read, and what to do then."""
    return HcvizError(f"{path} cannot be read: {why}. The file is damaged or cut short; {then}.")


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

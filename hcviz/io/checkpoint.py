"""The tensors of a checkpoint's files: by their stored names, and by the model's."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import natural
from hcviz.io.models import Unit, model_of, own_names, units, whole

KEPT = "hcviz_keep"
"""In a file's metadata: the expression whose tensors alone a thinned snapshot holds."""


class Index(TypedDict):
    """The form of ``model.safetensors.index.json``."""

    __pydantic_config__ = forms.OPEN
    weight_map: dict[str, Annotated[str, Field(max_length=255)]]


def weight_files(folder: Path) -> list[Path]:
    """Return a checkpoint's safetensors files; none if it is not whole.

    Raises:
        HcvizError: If its index cannot be read, or names a file outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        then = "Download it again, or save the model with save_pretrained."
        shards = set(forms.read(index, Index, then)["weight_map"].values())
        outside = [one for one in shards if Path(one).is_absolute() or ".." in Path(one).parts]
        if outside:
            raise HcvizError(
                f"{index} names {outside[0]!r}, which lies outside its folder. Put the shards "
                "beside the index, and name them without a path."
            )
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


TRAIN_AGAIN = (
    "delete its checkpoint folder and train again with the same --out to continue from the one "
    "before"
)


def damaged(path: Path, why: object, then: str = TRAIN_AGAIN) -> HcvizError:
    """Say that a file cannot be read, and what to do then."""
    return HcvizError(f"{path} cannot be read: {why}. The file is damaged or cut short; {then}.")


FETCH_AGAIN = "download it again"


class Checkpoint:
    """The tensors of a folder of safetensors files, by their stored names, read one at a time.

    A file is mapped while a tensor of it is in use, so that no more of it counts as memory of this
    process.

    Args:
        folder: A folder with ``model.safetensors``, or shards and their index.
        files: Its files; by default those of its weights.
        then: What to do about a damaged file, for the message.

    Raises:
        HcvizError: If it holds no whole weights, two different sets of them, or a damaged file.
    """

    def __init__(self, folder: Path, files: Sequence[Path] = (), then: str = FETCH_AGAIN):
        """Read what the files hold, without the tensors."""
        self.folder, self._then = folder, then
        self.metadata: dict[str, str] = {}
        """What the first file says of itself."""
        self._empty: dict[str, torch.Tensor] = {}
        self._paths: dict[str, Path] = {}
        files = files or weight_files(folder)
        if not files:
            raise HcvizError(
                f"{folder} holds no whole safetensors weights (model.safetensors, or shards and "
                "model.safetensors.index.json). Download it again, or save it with save_pretrained."
            )
        for path in files:
            try:
                self._add(path)
            except (SafetensorError, OSError) as error:
                raise damaged(path, error, then) from error
        single = folder / "model.safetensors"
        if single not in files and single.is_file():
            self._check_same(Checkpoint(folder, [single], then))

    def _add(self, path: Path) -> None:
        """Note a file's tensors."""
        with safe_open(path, framework="pt") as file:
            entries, kinds = json.loads(header(path)), {}
            metadata = entries.pop("__metadata__", {})
            self.metadata = self.metadata or metadata
            for key, entry in entries.items():
                kind, shape = entry["dtype"], entry["shape"]
                if kind not in kinds:
                    kinds[kind] = (file.get_slice(key)[:0] if shape else file.get_tensor(key)).dtype
                self._empty[key] = torch.empty(shape, dtype=kinds[kind], device="meta")
                self._paths[key] = path

    def _check_same(self, other: "Checkpoint") -> None:
        """Refuse shards beside a single file that says otherwise than they do."""
        alike = (key for key in self if key in other._empty and _same(self, other, key))
        odd = sorted(self._paths.keys() ^ other._paths.keys() or {*self} - {*alike}, key=natural)
        if odd:
            raise HcvizError(
                f"{self.folder} holds two sets of weights that differ in {odd[0]}: the shards of "
                "model.safetensors.index.json, and model.safetensors beside them. Remove the one "
                "that is not meant."
            )

    def __iter__(self):
        return iter(self._paths)

    def empty(self, key: str) -> torch.Tensor:
        """Return a tensor's shape and dtype, as a tensor on the meta device."""
        return self._empty[key]

    def tensor(self, key: str) -> torch.Tensor:
        """Read a tensor."""
        path = self._paths[key]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise damaged(path, error, self._then) from error


def _same(one: Checkpoint, other: Checkpoint, key: str) -> bool:
    """Tell whether two sets of files store the same under a name."""
    a, b = one.empty(key), other.empty(key)
    alike = (a.shape, a.dtype) == (b.shape, b.dtype)
    return alike and torch.equal(one.tensor(key), other.tensor(key))


class Stored:
    """The tensors of a checkpoint folder, by their names in the model.

    Names and forms are those that transformers gives them when it loads: a name in the file may be
    an older one, or lack the model's prefix, and experts may be stored one by one that the model
    stacks; a stacked tensor is put together when it is asked for. Nothing has to be whole.
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

    @property
    def metadata(self) -> dict[str, str]:
        """What the first file says of itself."""
        return self._files.metadata

    @property
    def kept(self) -> str | None:
        """The expression whose tensors alone are stored; None for a whole checkpoint."""
        return self.metadata.get(KEPT)

    def files_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Read tensors as they are stored: by the names, and in the parts, of the file."""
        keys = [key for name in names for _, key in self._index[name][0].stored]
        return {key: self._files.tensor(key) for key in keys}

    def tensor(self, name: str) -> Any:
        """Read one tensor (KeyError if it is not stored), and nothing else of its file."""
        unit, made = self._index[name]
        return unit.read(self._model, self._files.tensor)[made]

    def check(self) -> None:
        """See that it is :func:`whole`, where it is not thinned on purpose."""
        if self.kept is None:
            whole(self._model, self._files)

    @cached_property
    def _files(self) -> Checkpoint:
        return Checkpoint(self.folder, then=TRAIN_AGAIN)

    @cached_property
    def _model(self) -> PreTrainedModel:
        return model_of(self.folder)

    @cached_property
    def _index(self) -> dict[str, tuple[Unit, str]]:
        """Map a tensor's own name to the unit that makes it, and to its name there."""
        found, own = units(self._model, self._files)[0], own_names(self._model)
        made = [(name, unit) for unit in found for name in unit.names if name in own]
        return {own[name]: (unit, name) for name, unit in reversed(made)}

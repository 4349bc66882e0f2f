"""Where the checkpoints of a run lie that somebody else trained: folders, or revisions of a hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import weight_files
from hcviz.io.files import natural
from hcviz.io.models import check_folder
from hcviz.io.sources import local_folder, place_of

INSTEAD = (
    "Give a folder of checkpoints, a list of them, or the id of a repository of the hub with "
    "revisions=[...]."
)
STEP = re.compile(r"(?:step|checkpoint|ckpt|iter(?:ation)?)[-_]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Revision:
    """One revision of a repository of the hub, fetched when it is first read."""

    repo: str
    name: str

    def file(self, name: str) -> Path | None:
        """Return one file of it, without the rest; None if it holds no such file.

        Raises:
            HcvizError: If it cannot be fetched.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return Path(hf_hub_download(self.repo, name, revision=self.name))
        except RemoteEntryNotFoundError:
            return None
        except OSError as error:
            raise self._unreachable(error) from error

    def fetch(self) -> Path:
        """Return the local folder of its configuration and its safetensors files.

        Raises:
            HcvizError: If it cannot be fetched, or holds no safetensors.
        """
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.safetensors.index.json", "config.json"]
        try:
            folder = snapshot_download(self.repo, revision=self.name, allow_patterns=patterns)
        except OSError as error:
            raise self._unreachable(error) from error
        if not weight_files(Path(folder)):
            raise HcvizError(
                f"Revision {self.name!r} of {self.repo} holds no safetensors. Convert it first: "
                "hcviz opens no pickled weights."
            )
        return Path(folder)

    def _unreachable(self, why: Exception) -> HcvizError:
        return HcvizError(f"Revision {self.name!r} of {self.repo} cannot be fetched: {why}")


Place = Path | Revision
Where = str | Path | Sequence[str | Path] | Mapping[int, str | Path]


def find_places(where: Where, revisions: Sequence[str] | None = None) -> dict[int, Place]:
    """Return the checkpoints by step, in order.

    The step is the number after ``step``, ``checkpoint``, ``ckpt`` or ``iter`` in a name, or its
    last number. Where a name has none, or two have the same, the checkpoints count 0, 1, 2, ...

    Args:
        where: A folder of checkpoint folders, one checkpoint, a list of them, ``{step: folder}``,
            or the id of a repository of the hub.
        revisions: The revisions of that repository.

    Raises:
        HcvizError: If nothing is found.
    """
    if revisions is not None:
        repo = place_of(where)
        if isinstance(repo, Path):
            raise HcvizError(
                f"{str(where)!r} is a folder here, and revisions are of the hub. Leave revisions "
                f"out, or name the repository: hf:{where}"
            )
        return _by_step([Revision(repo, name) for name in revisions], list(revisions))
    if isinstance(where, Mapping):
        steps = {_step_of(key): folder for key, folder in where.items()}
        return {step: _whole(steps[step]) for step in sorted(steps)}
    if not isinstance(where, str | Path):
        folders = [_whole(folder) for folder in where]
        return _by_step(folders, [folder.name for folder in folders])
    root = local_folder(where, INSTEAD)
    check_folder(root)
    if weight_files(root):
        return _by_step([root], [root.name])
    folders = [path for path in root.iterdir() if path.is_dir() and weight_files(path)]
    folders.sort(key=lambda path: natural(path.name))
    if not folders:
        raise HcvizError(
            f"{root} holds no checkpoint: no folder in it has a model.safetensors (or its shards)."
        )
    return _by_step(folders, [folder.name for folder in folders])


def _step_of(key: int | str) -> int:
    try:
        return int(key)
    except (TypeError, ValueError) as error:
        raise HcvizError(f"{key!r} is no step. Give {{200: folder, 1000: folder}}.") from error


def _whole(folder: str | Path) -> Path:
    folder = local_folder(folder, INSTEAD)
    check_folder(folder)
    if not weight_files(folder):
        raise HcvizError(f"{folder} is no checkpoint: it has no model.safetensors (or shards).")
    return folder


def _by_step(places: Sequence[Place], names: Sequence[str]) -> dict[int, Place]:
    """Number places by their names."""
    if not places:
        raise HcvizError("No checkpoint was given. Name at least one folder or revision.")
    found = [STEP.findall(name) or re.findall(r"\d+", name) for name in names]
    steps = [int(numbers[-1]) for numbers in found if numbers]
    if len(set(steps)) < len(places):
        steps = list(range(len(places)))
    return dict(sorted(zip(steps, places, strict=True)))

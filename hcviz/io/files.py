"""Files and their names; outputs are made beside their place and renamed into it, whole."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from hcviz.errors import HcvizError


def natural(name: str | float) -> list[tuple[float, str]]:
    """Return the key that sorts numbers, or names by the numbers in them: layer 2 before 10.

    Example:
        >>> sorted(["step_1000", "step_200"], key=natural)
        ['step_200', 'step_1000']
    """
    if not isinstance(name, str):
        return [(name, "")]
    words = re.split(r"([0-9]+)", name)
    return [(int(word), "") if odd % 2 else (-1, word) for odd, word in enumerate(words)]


def layer_of(name: str) -> int | None:
    """Return the layer that the name of a tensor or module tells.

    Example:
        >>> layer_of("model.layers.3.mlp.up_proj.weight"), layer_of("lm_head.weight")
        (3, None)
    """
    return next((int(word) for word in name.split(".") if word.isdigit()), None)


def data_folder() -> Path:
    """Return the folder of the shipped data: ``$HCVIZ_DATA``, in a wheel, or beside the package.

    Raises:
        HcvizError: If none of the three exists.
    """
    here = Path(__file__).parents[1]
    places = [Path(os.environ["HCVIZ_DATA"])] if "HCVIZ_DATA" in os.environ else []
    places += [here / "data", here.parent / "data"]
    for place in places:
        if place.is_dir():
            return place
    raise HcvizError(
        f"The shipped data was not found in {', '.join(map(str, places))}. "
        "Set HCVIZ_DATA to the data/ folder of a checkout."
    )


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse to write to a path that already exists.

    Raises:
        HcvizError: If ``path`` exists (an empty folder counts as free) and ``overwrite`` is false.
    """
    path = Path(path)
    taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if taken and not overwrite:
        raise HcvizError(
            f"{path} already exists. Choose another folder, or overwrite it with --overwrite."
        )


@contextlib.contextmanager
def fresh_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` only if the block succeeds.

    Args:
        path: The folder to make.
        overwrite: Replace an existing one; it is kept until the new one is whole.

    Raises:
        HcvizError: If ``path`` is taken, or its parent cannot be written.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "result"
        >>> with fresh_folder(out) as folder:
        ...     _ = (folder / "answer.txt").write_text("42")
        >>> (out / "answer.txt").read_text()
        '42'
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    scratch = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise HcvizError(
            f"Cannot write beside {path}: {error}. Choose a writable place."
        ) from error
    try:
        yield scratch
        replace_folder(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_folder(scratch: Path, path: Path) -> None:
    """Rename ``scratch`` to ``path``; an old ``path`` is moved aside first and removed last."""
    if not path.exists():
        scratch.rename(path)
        return
    old = path.parent / f".tmp-old-{path.name}-{uuid.uuid4().hex[:8]}"
    path.rename(old)
    try:
        scratch.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old) if old.is_dir() else old.unlink()


def open_to_readers(folder: Path) -> None:
    """Give weights the access rights of the files beside them, not the owner's alone."""
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


@contextlib.contextmanager
def fresh_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes ``path`` only if the block succeeds.

    So a reader never sees half of a file. It has the same ending; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file by rename; see :func:`fresh_file`."""
    with fresh_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return Path(path)


def check_space(path: str | Path, needed: int, what: str) -> None:
    """Refuse to start writing when the disk cannot hold it.

    Args:
        path: Where it would go; the nearest existing parent's disk is asked.
        needed: Bytes.
        what: What they are, for the message.

    Raises:
        HcvizError: If less than ``needed`` bytes are free.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise HcvizError(
            f"{what} needs {needed / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB free. "
            "Free some space or choose another disk."
        )

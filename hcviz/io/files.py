"""Files and their names; outputs are made beside their place and renamed into it, whole."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hcviz.errors import HcvizError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SAID = (
    *("No space left", "quota exceeded", "File too large"),
    *("inline_container", "StreamWriter failed", "iostream error"),
)
"""What libraries say that hide the system's number; of torch no more than where it failed."""


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


def finder(patterns: str | Iterable[str] | None) -> Callable[[str], bool]:
    """Return what tells if a name is found by any of some regular expressions; None finds all.

    Raises:
        HcvizError: If one is no regular expression.

    Example:
        >>> list(filter(finder("mlp"), ["attn.weight", "mlp.weight"]))
        ['mlp.weight']
    """
    asked = [patterns] if isinstance(patterns, str) else list(patterns or [""])
    try:
        found = [re.compile(one) for one in asked]
    except (re.error, OverflowError, RecursionError) as error:
        raise HcvizError(
            f"{', '.join(map(repr, asked))}: no regular expression of names: {error}. Write part "
            r"of a name, such as mlp, and \ before a sign that is meant as it is."
        ) from error
    return lambda name: any(one.search(name) for one in found)


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
    taken = os.path.exists(path) and not (path.is_dir() and not any(path.iterdir()))
    if taken and not overwrite:
        raise HcvizError(
            f"{path} already exists. Choose another folder, or overwrite it with --overwrite."
        )


def check_name(path: Path) -> None:
    """Refuse a path beside which nothing can be written and renamed to it.

    Raises:
        HcvizError: If it ends in no name, or in one that the system cannot write.
    """
    try:
        odd = path.name in ("", "..") or b"\0" in os.fsencode(path.name)
    except UnicodeEncodeError:
        odd = True
    if odd:
        said = f"{str(path)!r} has no name of its own to be written under"
        raise HcvizError(f"{said}. Choose a name.")


def printable(text: str | Path) -> str:
    """Return a text with what is no letter of UTF-8, as in some names of files, written out."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def full_disk(error: BaseException | None) -> BaseException | None:
    """Return what, among an error and its causes, says that a disk is full; None if nothing does.

    Example:
        >>> full_disk(OSError(28, "No space left on device")) is not None
        True
    """
    found = None
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(word in str(error) for word in SAID):
            found = error
        error = error.__cause__ or error.__context__
    return found


@contextlib.contextmanager
def needing_room(path: str | Path) -> Iterator[None]:
    """Say what to do where the disk gets full inside the block, which writes ``path``.

    Raises:
        HcvizError: In place of whatever a library makes of it.
    """
    try:
        yield
    except HcvizError:
        raise
    except Exception as error:
        if (cause := full_disk(error)) is None:
            raise
        raise HcvizError(
            f"{path} cannot be written: the disk is full ({cause}). Make room and run the same "
            "command again."
        ) from error


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep a path to this process inside the block; another one that comes to it is refused.

    The lock is the system's, which lets go of it when a process dies: a crash leaves nothing stuck.
    Its file lies hidden beside the path, or, where nothing can be written there, in the folder for
    temporary files. On a disk that knows no locks there is none.

    Raises:
        HcvizError: If another process holds it, or nothing can be written there.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp()) / "run"):
        ...     pass
    """
    place = Path(path).resolve()
    mark = place.with_name(f".tmp-{place.name}.lock")
    if os.path.exists(place) and not os.access(place.parent, os.W_OK):
        name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        mark = Path(tempfile.gettempdir(), f"hcviz-{name}.lock")
    lock = FileLock(mark, fallback_to_soft=False)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):  # Windows lets nobody read it
            holder = mark.read_text(encoding="utf-8")
        raise HcvizError(
            f"{path} is being written by another process{holder and f' ({holder})'}. Wait until it "
            "has ended, or stop it, and run the same command again; or choose another folder."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise HcvizError(
                f"Cannot write beside {path}: {error}. Choose a writable place."
            ) from error
    try:
        with contextlib.suppress(OSError):
            mark.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
        lock.release()


@contextlib.contextmanager
def fresh_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` only if the block succeeds.

    Args:
        path: The folder to make.
        overwrite: Replace an existing one; it is kept until the new one is whole.

    Raises:
        HcvizError: If ``path`` has no name of its own (``..``), is taken or being written, or its
            parent cannot be written.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "result"
        >>> with fresh_folder(out) as folder:
        ...     _ = (folder / "answer.txt").write_text("42")
        >>> (out / "answer.txt").read_text()
        '42'
    """
    path = Path(path)
    check_name(path)
    with locked(path):
        check_free(path, overwrite=overwrite)
        scratch = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            raise HcvizError(
                f"Cannot write beside {path}: {error}. Choose a writable place."
            ) from error
        try:
            with needing_room(path):
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

    Raises:
        HcvizError: If the disk is full, or nothing can be written there.
    """
    with fresh_files(path) as (scratch,):
        yield scratch


@contextlib.contextmanager
def fresh_files(*paths: str | Path) -> Iterator[list[Path]]:
    """Yield temporary siblings that become ``paths`` together, and only if the block succeeds.

    They are renamed in order; where one cannot be, those before get back what they held.

    Raises:
        HcvizError: If a path has no name of its own, the disk is full, or nothing can be written
            there.
    """
    mark, places = uuid.uuid4().hex[:8], [Path(path) for path in paths]
    for path in places:
        check_name(path)
    scratch = [path.with_name(f".tmp-{mark}-{path.name}") for path in places]
    before = [path.with_name(f".tmp-old-{mark}-{path.name}") for path in places[:-1]]
    try:
        with needing_room(places[0]):
            for path in places:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield scratch
            for path, old in zip(places, before, strict=False):
                if path.exists():
                    try:
                        os.link(path, old)
                    except OSError:  # some disks know one name for a file only
                        shutil.copy2(path, old)
            _rename(scratch, places, before)
    except OSError as error:
        raise HcvizError(
            f"{places[0]} cannot be written: {error}. Choose a writable place."
        ) from error
    finally:
        for path in scratch + before:
            with contextlib.suppress(OSError):
                path.unlink()


def _rename(scratch: list[Path], places: list[Path], before: list[Path]) -> None:
    """Rename files in order, all or none; ``before`` holds what was in all places but the last."""
    done = 0
    try:
        for one, path in zip(scratch, places, strict=True):
            one.replace(path)
            done += 1
    except BaseException:
        for path, old in zip(places[:done], before, strict=False):
            old.rename(path) if old.exists() else path.unlink()
        raise


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
    while not os.path.exists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise HcvizError(
            f"{what} needs {needed / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB free. "
            "Free some space or choose another disk."
        )

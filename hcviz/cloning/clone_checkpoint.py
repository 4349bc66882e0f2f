"""clone_checkpoint(): a checkpoint in, a wider one out; neither model is ever in memory."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import get_torch_storage_size, split_state_dict_into_shards_factory

from hcviz.architecture.infer import tensors
from hcviz.cloning.card import card
from hcviz.cloning.transfer import Transfer
from hcviz.cloning.verify import Report, verify
from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.checkpoint import stamp, weight_files
from hcviz.io.files import (
    check_free,
    check_space,
    locked,
    needing_room,
    open_to_readers,
    replace_folder,
    write_text,
)
from hcviz.io.parameters import takes
from hcviz.io.process import device_of, quiet, surroundings
from hcviz.io.sources import folder_of, read_model
from hcviz.widening.request import CloneRequest

NOTE = "unfinished.json"
"""What a hidden folder is for; it is removed when all is there."""
CHECKS = ("auto", "full", "twin")


@dataclass(frozen=True)
class Written:
    """What :func:`clone_checkpoint` did."""

    path: Path | None
    """The folder of the clone; None if it failed its report card and was not kept."""
    report: Report | None
    """The report card of the pair, read back from disk; None if only the twin was checked."""
    parameters: tuple[int, int]
    """Of the source and of the clone."""


@takes(CloneRequest)
def clone_checkpoint(
    src: str | Path,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: str | int = "5GB",
    check: str = "auto",
    device: str = "cpu",
    keep_failed: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
    request: CloneRequest,
) -> Written:
    """Widen a checkpoint tensor by tensor; the files are those of cloning in memory and saving.

    Memory holds the largest tensor and twice what it grows to, whatever the model's size. Shards
    appear one by one in a hidden folder beside ``out``, which is renamed at the end: the same call
    goes on where it was interrupted.

    Args:
        src: A folder, a hub id, or ``nano:NAME``.
        out: The folder to make: weights, index, configuration, tokenizer, and a card (README.md).
        dtype: Cast the source to it first; as stored if None.
        max_shard_size: The largest file, such as ``"5GB"``.
        check: ``full`` compares source and clone as :func:`hcviz.verify` does, ``twin`` only a tiny
            random twin of the configuration; ``auto`` is full where both models fit in half of the
            memory that is free.
        device: Where to compare them.
        keep_failed: Keep a clone whose report card failed.
        overwrite: Replace ``out`` if it exists.
        trust_remote_code: Run code that comes with the model.
        progress: Show a bar.
        request: {options}

    Raises:
        CloneError: If an option is wrong, or the architecture or its checkpoint not understood.
        HcvizError: If something cannot be read or written, the disk is too small, or another
            process writes ``out``.

    Example:
        >>> import tempfile
        >>> done = clone_checkpoint("nano:llama", tempfile.mkdtemp(), hidden=2, progress=False)
        >>> done.report.passed, done.parameters
        (True, (1000576, 3475712))
    """
    out = Path(out)
    if check not in CHECKS:
        raise HcvizError(f"check={check!r} is unknown. Choose one of {', '.join(CHECKS)}.")
    device_of(device)
    with locked(out), needing_room(out):
        check_free(out, overwrite=overwrite)
        place = folder_of(src, trust_remote_code=trust_remote_code)
        with _hashing(weight_files(place)) as hashes:
            with quiet():
                transfer = Transfer(place, dtype, trust_remote_code, request)
            transfer.plan.config.hcviz["source"] = str(src)
            split = _split(transfer.outputs, max_shard_size)
            asked = {
                "recipe": transfer.plan.config.hcviz,
                "dtype": str(transfer.dtype),
                "max_shard_size": max_shard_size,
                "source": stamp(place),
                "versions": surroundings()["versions"],
            }
            folder = _workplace(out, asked)
            there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            check_space(out, split.metadata["total_size"] - there, f"The clone in {out}")
            transfer.write(folder, split.filename_to_tensors, progress)
            hashes = {name: future.result() for name, future in hashes.items()}
        transfer.write_rest(place, folder, split)
        report = None
        count = sum(tensor.numel() for model in transfer.pair for tensor in tensors(model).values())
        size, free = count * transfer.dtype.itemsize, psutil.virtual_memory().available
        if check == "full" or (check == "auto" and 2 * size < free):
            exact = 2 * size + 8 * transfer.parameters[1] < free
            try:
                report = _compare(place, folder, transfer.dtype, device, exact, trust_remote_code)
            except HcvizError:  # these two cannot be compared, now or later
                shutil.rmtree(folder)
                raise
            if not (report.passed or keep_failed):
                shutil.rmtree(folder)
                return Written(None, report, transfer.parameters)
        write_text(folder / "README.md", card(src, place, out, transfer, report, hashes))
        (folder / NOTE).unlink()
        open_to_readers(folder)
        replace_folder(folder, out)
        return Written(out, report, transfer.parameters)


def _split(tensors: dict[str, torch.Tensor], max_shard_size: str | int):
    """Say which tensor goes into which file, as ``save_pretrained`` does."""
    try:
        if re.match(r"\s*-|\s*0+\D*$", str(max_shard_size)):
            raise ValueError("no file is that small")
        return split_state_dict_into_shards_factory(
            tensors,
            get_storage_size=get_torch_storage_size,
            get_storage_id=lambda tensor: tensor.untyped_storage()._cdata,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise HcvizError(
            f"max_shard_size={max_shard_size!r}: {error}. Say 5GB, or 500MB."
        ) from error


@contextlib.contextmanager
def _hashing(files: Iterable[Path]) -> Iterator[dict[str, Future[str]]]:
    """Compute the SHA-256 of files beside what the block does; what is left at its end is dropped.

    Yields:
        By the files' names.
    """
    ended, memory = threading.Event(), bytearray(2**20)

    def sha256(path: Path) -> str:
        if sys.platform == "linux":  # where cores are few, it gives way to the writing
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while not ended.is_set() and (got := file.readinto(memory)):
                digest.update(memoryview(memory)[:got])
        return digest.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield {path.name: pool.submit(sha256, path) for path in files}
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _workplace(out: Path, request: dict[str, Any]) -> Path:
    """Make the hidden folder beside ``out``, or find in it what the same request has left."""
    folder, request = out.parent / f".tmp-{out.name}-clone", json.loads(json.dumps(request))
    before = {}
    with contextlib.suppress(HcvizError):
        before = forms.read(folder / NOTE, dict, "")
    if before != request and folder.exists():
        changed = ", ".join(key for key in request if before.get(key) != request[key])
        warnings.warn(
            f"{folder} holds an unfinished clone with another {changed}; starting again.",
            stacklevel=3,
        )
        shutil.rmtree(folder)
    try:
        write_text(folder / NOTE, json.dumps(request, indent=2))
        for part in folder.glob("*.part"):
            part.unlink()
    except OSError as error:
        raise HcvizError(f"Cannot write beside {out}: {error}. Choose a writable place.") from error
    return folder


def _compare(place, folder, dtype, device, float64: bool, trust_remote_code: bool) -> Report:
    """Compare source and clone, both read from disk by the stock class."""
    pair = [
        read_model(where, dtype=dtype, trust_remote_code=trust_remote_code).to(device)
        for where in (place, folder)
    ]
    with forms.naming(place):
        return verify(*pair, float64=float64, reload=False)

"""Shards written in place, past the system's memory, while the tensors that come next are made."""

import contextlib
import errno
import itertools
import json
import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from safetensors.torch import save

from hcviz.errors import HcvizError

METADATA = {"format": "pt"}
BLOCK = 4096
"""Bytes. Whole blocks of a file can go straight to the disk."""
WINDOW = 2**23
"""Bytes that go there at once. Smaller tensors go as usual."""
Job, Part = TypeVar("Job"), TypeVar("Part")


def made_ahead(make: Callable[[Job], Part], jobs: Iterable[Job]) -> Iterator[Part]:
    """Yield what a function makes of each job; a thread makes the next while one is used.

    There are never more than two, so that two pieces of memory in turn will do (see :func:`taken`).
    """
    jobs = iter(jobs)
    with ThreadPoolExecutor(1) as pool:
        futures = deque(pool.submit(make, job) for job in itertools.islice(jobs, 1))
        while futures:
            part = futures.popleft().result()
            futures.extend(pool.submit(make, job) for job in itertools.islice(jobs, 1))
            yield part
            del part  # or it would stay while the one after the next is made


def taken(memory: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return a function that takes tensors from memory (bytes) as ``torch.empty`` does.

    Clearing new memory takes Linux as long as filling it; this may be used again.
    """
    end = 0

    def empty(shape, dtype: torch.dtype, device=None) -> torch.Tensor:
        nonlocal end
        start = -(-end // BLOCK) * BLOCK
        end = start + math.prod(shape) * dtype.itemsize
        return memory[start:end].view(dtype).view(shape)

    return empty


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor], parts: Iterable[dict]) -> None:
    """Write a safetensors file tensor by tensor: the bytes that ``safetensors`` writes at once.

    Args:
        path: The file; it appears by rename when it is whole.
        tensors: Names, shapes and dtypes of all its tensors, on the meta device.
        parts: Dictionaries of tensors, in any order; those that belong elsewhere are passed over.

    Raises:
        HcvizError: If the parts do not fill it.
    """
    head, places = _header(tensors)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    missing = set(tensors)
    try:
        with scratch.open("wb") as file, _past_memory(scratch) as past:
            file.write(head)
            file.truncate(len(head) + sum(t.numel() * t.element_size() for t in tensors.values()))
            for part in parts:
                for name in missing & part.keys():
                    flat = part[name].cpu().contiguous().reshape(-1).view(torch.uint8)
                    _put(file, past, places[name], flat.numpy())
                missing -= part.keys()
                del part  # or it would stay while the next ones are made
        if missing:
            raise HcvizError(f"{path.name} lacks {min(missing)}, which nothing made.")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _past_memory(path: Path) -> Iterator[Callable[[np.ndarray, int], int] | None]:
    """Yield what writes whole blocks straight to the disk; None where the system cannot."""
    past, window = None, np.frombuffer(mmap.mmap(-1, WINDOW), np.uint8)  # in whole blocks of memory
    with contextlib.suppress(AttributeError, OSError):  # not on macOS and Windows, not every disk
        past = os.open(path, os.O_WRONLY | os.O_DIRECT)

    def write(data: np.ndarray, at: int) -> int:
        part = window[: len(data) // BLOCK * BLOCK]
        part[:] = data[: len(part)]
        return os.pwrite(past, part, at)

    try:
        yield write if past is not None else None
    finally:
        if past is not None:
            os.close(past)


def _put(file: BinaryIO, past: Callable | None, at: int, data: np.ndarray) -> None:
    """Write bytes at their place; whole blocks of large ones past the system's memory."""
    start = end = -at % BLOCK
    try:
        while past and len(data) >= WINDOW and end + BLOCK <= len(data):
            end += past(data[end : end + WINDOW], at + end)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which says that this disk wants other blocks
            raise
    for first, rest in ((0, data[:start]), (end, data[end:])):
        file.seek(at + first)
        file.write(rest)


def _header(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return the head of a safetensors file and where in it each tensor's bytes start.

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
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + start for name, start in starts.items()}

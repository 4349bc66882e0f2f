"""Shards written in place, while the tensors that follow are made in memory that is used again."""

import contextlib
import errno
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from safetensors.torch import save

from hcviz.errors import HcvizError

METADATA = {"format": "pt"}
BLOCK = 4096
"""Bytes. Whole blocks of a file that are whole blocks of memory can go straight to the disk."""
LARGE = 2**20
"""Bytes from which that is worth it."""
Job, Part = TypeVar("Job"), TypeVar("Part")


class Ring:
    """Memory in which one thread makes parts of files while another writes those before.

    It is used again and again: clearing new memory takes Linux as long as filling it.

    Args:
        size: Bytes, at least those of the largest part. They are taken as far as they are used.
    """

    def __init__(self, size: int):
        """Reserve the memory."""
        self._memory = torch.empty(size, dtype=torch.uint8)
        self._next, self._closed = 0, False
        self._parts: deque[tuple[int, int]] = deque()
        self._changed = threading.Condition()

    def begin(self, size: int) -> None:
        """Begin a part of so many bytes (see :func:`room`), once they are free."""

        def free() -> bool:
            return self._closed or all(
                end <= first or first + size <= start for start, end in self._parts
            )

        with self._changed:
            first = self._parts[-1][1] if self._parts else 0
            first = first if first + size <= len(self._memory) else 0
            self._changed.wait_for(free)
            if self._closed:
                raise CancelledError
            self._parts.append((first, first + size))
            self._next = first

    def empty(self, shape, dtype: torch.dtype, device=None, at: int = 0) -> torch.Tensor:
        """Return a tensor of the part that was begun, as ``torch.empty`` does.

        Args:
            shape: Its shape.
            dtype: Its dtype.
            device: Ignored; the memory is the processor's.
            at: Its place in a file: blocks of the file are then blocks of memory, too.
        """
        first, size = self._next, math.prod(shape) * dtype.itemsize
        first += (at - self._memory.data_ptr() - first) % BLOCK
        self._next = first + size
        return self._memory[first : first + size].view(dtype).view(shape)

    def release(self) -> None:
        """Give back the memory of the oldest part."""
        with self._changed:
            self._parts.popleft()
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def room(sizes: Iterable[int]) -> int:
    """Return how many bytes of a ring tensors take at the most, wherever each has to start."""
    return sum(size + BLOCK for size in sizes)


def made_ahead(make: Callable[[Job], Part], jobs: Iterable[Job], ring: Ring) -> Iterator[Part]:
    """Yield what a function makes of each job, made in a thread of its own as far as there is room.

    Args:
        make: Begins one part of the ring.
        jobs: What it is given, one after the other.
        ring: A part's memory is given back when the next part is asked for.
    """
    with ThreadPoolExecutor(1) as pool:
        futures = deque(pool.submit(make, job) for job in jobs)
        try:
            while futures:
                yield futures.popleft().result()
                ring.release()
        finally:
            ring.close()
            pool.shutdown(cancel_futures=True)


def write_shard(
    path: Path, tensors: Mapping[str, torch.Tensor], parts: Iterable[dict], *, direct: bool = False
) -> None:
    """Write a safetensors file tensor by tensor: the bytes that ``safetensors`` writes at once.

    Args:
        path: The file; it appears by rename when it is whole.
        tensors: Names, shapes and dtypes of all its tensors, on the meta device.
        parts: Dictionaries of tensors, in any order; those that belong elsewhere are passed over.
        direct: Do not let the system keep the file in memory, as far as it can and the tensors lie
            in memory as :meth:`Ring.empty` places them. That halves the work of writing.

    Raises:
        HcvizError: If the parts do not fill it.
    """
    head, places = header_of(tensors)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    missing = set(tensors)
    try:
        with scratch.open("wb") as file, _past_memory(scratch if direct else None) as past:
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
def _past_memory(path: Path | None) -> Iterator[int | None]:
    """Open a file for writing blocks straight to the disk; None where the system cannot."""
    past = None
    with contextlib.suppress(AttributeError, OSError):  # not on macOS and Windows, not every disk
        past = path and os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        yield past
    finally:
        if past is not None:
            os.close(past)


def _put(file: BinaryIO, past: int | None, at: int, data: np.ndarray) -> None:
    """Write bytes at their place: whole blocks straight to the disk, if they may be."""
    first = end = -at % BLOCK
    last = first + (len(data) - first) // BLOCK * BLOCK
    if past is None or last - first < LARGE or (data.ctypes.data - at) % BLOCK:
        first = end = last = 0
    try:
        while end < last:
            end += os.pwrite(past, data[end : min(last, end + 2**30)], at + end)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which says that this disk wants other blocks
            raise
    for start, rest in ((at, data[:first]), (at + end, data[end:])):
        file.seek(start)
        file.write(rest)


def header_of(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
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

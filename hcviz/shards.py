"""Shards written in place, while the tensors that follow are made in memory that is used again."""

import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save

from hcviz.errors import HcvizError

METADATA = {"format": "pt"}
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
        first = self._next if self._next + size <= len(self._memory) else 0

        def free() -> bool:
            return self._closed or all(
                end <= first or first + size <= start for start, end in self._parts
            )

        with self._changed:
            self._changed.wait_for(free)
            if self._closed:
                raise CancelledError
            self._parts.append((first, first + size))
            self._next = first

    def empty(self, shape, dtype: torch.dtype, device=None) -> torch.Tensor:
        """Return a tensor of the part that was begun, as ``torch.empty`` does."""
        first, size = self._next, math.prod(shape) * dtype.itemsize
        self._next += room([size])
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
    """Return how many bytes of a ring tensors take, each starting well."""
    return sum(-(-size // 64) * 64 for size in sizes)


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


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor], parts: Iterable[dict]) -> None:
    """Write a safetensors file tensor by tensor: the bytes that ``safetensors`` writes at once.

    Args:
        path: The file; it appears by rename when it is whole.
        tensors: Names, shapes and dtypes of all its tensors, on the meta device.
        parts: Dictionaries of tensors, in any order; those that belong elsewhere are passed over.

    Raises:
        HcvizError: If the parts do not fill it.
    """
    head, starts = _header(tensors)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    missing = set(tensors)
    try:
        with scratch.open("wb") as file:
            file.write(head)
            for part in parts:
                for name in missing & part.keys():
                    file.seek(len(head) + starts[name])
                    file.write(part[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
                missing -= part.keys()
                del part  # or it would stay while the next ones are made
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
